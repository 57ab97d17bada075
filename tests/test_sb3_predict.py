"""Stable-Baselines3's tests of predict, asked of LLMDPD; each says which one it answers."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from factories import differing, model_of, snapshot
from gymnasium import spaces
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor
from toys import ActionEnv, SpacesEnv

from sb3_llmdpd import LLMDPD


class OwnBox(spaces.Box):
    """A space of the user's own."""


def own_space_env() -> SpacesEnv:
    return SpacesEnv(OwnBox(-1, 1, (2,), np.float32), OwnBox(-1, 1, (2,), np.float32))


@pytest.mark.parametrize("env", [ActionEnv(), own_space_env()], ids=["constant", "random"])
def test_the_environments_of_these_tests_are_sound(env):
    """Answers `test_predict.py::test_env`, and that of every other file."""
    check_env(env, skip_render_check=True)


PENDULUM = gym.make("Pendulum-v1")


@pytest.mark.parametrize("env", ["Pendulum-v1", PENDULUM, Monitor(PENDULUM)], ids=str)
def test_an_environment_is_vectorised_and_monitored_by_itself(env):
    """Answers `test_predict.py::test_auto_wrap` and `test_utils.py::test_env_auto_monitor_wrap`."""
    model = model_of(env).learn(3)
    assert isinstance(model.get_env(), DummyVecEnv)
    assert model.get_env().env_is_wrapped(Monitor) == [True]


@pytest.mark.filterwarnings("ignore:`device` is 'cuda'")
@pytest.mark.parametrize("device", ["cpu", "cuda", "auto"])
def test_one_observation_gives_one_action_and_those_of_two_environments_two(device):
    """Answers `test_predict.py::test_predict`; a missing GPU means the CPU, as SB3's `get_device` has it."""
    model = model_of("Pendulum-v1", device=device)
    assert model.policy.device.type == get_device(device).type
    env, vec_env = gym.make("Pendulum-v1"), DummyVecEnv([lambda: gym.make("Pendulum-v1")] * 2)
    observation, _ = env.reset(seed=0)
    for deterministic in (False, True):
        action, state = model.predict(observation, deterministic=deterministic)
        assert isinstance(action, np.ndarray)
        assert (action.shape, action.dtype, state) == (env.action_space.shape, env.action_space.dtype, None)
        assert env.action_space.contains(action)

        actions, _ = model.predict(vec_env.reset(), deterministic=deterministic)
        assert actions.shape == (2, 1)
        vec_env.step(actions)


@pytest.mark.slow
def test_environments_in_other_processes_are_acted_in():
    """Answers `test_predict.py::test_predict` for SubprocVecEnv."""
    env = SubprocVecEnv([ActionEnv] * 2)
    try:
        model = model_of(env).learn(2)
        actions, _ = model.predict(env.reset())
        _, rewards, _, _ = env.step(actions)
    finally:
        env.close()
    np.testing.assert_array_equal(rewards, actions[:, 0])


def test_spaces_of_a_users_own_class_are_spaces():
    """Answers `test_predict.py::test_subclassed_space_env`."""
    env = own_space_env()
    model = model_of(env).learn(3)
    observation, _ = env.reset()
    action, _ = model.predict(observation)
    assert env.action_space.contains(action)


@pytest.mark.parametrize("who", ["model", "policy"])
def test_the_pair_that_gymnasiums_reset_returns_is_no_observation(who):
    """Answers `test_predict.py::test_mixing_gym_vecenv_api`."""
    model = model_of("Pendulum-v1")
    predictor = model if who == "model" else model.policy
    with pytest.raises(ValueError, match=r"tuple|mixing Gym API"):
        predictor.predict(gym.make("Pendulum-v1").reset())


def test_a_monitor_of_vectorised_environments_brings_no_second_one(recwarn):
    """Answers `test_vec_monitor.py::test_vec_monitor_ppo`."""
    model = model_of(VecMonitor(DummyVecEnv([ActionEnv]))).learn(2)
    assert model.get_env().env_is_wrapped(Monitor) == [False]
    assert len(recwarn) == 0


IMAGE = spaces.Box(0, 255, (3, 32, 32), np.uint8)
OBSERVATIONS: dict[str, tuple[spaces.Space[Any], Any]] = {
    "numbers": (spaces.Box(-1, 1, (2,)), np.ones(2)),
    "one of several": (spaces.Discrete(2), np.array(1)),
    "a dict": (
        spaces.Dict(box=spaces.Box(-1, 1, (2,)), discrete=spaces.Discrete(2)),
        {"box": np.ones(2), "discrete": np.array(1)},
    ),
    "an image, channels first": (IMAGE, np.zeros((3, 32, 32), np.uint8)),
    "an image, channels last": (IMAGE, np.zeros((32, 32, 3), np.uint8)),
    "a dict with an image": (spaces.Dict(image=IMAGE), {"image": np.zeros((32, 32, 3), np.uint8)}),
}


@pytest.mark.parametrize(("space", "observation"), OBSERVATIONS.values(), ids=OBSERVATIONS)
def test_one_observation_is_told_from_a_batch(space, observation):
    """Answers `test_utils.py::test_policy_is_vectorized_obs`."""
    policy = LLMDPD("MlpPolicy", ActionEnv(), text_encoder=None, device="cpu").policy
    policy.observation_space = space
    is_dict = isinstance(observation, dict)
    batch = {key: value[None] for key, value in observation.items()} if is_dict else observation[None]
    assert not policy.is_vectorized_observation(observation)
    assert policy.is_vectorized_observation(batch)


def test_an_observation_of_a_wrong_shape_is_refused():
    """Answers `test_utils.py::test_is_vectorized_observation`, where it raises."""
    model = model_of(ActionEnv())
    for wrong in (np.zeros(4), np.zeros((2, 4)), np.zeros((1, 2, 5)), np.zeros(())):
        with pytest.raises(ValueError, match="shape"):
            model.predict(wrong)


def test_acting_moves_no_weight_and_no_gradient():
    """Beyond `test_predict.py::test_predict`: an evaluation during training relies on it."""
    model = model_of(ActionEnv()).learn(2)

    def gradients() -> dict[str, th.Tensor]:
        named = model.policy.named_parameters()
        return {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}

    weights_before, before = snapshot(model.policy), gradients()
    model.predict(np.zeros((4, 5)))
    after = gradients()
    assert differing(model.policy, weights_before) == set()
    assert before.keys() == after.keys()
    assert differing(before, after) == set()
