"""Stable-Baselines3's tests of parameters, files and environments, asked of LLMDPD."""

import io
import os
import tempfile
import zipfile
from collections import OrderedDict
from copy import deepcopy
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch as th
from factories import differing, model_of, recorded, snapshot
from numpy.testing import assert_allclose, assert_array_equal
from stable_baselines3.common.envs import FakeImageEnv, IdentityEnvBox
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import DummyVecEnv
from toys import SpacesEnv

from sb3_llmdpd import LLMDPD

Parameters = dict[str, dict[str, Any]]


def identity_envs(n_envs: int = 1) -> DummyVecEnv:
    return DummyVecEnv([lambda: IdentityEnvBox(-10, 10)] * n_envs)


def identity_model(**kwargs: Any) -> LLMDPD:
    return model_of(identity_envs(), **{"learning_rate": 1e-3, **kwargs})


def without_the_last_entry(state: dict[str, Any]) -> OrderedDict[str, Any]:
    return OrderedDict(list(state.items())[:-1])


def saved(folder: Path, **kwargs: Any) -> tuple[LLMDPD, Path]:
    """A model after two steps, and its file."""
    model = identity_model(**kwargs).learn(2)
    model.save(folder / "model.zip")
    return model, folder / "model.zip"


def act(model: LLMDPD) -> np.ndarray:
    observations = np.random.default_rng(1).uniform(-10, 10, (10, 1)).astype(np.float32)
    return model.predict(observations, deterministic=True)[0]


def with_an_unknown_part(parameters: Parameters) -> dict[str, Any]:
    return {**parameters, "no_such_part": "no such tensors"}


def without_an_entry_of_each_part(parameters: Parameters) -> dict[str, Any]:
    return {part: without_the_last_entry(state) for part, state in parameters.items()}


@pytest.mark.parametrize(
    ("change", "exact_match", "error"),
    [
        (with_an_unknown_part, True, ValueError),
        (with_an_unknown_part, False, ValueError),
        (without_the_last_entry, True, ValueError),
        (without_an_entry_of_each_part, True, RuntimeError),
    ],
)
def test_parameters_that_do_not_match_are_refused_and_change_nothing(change, exact_match, error):
    """Answers `test_save_load.py::test_save_load`: unknown parts, and parts or entries that are missing."""
    model = identity_model().learn(2)
    before = deepcopy(model.get_parameters())
    other = {**before, "policy": {name: 2 * tensor for name, tensor in before["policy"].items()}}
    with pytest.raises(error):
        model.set_parameters(change(other), exact_match=exact_match)
    assert differing(model.policy, before["policy"]) == set()


def test_without_an_exact_match_what_is_named_is_replaced_and_the_rest_stays():
    """Answers `test_save_load.py::test_save_load`: all entries of the policy but the last become random."""
    model = identity_model().learn(2)
    before = snapshot(model.policy)
    random = {name: th.rand_like(tensor) for name, tensor in without_the_last_entry(before).items()}
    model.set_parameters({**model.get_parameters(), "policy": random}, exact_match=False)
    after = model.policy.state_dict()
    assert {
        name for name in before if th.allclose(before[name], after[name])
    } == before.keys() - random.keys()
    assert differing(random, after) == set()


@pytest.mark.filterwarnings("ignore:`device` is 'cuda'")
@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_a_saved_model_comes_back_on_any_device_and_learns_on(tmp_path, device):
    """Answers `test_save_load.py::test_save_load`: parameters, device, actions, and that `learn` works."""
    model = identity_model().learn(4)
    random = {name: th.rand_like(tensor) for name, tensor in model.policy.state_dict().items()}
    model.set_parameters({"policy": random}, exact_match=False)
    model.save(tmp_path / "model.zip")

    env = identity_envs()
    loaded = LLMDPD.load(str(tmp_path / "model.zip"), env=env, device=device, dataset=recorded(env))
    tensors = loaded.policy.state_dict()
    devices = {loaded.device.type, loaded.policy.device.type, *(t.device.type for t in tensors.values())}
    assert devices == {get_device(device).type}
    assert differing(random, tensors) == set()
    assert_allclose(act(loaded), act(model), rtol=1e-4)
    assert loaded.learn(4).num_timesteps == 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_model_whose_policy_was_compiled_is_saved_and_loaded(tmp_path):
    """Answers `test_save_load.py::test_save_load`: the end, for SB3's issue 2137."""
    model = identity_model().learn(2)
    actions = act(model)
    model.policy = th.compile(model.policy)
    model.save(tmp_path / "model.zip")
    assert_array_equal(act(LLMDPD.load(tmp_path / "model.zip", device="cpu")), actions)


