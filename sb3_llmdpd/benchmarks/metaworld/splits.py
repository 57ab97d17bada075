"""The tasks of Meta-World that a benchmark trains on, and those that it holds out."""

from collections.abc import Sequence

import numpy as np

from sb3_llmdpd.data.metaworld.tasks import SPLITS, split
from sb3_llmdpd.data.metaworld.told_goals import TOLD_GOALS, group_of

CUSTOM = "custom"
_DEALS = {"fold": (9, 0), "third": (3, 7)}
"""Number of groups that the 45 training tasks of ML45 are dealt into, and the seed. Nine groups are as large
as what ML45 holds out; of three, each training measures fifteen unseen tasks, so that a few trainings tell
two settings apart."""

_FOLDS = {f"{name}-{number}": (n, seed, number) for name, (n, seed) in _DEALS.items() for number in range(n)}

OSVI = "osvi"
"""The split of OSVI-WM, which acts after one video of a new task: all but four tasks are trained on."""
_OSVI_UNSEEN = ("window-open", "button-press", "door-unlock", "pick-place-wall")

COMBINATIONS = "combinations"
_DEV = f"{COMBINATIONS}-dev"
TOLD_SPLITS = (COMBINATIONS, _DEV)
"""Splits of the tasks whose goal is told in words: combinations of task and place are held out, of words that
others hold. The second is to choose settings on: it holds out others, and leaves those of the first out."""

SPLIT_NAMES = (
    f"ml45, ml10, {OSVI}, fold-0 to fold-8, third-0 to third-2, {' or '.join(TOLD_SPLITS)} of goals told in"
    f" words, or {CUSTOM} with the unseen tasks"
)


def folds(tasks: Sequence[str] = SPLITS["ml45"][0], n: int = 9, seed: int = 0) -> tuple[tuple[str, ...], ...]:
    """Deal tasks into groups to hold out in turns, to tune on unseen tasks that no table reports.

    :param tasks: tasks to deal; by default the training tasks of ML45: its five unseen ones are in no fold.
    :param n: number of folds.
    :param seed: seed of the order in which they are dealt.
    :return: the folds; each task is in one of them, and their sizes differ by one at most.
    :raises ValueError: when there is not a task for each fold, or fewer than one fold.
    """
    if not 1 <= n <= len(tasks):
        raise ValueError(f"`n` must be from 1 to the number of tasks, {len(tasks)}, got {n}")
    order = np.random.default_rng(seed).permutation(len(tasks))
    return tuple(tuple(tasks[index] for index in sorted(order[first::n])) for first in range(n))


def tasks_of_split(name: str, unseen: Sequence[str] | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Look up the tasks of a named split.

    :param name: ``"ml45"``, ``"ml10"``, ``"osvi"`` (see `OSVI`); ``"fold-0"`` to ``"fold-8"`` or
        ``"third-0"`` to ``"third-2"``: that one of nine or three `folds` is held out of ML45's training
        tasks, and ML45's own unseen tasks are left out altogether; ``"custom"``: training gets all but
        ``unseen``.
    :param unseen: tasks that ``"custom"`` holds out.
    :return: names to train on, names held out.
    :raises ValueError: on an unknown split or task, and where ``unseen`` is missing or not to be given.
    """
    if (name == CUSTOM) != (unseen is not None):
        raise ValueError(
            f"the split {CUSTOM!r} goes with a list of unseen tasks, and no other does; got {name!r} and"
            f" {unseen}"
        )
    if name == OSVI:
        return split(CUSTOM, _OSVI_UNSEEN)
    if name == CUSTOM or name in SPLITS:
        return split(name, unseen)
    if name in TOLD_SPLITS:
        return _combinations(TOLD_SPLITS.index(name))
    if name not in _FOLDS:
        raise ValueError(f"unknown split {name!r}: use {SPLIT_NAMES}")
    n, seed, number = _FOLDS[name]
    held_out = folds(n=n, seed=seed)[number]
    return tuple(task for task in SPLITS["ml45"][0] if task not in held_out), held_out


def _combinations(held_out: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Hold out one group of the combinations of task and place, and leave out those before it."""
    groups = {name: group_of(goal) for name, goal in TOLD_GOALS.items()}
    train = tuple(name for name, group in groups.items() if group > held_out)
    return train, tuple(name for name, group in groups.items() if group == held_out)
