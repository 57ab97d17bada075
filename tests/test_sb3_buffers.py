"""Stable-Baselines3's tests of replay buffers, asked of PromptReplayBuffer; each says what it answers."""

import io
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from factories import differing, model_of, recorded, tiny_model
from gymnasium import spaces
from numpy.testing import assert_array_equal
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.envs import IdentityEnvBox
from stable_baselines3.common.save_util import save_to_pkl
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from toys import ActionEnv, SpacesEnv

from sb3_llmdpd import LLMDPD, PromptReplayBuffer

ACTIONS = spaces.Box(1.0, 5.0, (1,), np.float32)
DTYPES = [np.dtype(f"{kind}{size}").type for kind in ("uint", "int") for size in (8, 16, 32, 64)]
DTYPES += [np.float16, np.float32, np.float64]
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not th.cuda.is_available(), reason="there is no GPU"))


def identity_model(**kwargs: Any) -> LLMDPD:
    return model_of(IdentityEnvBox(-10, 10), **kwargs)


def tensors(batch: Any) -> list[th.Tensor]:
    """All tensors of a batch, through dicts and tuples."""
    if isinstance(batch, dict):
        return [tensor for value in batch.values() for tensor in tensors(value)]
    if isinstance(batch, tuple):
        return [tensor for value in batch for tensor in tensors(value)]
    return [] if batch is None else [batch]


def equal(one: Any, other: Any) -> bool:
    return all(th.equal(a.cpu(), b.cpu()) for a, b in zip(tensors(one), tensors(other), strict=True))


def a_file(folder: Path, as_what: str) -> tuple[Any, Callable[[], Any]]:
    """A target to save to, and a function that gives the source to load from."""
    if as_what == "BytesIO":
        file = io.BytesIO()
        return file, lambda: io.BytesIO(file.getvalue())
    path = folder / "logs" / "buffer.pkl"
    path.parent.mkdir()  # SB3 warns where it has to make a folder
    return (str(path), lambda: str(path)) if as_what == "str" else (path, lambda: path)


@pytest.mark.parametrize("as_what", ["str", "Path", "BytesIO"])
@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_saved_buffer_comes_back_whole_on_the_models_device_and_learning_goes_on(tmp_path, as_what, device):
    """Answers `test_save_load.py::test_save_load_replay_buffer`; learning goes on in place of `extend`."""
    model, undisturbed = identity_model(device=device).learn(3), identity_model(device=device).learn(3)
    before = deepcopy(model.replay_buffer)
    target, source = a_file(tmp_path, as_what)
    model.save_replay_buffer(target)
    model.replay_buffer = None
    model.load_replay_buffer(source())
    assert model.replay_buffer.device.type == model.device.type == device
    assert model.replay_buffer.size() == before.size()
    for name in ("observations", "actions", "rewards", "dones", "timeouts"):
        assert_array_equal(getattr(model.replay_buffer, name), getattr(before, name), name)
    assert equal(deepcopy(model.replay_buffer).sample(8), before.sample(8))

    model.learn(3, reset_num_timesteps=False)
    undisturbed.learn(3, reset_num_timesteps=False)
    assert differing(model.policy, undisturbed.policy) == set()


@pytest.mark.parametrize(
    ("saved_on", "loaded_on"), [pytest.param("cuda", "cpu", marks=CUDA.marks), ("cpu", "cuda")]
)
def test_a_buffer_moves_to_the_device_of_the_model_that_loads_it(tmp_path, saved_on, loaded_on):
    """Answers `test_save_load.py::test_save_load_replay_buffer`: SB3's issue 1561."""
    loaded_on = get_device(loaded_on).type
    identity_model(device=saved_on).save_replay_buffer(tmp_path / "buffer")
    model = identity_model(device=loaded_on)
    model.load_replay_buffer(tmp_path / "buffer")
    assert {tensor.device.type for tensor in tensors(model.replay_buffer.sample(8))} == {loaded_on}
    assert model.learn(2).num_timesteps == 2


def test_a_buffer_of_other_spaces_is_refused(tmp_path):
    """Beyond `test_save_load.py::test_save_load_replay_buffer`: SB3 would fail at the next gradient step."""
    tiny_model().save_replay_buffer(tmp_path / "buffer")
    model = identity_model()
    with pytest.raises(ValueError, match="space of the data"):
        model.load_replay_buffer(tmp_path / "buffer")
    assert model.learn(1).num_timesteps == 1


