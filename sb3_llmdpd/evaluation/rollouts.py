"""Runs episodes in lock step: one call of whatever acts serves all environments that are not done."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from sb3_llmdpd.data.metadata import success_of_step
from sb3_llmdpd.evaluation.phases import Phases, PhaseWatch

Act = Callable[[Any, Sequence[int], np.ndarray], np.ndarray]
"""Maps observations (n, *obs_shape), or a dict of such arrays, their n rows, and the rewards (n,) of the last
steps there (0 at the first) to actions (n, action_dim)."""


EARLY_STEPS = 100
"""Steps of the early return: published returns of retrieval (REGENT) are of about as many."""


@dataclass(frozen=True)
class Rollout:
    """Outcome of one episode.

    :param seed: seed of the reset.
    :param total_reward: sum of the raw rewards.
    :param early_reward: the same over the first ``EARLY_STEPS`` steps.
    :param length: number of steps.
    :param first_success: index in [0, length) of the first step that was a success; None without one.
    :param last_success: True if the last step was a success.
    :param phases: how far the episode came, where that was watched.
    :param judged: False where the environment never said whether a step was a success.
    """

    seed: int
    total_reward: float
    early_reward: float
    length: int
    first_success: int | None
    last_success: bool
    phases: Phases | None = None
    judged: bool = True


def run_episodes(
    envs: Sequence[gym.Env[Any, Any]],
    act: Act,
    seeds: Sequence[int],
    *,
    max_steps: int,
    stop_at_success: bool = False,
    goals: Sequence[str | None] | None = None,
    watch: PhaseWatch | None = None,
) -> list[Rollout]:
    """Run one episode in each environment.

    A step is a success when ``info["success"]`` says so, or where that says nothing, ``info["is_success"]``
    or another of `SUCCESS_KEYS`.

    :param envs: at least as many as seeds; row i is environment i.
    :param act: chooses the actions of the rows that are not done.
    :param seeds: seeds of the resets.
    :param max_steps: steps after which an episode ends, if the environment does not end it before.
    :param stop_at_success: also end an episode at its first success.
    :param goals: goals of the scenes, one for each seed, for environments whose ``reset`` knows the option
        ``goal_of``; None, or an entry that is None, leaves the goal to the seed.
    :param watch: watches how far each episode comes.
    :return: one outcome for each seed, in their order.
    """
    n_rows = len(seeds)
    observations: list[Any] = [
        env.reset(seed=seed, options=None if goal is None else {"goal_of": goal})[0]
        for env, seed, goal in zip(envs, seeds, goals or [None] * n_rows, strict=False)
    ]
    rewards, returns = np.zeros(n_rows), np.zeros(n_rows)  # of the last step, and of all
    early_returns = np.zeros(n_rows)
    lengths = np.zeros(n_rows, np.int64)
    first_success: list[int | None] = [None] * n_rows
    last_success, judged = [False] * n_rows, [False] * n_rows
    running = list(range(n_rows))
    while running:
        actions = act(_stack([observations[row] for row in running]), running, rewards[running])
        done = set()
        for row, action in zip(running, actions, strict=True):
            observations[row], reward, terminated, truncated, info = envs[row].step(action)
            rewards[row] = float(reward)
            returns[row] += rewards[row]
            early_returns[row] += rewards[row] * (lengths[row] < EARLY_STEPS)
            told = success_of_step(info)
            judged[row] = judged[row] or told is not None
            success = bool(told)
            if success and first_success[row] is None:
                first_success[row] = int(lengths[row])
            last_success[row] = success
            lengths[row] += 1
            if watch is not None:
                watch.see(row, observations[row], info)
            if terminated or truncated or lengths[row] >= max_steps or (success and stop_at_success):
                done.add(row)
        running = [row for row in running if row not in done]
    phases = [None if watch is None else watch.phases(row) for row in range(n_rows)]
    columns = (
        returns.tolist(),
        early_returns.tolist(),
        lengths.tolist(),
        first_success,
        last_success,
        phases,
        judged,
    )
    return list(map(Rollout, seeds, *columns))


def _stack(observations: list[Any]) -> Any:
    if isinstance(observations[0], dict):
        return {key: np.stack([observation[key] for observation in observations]) for key in observations[0]}
    return np.stack(observations)