def test_arguments_can_be_left_out_included_again_and_replaced(tmp_path, capsys):
    """Answers `test_save_load.py::test_exclude_include_saved_params`."""
    model = identity_model(verbose=2)
    model.save(tmp_path / "model", exclude=["verbose"])
    assert LLMDPD.load(str(tmp_path / "model.zip")).verbose == 0

    model.save(tmp_path / "model", exclude=["verbose"], include=["verbose"])
    capsys.readouterr()
    replaced = dict(learning_rate=2e-5, dummy=1.0)
    loaded = LLMDPD.load(str(tmp_path / "model.zip"), custom_objects=replaced, print_system_info=True)
    assert "PyTorch" in capsys.readouterr().out
    assert (loaded.verbose, loaded.learning_rate) == (2, 2e-5)
    assert loaded.lr_schedule(1.0) == 2e-5
    assert not hasattr(loaded, "dummy")


def test_a_model_of_images_is_loaded_with_its_environment_and_learns_on(tmp_path):
    """Answers `test_save_load.py::test_save_load_env_cnn`: channels come first, and `policy_kwargs` fit."""
    env = FakeImageEnv(screen_height=40, screen_width=40, n_channels=2, discrete=False)
    policy_kwargs = dict(features_extractor_kwargs=dict(features_dim=8))
    model = model_of(env, policy="CnnPolicy", policy_kwargs=policy_kwargs).learn(2)
    model.save(tmp_path / "model")
    arguments = {key: value for key, value in model.policy_kwargs.items() if key != "text_dim"}
    parts = dict(env=env, dataset=recorded(env), policy_kwargs=arguments)
    loaded = LLMDPD.load(str(tmp_path / "model.zip"), **parts)
    assert loaded.observation_space.shape == (2, 40, 40)
    assert loaded.learn(2).num_timesteps == 2


def test_default_widths_come_back_where_none_were_named(tmp_path):
    """Answers `test_save_load.py::test_save_load_net_arch_none`."""
    _, path = saved(tmp_path, policy_kwargs=dict(net_arch=None))
    loaded = LLMDPD.load(path)
    layers = [layer for layer in loaded.actor.denoiser.modules() if isinstance(layer, th.nn.Linear)]
    widths = [layer.out_features for layer in layers]
    assert loaded.policy_kwargs["net_arch"] is None
    assert loaded.policy.net_arch == [256, 256, 256]
    assert widths.count(256) >= 3


