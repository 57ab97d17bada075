"""`DatasetEnv`: spaces without a simulator, where Stable-Baselines3 wants an environment."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_llmdpd.envs.dataset_env import DatasetEnv

ACTIONS = spaces.Box(-1.0, 1.0, (2,))
SPACES = {
    "numbers": spaces.Box(-np.inf, np.inf, (3,), np.float32),
    "images": spaces.Box(0, 255, (3, 8, 8), np.uint8),
    "one of several": spaces.Discrete(4, start=2),
    "several of several": spaces.MultiDiscrete([3, 4]),
    "switches": spaces.MultiBinary(3),
    "a dict": spaces.Dict(image=spaces.Box(0, 255, (3, 8, 8), np.uint8), state=spaces.Box(-1.0, 1.0, (2,))),
}


each_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


@each_space
def test_reset_gives_an_observation_of_the_space(space: gym.Space[Any]) -> None:
    observation, info = DatasetEnv(space, ACTIONS).reset(seed=3)
    assert space.contains(observation)
    assert info == {}


def test_an_observation_is_all_zeros() -> None:
    observation, _ = DatasetEnv(SPACES["a dict"], ACTIONS).reset()
    assert {key: value.any() for key, value in observation.items()} == {"image": False, "state": False}


def test_a_step_says_what_to_do_instead() -> None:
    env = DatasetEnv(SPACES["numbers"], ACTIONS)
    env.reset()
    with pytest.raises(RuntimeError, match=r"use an environment of your own: evaluate_policy\(model, env\)"):
        env.step(ACTIONS.sample())


@each_space
def test_it_serves_sb3s_vectorised_environments(space: gym.Space[Any]) -> None:
    vec_env = DummyVecEnv([lambda: DatasetEnv(space, ACTIONS)] * 2)
    observations = vec_env.reset()
    arrays = observations.values() if isinstance(observations, dict) else [observations]
    assert {len(array) for array in arrays} == {2}
    assert (vec_env.observation_space, vec_env.action_space) == (space, ACTIONS)
