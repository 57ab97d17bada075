"""Measures what Meta-World's scenes leave open: the task, where two begin alike, and a goal that moves.

``python -m sb3_llmdpd.data.metaworld.scenes`` measures `SHARED_SCENES`, `EXPERT_STEPS`, and which goals move
(`TaskInfo.goal_moves`).
"""

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import scipy

from sb3_llmdpd.data.metaworld.envs import MetaWorldEnv
from sb3_llmdpd.data.metaworld.tasks import TASKS

RESOLUTION = 2e-3
"""Metres. An entry that varies by less over both tasks tells nothing that a policy could act on."""

SIGNIFICANCE = 0.01
"""Chance of calling two tasks different that are not."""

GOAL_DISTANCE = 0.06
"""Metres. Success forgives 0.05 to 0.07 in most tasks: goals that are nearer to each other on average are one
goal."""

_STEP_LIMIT = 300
"""Steps that an expert gets in one episode."""


@dataclass(frozen=True)
class SharedScenes:
    """Two tasks that begin alike.

    :param tasks: names of the two.
    :param goal_visible: True when they begin alike although the observation shows the goal.
    :param exclusive: those of the two that the other's expert, in their scenes, never did by chance: there,
        what is done shows what was understood.
    """

    tasks: tuple[str, str]
    goal_visible: bool
    exclusive: tuple[str, ...]


SHARED_SCENES: tuple[SharedScenes, ...] = (
    SharedScenes(("button-press", "button-press-wall"), goal_visible=True, exclusive=()),
    SharedScenes(("button-press-topdown", "button-press-topdown-wall"), goal_visible=True, exclusive=()),
    SharedScenes(("pick-place", "reach"), goal_visible=True, exclusive=("pick-place",)),
    SharedScenes(("pick-place-wall", "reach-wall"), goal_visible=True, exclusive=("pick-place-wall",)),
    SharedScenes(("push", "push-wall"), goal_visible=True, exclusive=()),
    SharedScenes(
        ("faucet-close", "faucet-open"), goal_visible=False, exclusive=("faucet-close", "faucet-open")
    ),
    SharedScenes(("pick-place", "push"), goal_visible=False, exclusive=("push",)),
    SharedScenes(("pick-place", "push-wall"), goal_visible=False, exclusive=("push-wall",)),
    SharedScenes(
        ("plate-slide", "plate-slide-side"), goal_visible=False, exclusive=("plate-slide", "plate-slide-side")
    ),
    SharedScenes(("push", "reach"), goal_visible=False, exclusive=("push",)),
    SharedScenes(("push-wall", "reach"), goal_visible=False, exclusive=("push-wall", "reach")),
    SharedScenes(("stick-pull", "stick-push"), goal_visible=False, exclusive=("stick-pull",)),
)
"""Measured with Meta-World 3.1.1, 20 resets and 10 episodes of each expert in the other's scenes.
Observations do not show walls."""


EXPERT_STEPS: dict[str, int] = {
    "faucet-close": 65,
    "faucet-open": 59,
    "pick-place": 53,
    "pick-place-wall": 85,
    "plate-slide": 52,
    "plate-slide-side": 46,
    "push": 62,
    "push-wall": 78,
    "reach": 46,
    "stick-pull": 109,
}
"""`expert_steps` of the tasks that are exclusive in a pair, measured likewise."""


def first_observations(
    task: str, n_resets: int = 20, *, goal_visible: bool = True, seed: int = 0
) -> np.ndarray:
    """Observe the beginning of episodes: (n_resets, 39)."""
    with closing(MetaWorldEnv(task, seed=seed, goal_visible=goal_visible)) as env:
        return np.stack([env.reset()[0] for _ in range(n_resets)])


def mean_goal_distance(task: str, n_resets: int = 40, seed: int = 0) -> float:
    """Measure the mean distance, in metres, between the goals of two of at least two scenes."""
    goals = []
    with closing(MetaWorldEnv(task, seed=seed)) as env:
        for _ in range(n_resets):
            env.reset()
            goals.append(env.simulator._target_pos.copy())
    return float(np.mean(scipy.spatial.distance.pdist(np.stack(goals))))