@pytest.mark.parametrize(
    "foreign", [ReplayBuffer(5, ACTIONS, ACTIONS, "cpu"), "no buffer"], ids=["SB3's", "a string"]
)
def test_what_is_no_buffer_of_prompts_is_refused(tmp_path, foreign):
    """Answers `test_save_load.py::test_save_load_replay_buffer`: what SB3's own loading asserts."""
    save_to_pkl(tmp_path / "buffer", foreign)
    with pytest.raises((AssertionError, TypeError, ValueError)):
        identity_model().load_replay_buffer(tmp_path / "buffer")


def test_learning_several_times_warns_of_nothing(recwarn):
    """Answers `test_save_load.py::test_warn_buffer`: no episode is ever cut by a second `learn`."""
    identity_model().learn(2).learn(2, reset_num_timesteps=False).learn(2)
    assert len(recwarn) == 0


@pytest.mark.parametrize("device", ["cpu", "auto", CUDA])
@pytest.mark.parametrize("as_dict", [False, True], ids=["array", "dict"])
def test_every_tensor_of_a_batch_is_on_the_buffers_device(device, as_dict):
    """Answers `test_buffers.py::test_device_buffer`."""
    space = spaces.Box(1.0, 5.0, (1,))
    env = SpacesEnv(spaces.Dict(observation=space, goal=space) if as_dict else space, ACTIONS)
    batch = PromptReplayBuffer(recorded(env), device, prompts_per_batch=2, seed=0).sample(50)
    assert {tensor.device.type for tensor in tensors(batch)} == {get_device(device).type}
    assert len(tensors(batch)) == (14 if as_dict else 11)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("action_dtype", [np.float32, np.float64])
def test_observations_keep_the_type_of_their_space_and_floats_are_single(dtype, action_dtype):
    """Answers `test_buffers.py::test_buffer_dtypes`; the networks read all floats as float32."""
    space = spaces.Dict(obs=spaces.Box(0, 100, dtype=dtype), other=spaces.Box(0, 100, dtype=np.uint8))
    dataset = recorded(SpacesEnv(space, spaces.Box(-1, 1, dtype=action_dtype)))
    batch = PromptReplayBuffer(dataset, "cpu", prompts_per_batch=2, seed=0).sample(64)
    expected = {"obs": np.float32 if np.issubdtype(dtype, np.floating) else dtype, "other": np.uint8}
    for observations in (batch.observations, batch.next_observations, batch.prompts.observations):
        assert {key: value.numpy().dtype for key, value in observations.items()} == expected
    logged = {float(value) for episode in dataset.episodes for value in episode.observations["obs"].ravel()}
    assert {float(value) for value in batch.observations["obs"].ravel()} <= logged
    floats = batch.actions, batch.prompts.actions, batch.rewards, batch.dones
    assert {tensor.dtype for tensor in floats} == {th.float32}


def test_statistics_of_vec_normalize_are_refused_by_the_buffer():
    """Answers `test_buffers.py::test_replay_buffer_normalization`: the policy has statistics of its own."""
    model = tiny_model()
    with pytest.raises(ValueError, match="VecNormalize cannot serve offline"):
        model.replay_buffer.sample(24, env=VecNormalize(DummyVecEnv([ActionEnv])))


@pytest.mark.parametrize("batch_size", [0, -1, -3])
def test_a_batch_of_nothing_is_refused(batch_size):
    with pytest.raises(ValueError, match="batch_size"):
        tiny_model().replay_buffer.sample(batch_size)


def test_a_buffer_of_a_users_own_class_is_used_as_it_is():
    """Answers `test_buffers.py::test_custom_rollout_buffer`: the buffer itself is the argument."""

    class OwnBuffer(PromptReplayBuffer):
        n_samples = 0

        def sample(self, batch_size: int, env: Any = None) -> Any:
            self.n_samples += 1
            return super().sample(batch_size, env)

    dataset = recorded(IdentityEnvBox(-10, 10))
    buffer = OwnBuffer(dataset, "cpu", prompts_per_batch=1, prompt_window=4)
    assert identity_model(dataset=buffer).learn(3).replay_buffer.n_samples == 3
    with pytest.raises(TypeError, match="unexpected keyword argument 'wrong'"):
        OwnBuffer(dataset, "cpu", wrong=1)
