"""Stable-Baselines3's tests of images and target networks, asked of LLMDPD; each says what it answers."""

from typing import Any

import numpy as np
import pytest
import torch as th
from factories import model_of
from gymnasium import spaces
from numpy.testing import assert_array_equal
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecTransposeImage, is_vecenv_wrapped
from toys import SpacesEnv

from sb3_llmdpd import LLMDPD

SMALL = dict(features_extractor_kwargs=dict(features_dim=8))
LEARNING = dict(learning_rate=1e-3, text_dropout=0.5, trajectory_dropout=0.5)
ONLINE, TARGETS = ("actor", "critic"), ("actor_target", "critic_target")


def image_env(channel_first: bool = False, n_channels: int = 1) -> FakeImageEnv:
    return FakeImageEnv(6, 36, 40, n_channels, discrete=False, channel_first=channel_first)


def image_model(env: Any = None, **kwargs: Any) -> LLMDPD:
    return model_of(env or image_env(), policy="CnnPolicy", **{"policy_kwargs": SMALL, "seed": 1, **kwargs})


def parameters(model: LLMDPD, networks: tuple[str, ...]) -> list[th.Tensor]:
    return [p.detach().clone() for name in networks for p in getattr(model, name).parameters()]


def close(one: list[th.Tensor], other: list[th.Tensor]) -> set[bool]:
    """{True} when all are nearly equal, {False} when all differ."""
    return {th.allclose(a, b) for a, b in zip(one, other, strict=True)}


@pytest.mark.parametrize("channel_first", [False, True])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_images_are_learned_from_and_a_loaded_model_sees_the_same(tmp_path, channel_first, n_channels):
    """Answers `test_cnn.py::test_cnn` and `test_channel_first_env`: channels may come first or last."""
    env = image_env(channel_first, n_channels)
    model = image_model(env).learn(2)
    assert is_vecenv_wrapped(model.get_env(), VecTransposeImage) == (not channel_first)
    assert model.observation_space.shape == (n_channels, 36, 40)
    observation, _ = env.reset(seed=0)
    noisy = np.stack([model.predict(observation, deterministic=False)[0] for _ in range(4)])
    assert len(np.unique(noisy, axis=0)) == 4
    assert all(env.action_space.contains(action) for action in noisy)
    action, _ = model.predict(observation, deterministic=True)

    model.save(tmp_path / "model.zip")
    loaded = LLMDPD.load(tmp_path / "model.zip", device="cpu")
    assert_array_equal(loaded.predict(observation, deterministic=True)[0], action)


def test_images_that_were_put_in_order_by_hand_stay_so():
    """Answers `test_cnn.py::test_vec_transpose_skip`: stacked frames, whose channels could be either axis."""
    frames = DummyVecEnv([lambda: FakeImageEnv(6, 41, 40, 10, discrete=False, channel_first=True)])
    env = VecTransposeImage(VecFrameStack(frames, 5, "first"), skip=True)
    model = image_model(env).learn(2)
    observations = env.reset()
    assert model.observation_space.shape == observations.shape[1:] == (50, 41, 40)
    assert model.predict(observations, deterministic=True)[0].shape == (1, 5)


@pytest.mark.parametrize("normalize_images", [True, False])
def test_what_only_looks_like_an_image_is_read_as_it_is_or_refused(normalize_images):
    """Answers `test_cnn.py::test_image_like_input`: floats of an image's shape, without VecNormalize."""
    env = SpacesEnv(spaces.Box(-10.0, 10.0, (1, 36, 36)), spaces.Box(-1.0, 1.0, (2,)))
    policy_kwargs = {**SMALL, "normalize_images": normalize_images}
    if normalize_images:
        with pytest.raises(AssertionError, match="reads images, a Box of three axes, uint8"):
            image_model(env, policy_kwargs=policy_kwargs)
    else:
        assert image_model(env, policy_kwargs=policy_kwargs).learn(2).num_timesteps == 2


@pytest.mark.parametrize(("normalize_images", "largest"), [(True, 1.0), (False, 255.0)])
def test_bytes_are_divided_by_255_unless_told_otherwise(normalize_images, largest):
    """Answers `test_cnn.py::test_image_like_input`: what the argument does to a real image."""
    model = image_model(policy_kwargs={**SMALL, "normalize_images": normalize_images})
    read: list[float] = []
    extractor = model.actor_target.features_extractor
    extractor.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].max().item()))
    model.predict(np.full((36, 40, 1), 255, np.uint8))
    assert set(read) == {largest}  # of the observation alone: nothing stands for no example


def test_target_networks_start_as_copies_and_follow():
    """Answers `test_cnn.py::test_features_extractor_target_net`, the part before and after training."""
    model = image_model(**LEARNING)
    assert close(parameters(model, ONLINE), parameters(model, TARGETS)) == {True}
    for network, target in zip(ONLINE, TARGETS, strict=True):
        online, copied = ({id(p) for p in getattr(model, name).parameters()} for name in (network, target))
        assert not online & copied
    model.learn(12)
    assert close(parameters(model, ONLINE), parameters(model, TARGETS)) == {False}


def test_target_networks_stay_where_nothing_is_copied():
    """Answers `test_cnn.py::test_features_extractor_target_net`: tau of 0, and an average that stays."""
    model = image_model(**LEARNING).learn(1)
    model.tau, model.ema_decay = 0.0, 1.0
    model._n_updates = 10**15  # the average's decay warms up over the updates
    online, targets = parameters(model, ONLINE), parameters(model, TARGETS)
    model.train(gradient_steps=8, batch_size=8)
    assert close(targets, parameters(model, TARGETS)) == {True}
    assert close(online, parameters(model, ONLINE)) == {False}


def test_with_a_learning_rate_of_0_only_the_target_networks_move():
    """Answers `test_cnn.py::test_features_extractor_target_net`: the end."""
    model = image_model(**LEARNING).learn(8)
    model.lr_schedule = model.critic_lr_schedule = lambda _: 0.0
    online, targets = parameters(model, ONLINE), parameters(model, TARGETS)
    model.tau = 0.1
    model.train(gradient_steps=1, batch_size=8)
    assert close(online, parameters(model, ONLINE)) == {True}
    assert close(targets, parameters(model, TARGETS)) == {False}
