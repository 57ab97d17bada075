"""Environments that the tests act in."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class ActionEnv(gym.Env[np.ndarray, np.ndarray]):
    """Always the same observation; the reward is the first entry of the action. Spaces fit `make_episodes`.

    :param length: steps until the time limit
    :param observation: value of each entry of the constant observation
    """

    observation_space = spaces.Box(-np.inf, np.inf, (5,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, length: int = 3, observation: float = 0.5) -> None:
        self.length = length
        self.observation = np.full(5, observation, np.float32)
        self.n_steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.n_steps = 0
        return self.observation, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.n_steps += 1
        return self.observation, float(action[0]), False, self.n_steps >= self.length, {}


class SpacesEnv(gym.Env[Any, np.ndarray]):
    """Random observations of any space, whatever is done; the reward is 1 at each step.

    :param observation_space: any space
    :param action_space: any space
    :param length: steps until the time limit
    """

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], length: int = 10
    ) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.length = length
        self.n_steps = self.n_resets = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.n_steps = 0
        self.n_resets += 1
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.n_steps += 1
        return self.observation_space.sample(), 1.0, False, self.n_steps >= self.length, {}