def test_a_file_beyond_the_classic_limit_of_zip_is_written_and_read(tmp_path, monkeypatch):
    """Answers `test_save_load.py::test_save_load_large_model`: the limit of 2 GiB comes down to the model."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1_000)
    model, path = saved(tmp_path)
    loaded = LLMDPD.load(str(path), env=identity_envs(), device="cpu")
    assert_array_equal(act(loaded), act(model))


@pytest.mark.parametrize(
    "copied", [deepcopy, lambda model: cloudpickle.loads(cloudpickle.dumps(model))], ids=["copy", "pickle"]
)
def test_a_model_can_be_copied_and_both_go_on_alike(copied):
    """Beyond `test_save_load.py::test_save_load`: every algorithm of SB3 can be copied, with its data."""
    model = identity_model().learn(2)
    copy = copied(model)
    for made in (model, copy):
        made.learn(2, reset_num_timesteps=False)
    assert differing(model.policy, copy.policy) == set()
    assert copy.actor is copy.policy.actor is not model.actor
    copy.learn(1)
    assert differing(model.actor, copy.actor)


def test_a_schedule_gives_plain_floats_before_and_after_loading(tmp_path):
    """Answers `test_save_load.py::test_cast_lr_schedule`; files hold no code: a function is passed again."""

    def schedule(progress: float) -> Any:
        return progress * np.sin(1.0)

    model, path = saved(tmp_path, learning_rate=schedule)
    for made in (model, LLMDPD.load(path, custom_objects=dict(learning_rate=schedule))):
        assert type(made.lr_schedule(1.0)) is float
        assert made.lr_schedule(0.5) == pytest.approx(0.5 * np.sin(1.0))


def test_an_object_that_cannot_be_loaded_is_named_with_its_remedy(tmp_path):
    """Answers `test_save_load.py::test_load_invalid_object`; SB3 warns and goes on with a broken model."""
    _, path = saved(tmp_path, learning_rate=lambda _: 1.0)
    with pytest.raises(ValueError, match=r"`learning_rate`.*custom_objects"):
        LLMDPD.load(path)
    loaded = LLMDPD.load(path, custom_objects=dict(learning_rate=lambda _: 1.0))
    assert loaded.lr_schedule(0.5) == 1.0


@pytest.mark.parametrize("path", [3, None, ["model.zip"], 1.5], ids=repr)
def test_what_is_no_path_and_no_file_is_refused(path):
    """Answers `test_save_load.py::test_open_file`: neither `save` nor `load` guesses."""
    for use in (identity_model().save, LLMDPD.load):
        with pytest.raises((TypeError, ValueError)):
            use(path)


def test_a_file_of_the_wrong_mode_or_closed_is_refused(tmp_path):
    """Answers `test_save_load.py::test_open_file`."""
    closed = io.BytesIO()
    closed.close()
    written = (tmp_path / "model.zip").open("wb")
    with written, pytest.raises(ValueError, match="not a whole model file"):
        LLMDPD.load(written)
    for target in (closed, written):
        with pytest.raises(ValueError, match="closed file"):
            identity_model().save(target)


def test_a_file_that_is_no_zip_is_refused_in_sb3s_words(tmp_path):
    """Answers `test_save_load.py::test_load_bad_zip`."""
    (tmp_path / "model.zip").write_text("this is no zip")
    with pytest.raises(ValueError, match=r"model\.zip is not a whole model file .*wasn't a zip-file"):
        LLMDPD.load(tmp_path / "model.zip")


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_path_is_a_string_or_a_path_and_gets_its_suffix_once(tmp_path, as_path):
    """Answers `test_save_load.py::test_open_file_str_pathlib`."""
    model = identity_model()
    for given in ("one", "two.zip", "three.own"):
        model.save(as_path(tmp_path / given))
        assert LLMDPD.load(as_path(tmp_path / given)).learning_rate == 1e-3
    assert sorted(os.listdir(tmp_path)) == ["one.zip", "three.own", "two.zip"]


def test_files_are_closed_but_those_of_the_caller_stay_open(tmp_path, recwarn):
    """Answers `test_save_load.py::test_no_resource_warning`."""
    model = identity_model()
    for path in (tmp_path / "model", str(tmp_path / "model")):
        model.save(path)
        LLMDPD.load(path, device="cpu")
        model.save_replay_buffer(path)
        model.load_replay_buffer(path)
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as buffer_file:
        model.save(file)
        LLMDPD.load(file, device="cpu")
        model.save_replay_buffer(buffer_file)
        buffer_file.seek(0)
        model.load_replay_buffer(buffer_file)
        assert not file.closed
        assert not buffer_file.closed
    assert len(recwarn) == 0


def counting_env() -> SpacesEnv:
    env = IdentityEnvBox(-10, 10)
    return SpacesEnv(env.observation_space, env.action_space)


def test_an_environment_can_be_exchanged_for_another_of_its_kind():
    """Answers `test_save_load.py::test_set_env`, the model's half."""
    model = model_of(identity_envs()).learn(3)
    model.set_env(identity_envs(), force_reset=True)
    assert model._last_obs is None
    assert model.learn(3, reset_num_timesteps=True).num_timesteps == 3
    model.set_env(counting_env())
    model.learn(3)
    model.set_env(identity_envs(2))  # SB3 refuses it, since its rollouts depend on the number; steps do not
    assert model.n_envs == 2
    model.learn(3)
    model.set_env(model.get_env(), force_reset=False)
    assert model._last_obs is not None
    assert model.learn(3, reset_num_timesteps=False).num_timesteps == 6


@pytest.mark.parametrize("force_reset", [True, False])
def test_a_loaded_model_goes_on_counting_beside_the_environment_of_before_or_another(tmp_path, force_reset):
    """Answers `test_save_load.py::test_set_env`, the file's half; no step leaves a last observation."""
    env = counting_env()
    model = model_of(env).learn(3)
    model.save(tmp_path / "model.zip")
    parts = dict(force_reset=force_reset, dataset=model.replay_buffer, device="cpu")
    for environment in (model.get_env(), counting_env()):
        loaded = LLMDPD.load(tmp_path / "model.zip", env=environment, **parts)
        assert loaded._last_obs is None
        assert loaded.learn(3, reset_num_timesteps=False).num_timesteps == 6
    assert env.n_steps == 0


def test_a_model_can_be_loaded_with_another_number_of_environments(tmp_path):
    """Answers `test_save_load.py::test_set_env`, the end."""
    _, path = saved(tmp_path)
    loaded = LLMDPD.load(path, env=identity_envs(2), dataset=recorded(identity_envs()))
    assert loaded.n_envs == 2
    assert loaded.learn(2).num_timesteps == 2
