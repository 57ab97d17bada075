"""`DatasetEnv`, which stands where SB3 wants an environment although there is only logged data."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class DatasetEnv(gym.Env[Any, np.ndarray]):
    """Spaces without a simulator: reset gives zeros, step says what to do instead.

    :param observation_space: the data's.
    :param action_space: the data's.
    """

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space = observation_space
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode that has no steps.

        :param seed: ignored, there is nothing random.
        :param options: ignored.
        :return: an observation of zeros, and an empty info.
        """
        super().reset(seed=seed)
        return _zeros(self.observation_space), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Refuse.

        :param action: any.
        :raises RuntimeError: always.
        """
        raise RuntimeError(
            "LLMDPD learns offline from logged data, and this environment only states the data's spaces. To act or to"
            " evaluate, use an environment of your own: evaluate_policy(model, env), or model.set_env(env)."
        )


def _zeros(space: spaces.Space[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _zeros(subspace) for key, subspace in space.spaces.items()}
    if isinstance(space, spaces.Discrete):
        return space.start
    return np.zeros(space.shape or (), space.dtype)
