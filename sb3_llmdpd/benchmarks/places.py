"""A point mass and named places, always the same scene: only the prompt says where to go."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_llmdpd.data.episodes import Episode

ROWS = ("bottom", "low", "middle", "high", "top")
COLUMNS = ("west", "left", "centre", "right", "east")
_GRID = np.linspace(-0.8, 0.8, 5).tolist()

PLACES: dict[str, tuple[float, float]] = {
    f"{row} {column}": (x, y)
    for (row, y), (column, x) in product(zip(ROWS, _GRID, strict=True), zip(COLUMNS, _GRID, strict=True))
}
"""End of each task: 25 places on a square, each named by a row and a column."""

UNSEEN = ("top left", "high east", "middle right", "low centre", "bottom west", "low left")
"""Combinations of known words that training holds out; each row and each column has others."""

PHRASINGS = ("go to the {row} {column}", "move {row}, {column}", "{column} side, {row} row")
STEP = 0.1
"""Distance that a full action moves the point."""
NEAR = 0.2
"""Distance at which the point has arrived: half of the way to the next place."""
HORIZON = 30
"""Steps of an episode; the farthest way takes 11."""


class PlacesEnv(gym.Env[np.ndarray, np.ndarray]):
    """A point that is moved about on a square; its observation is its position, the same for all tasks.

    Observation: position (2), in [-1, 1]. Action: displacement (2), in units of ``STEP``. ``info["success"]``
    says whether the point is at the task's place now: on the way to a far place it passes others, and an
    episode has done its task when its last step is a success.

    :param task: key of `PLACES`.
    :raises ValueError: on another name.
    """

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, task: str) -> None:
        if task not in PLACES:
            raise ValueError(f"`task` must be one of {', '.join(PLACES)}; got {task!r}")
        self.task = task
        self.goal = np.array(PLACES[task])
        self._position = np.zeros(2)
        self._n_steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin near the middle.

        :param seed: seed of the position.
        :param options: ignored.
        :return: observation and info.
        """
        super().reset(seed=seed)
        self._position = self.np_random.uniform(-0.3, 0.3, 2)
        self._n_steps = 0
        return self._position.astype(np.float32), {"success": False}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move.

        :param action: (2,), in [-1, 1]. Clipped.
        :return: observation, minus the distance to the place, terminated (always False), truncated, info.
        """
        self._position = np.clip(self._position + STEP * np.clip(action, -1.0, 1.0), -1.0, 1.0)
        self._n_steps += 1
        distance = float(np.linalg.norm(self._position - self.goal))
        info = {"success": distance < NEAR}
        return self._position.astype(np.float32), -distance, False, self._n_steps >= HORIZON, info

    def expert_action(self, observation: np.ndarray) -> np.ndarray:
        """Take the shortest way.

        :param observation: (2,).
        :return: (2,), float32, in [-1, 1].
        """
        return np.clip((self.goal - observation) / STEP, -1.0, 1.0).astype(np.float32)


def texts_of(task: str) -> tuple[str, ...]:
    """Return the sentences of a task in `PLACES`, one for each of ``PHRASINGS``."""
    row, column = task.split()
    return tuple(phrasing.format(row=row, column=column) for phrasing in PHRASINGS)


def record(tasks: Sequence[str], n_episodes: int, noise: float = 0.2, seed: int = 0) -> list[Episode]:
    """Record the expert.

    :param tasks: keys of `PLACES`.
    :param n_episodes: episodes of each task.
    :param noise: standard deviation of the noise on its actions.
    :param seed: seed of starts and noise.
    :return: the episodes, task after task.
    """
    rng = np.random.default_rng(seed)
    return [_recorded(PlacesEnv(task), n, noise, rng) for task, n in product(tasks, range(n_episodes))]


def _recorded(env: PlacesEnv, number: int, noise: float, rng: np.random.Generator) -> Episode:
    observations, actions, rewards, successes = [env.reset(seed=int(rng.integers(2**31)))[0]], [], [], []
    truncated = False
    while not truncated:
        actions.append(np.clip(env.expert_action(observations[-1]) + rng.normal(0, noise, 2), -1.0, 1.0))
        observation, reward, _, truncated, info = env.step(actions[-1])
        observations.append(observation)
        rewards.append(reward)
        successes.append(info["success"])
    return Episode(
        np.array(observations),
        np.array(actions),
        np.array(rewards),
        task=env.task,
        task_texts=texts_of(env.task),
        success=any(successes),
        first_success=successes.index(True) if any(successes) else None,
        source=f"places/{env.task}, episode {number}",
    )