def can_be_told_apart(one: np.ndarray, other: np.ndarray) -> bool:
    """Tell if any single entry tells two samples of observations apart.

    An entry does when it varies by more than `RESOLUTION` and its ranges do not overlap, or when the
    two-sample test of Kolmogorov and Smirnov says that its values have different distributions, at
    `SIGNIFICANCE` over all entries together. Differences that only several entries together would show are
    not looked for.

    :param one: (n, obs_dim).
    :param other: (m, obs_dim).
    """
    both = np.concatenate([one, other])
    telling = np.ptp(both, axis=0) > RESOLUTION
    if not telling.any():
        return False
    one, other = one[:, telling], other[:, telling]
    if ((one.max(axis=0) < other.min(axis=0)) | (other.max(axis=0) < one.min(axis=0))).any():
        return True
    p_values = [scipy.stats.ks_2samp(*entries).pvalue for entries in zip(one.T, other.T, strict=True)]
    return bool(min(p_values) < SIGNIFICANCE / len(p_values))


def expert_success(
    task: str, expert_of: str, n_episodes: int = 10, *, goal_visible: bool = True, seed: int = 0
) -> float:
    """Measure how often an expert that wants to do another task does this one.

    :param task: task whose scenes are played, and whose success counts.
    :param expert_of: task whose expert acts.
    :param goal_visible: let the expert go for the goal of the scene, else for one of its own task, as a
        policy does that cannot see the scene's.
    :return: share of the episodes with a success, in [0, 1].
    """
    first = _first_successes(task, expert_of, n_episodes, goal_visible=goal_visible, seed=seed)
    return float(np.mean([step is not None for step in first]))


def expert_steps(task: str, n_episodes: int = 10, seed: int = 0) -> int:
    """Measure how many steps a task takes its own expert: the median over the episodes that succeed."""
    first = _first_successes(task, task, n_episodes, goal_visible=True, seed=seed)
    return int(np.median([step + 1 for step in first if step is not None]))


def _first_successes(
    task: str, expert_of: str, n_episodes: int, *, goal_visible: bool, seed: int
) -> list[int | None]:
    # with the same seed both goals would lie alike
    env, own = MetaWorldEnv(task, seed=seed), MetaWorldEnv(expert_of, seed=seed + 1)
    found: list[int | None] = []
    with closing(env), closing(own):
        for _ in range(n_episodes):
            observation, _ = env.reset()
            own.reset()
            if goal_visible:
                own.simulator._target_pos = env.simulator._target_pos
            found.append(None)
            for step in range(_STEP_LIMIT):
                observation, _, _, _, info = env.step(own.expert_action(observation))
                if info["is_success"]:
                    found[-1] = step
                    break
    return found


def shared_scenes(
    tasks: Sequence[str] = tuple(TASKS), *, n_resets: int = 20, n_episodes: int = 10, seed: int = 0
) -> list[SharedScenes]:
    """Measure which pairs of tasks begin in scenes that cannot be told apart.

    :param n_resets: episodes of each task that `can_be_told_apart` compares.
    :param n_episodes: episodes of each expert in the scenes of the other.
    :return: the pairs, each once: one that begins alike with the goal visible also does with it hidden.
    """
    found: list[SharedScenes] = []
    for goal_visible in (True, False):
        shown: dict[str, Any] = {"goal_visible": goal_visible, "seed": seed}
        first = {task: first_observations(task, n_resets, **shown) for task in tasks}
        for one, other in combinations(tasks, 2):
            known = any(pair.tasks == (one, other) for pair in found)
            if not known and not can_be_told_apart(first[one], first[other]):
                both_ways = ((one, other), (other, one))
                exclusive = tuple(
                    task for task, acts in both_ways if expert_success(task, acts, n_episodes, **shown) == 0
                )
                found.append(SharedScenes((one, other), goal_visible, exclusive))
    return found


if __name__ == "__main__":
    for pair in shared_scenes():
        sys.stdout.write(f"    {pair},\n")
    for task in sorted({task for pair in SHARED_SCENES for task in pair.exclusive}):
        sys.stdout.write(f"    {task!r}: {expert_steps(task)},\n")
    for info in TASKS.values():
        if info.goal_separate:
            distance = mean_goal_distance(info.name)
            sys.stdout.write(f"    {info.name}: goals are {distance:.3f} m from each other\n")
