"""Which of Meta-World's tasks a benchmark trains on, and which it holds out."""

from collections.abc import Sequence

import numpy as np

from sb3_llmdpd.data.metaworld.tasks import SPLITS, split

CUSTOM, FOLD = "custom", "fold-"
FOLD_SIZE = 5
"""As many tasks as ML45 holds out."""

_N_FOLDS = len(SPLITS["ml45"][0]) // FOLD_SIZE

SPLIT_NAMES = f"ml45, ml10, {FOLD}0 to {FOLD}{_N_FOLDS - 1}, or {CUSTOM} with the unseen tasks"


def folds(tasks: Sequence[str] = SPLITS["ml45"][0], size: int = FOLD_SIZE, seed: int = 0) -> tuple[tuple[str, ...], ...]:
    """Draw groups of tasks to hold out in turns, so that whoever tunes has unseen tasks that no table reports.

    :param tasks: to draw from; by default the training tasks of ML45, so that its five unseen ones are in no fold.
    :param size: tasks in a fold.
    :param seed: of the draw.
    :return: the folds; no task is in two of them, and those that do not fill a fold are in none.
    :raises ValueError: when the tasks do not fill a single one.
    """
    if not 1 <= size <= len(tasks):
        raise ValueError(f"`size` must be from 1 to the number of tasks, {len(tasks)}, got {size}")
    order = np.random.default_rng(seed).permutation(len(tasks))
    return tuple(
        tuple(tasks[index] for index in sorted(order[first : first + size])) for first in range(0, len(tasks) - size + 1, size)
    )


def tasks_of_split(name: str, unseen: Sequence[str] | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The tasks of a named split.

    :param name: ``"ml45"``, ``"ml10"``; ``"fold-0"`` to ``"fold-8"``: that one of the `folds` is held out of ML45's training
        tasks, and ML45's own unseen tasks are left out altogether; ``"custom"``: training gets all but ``unseen``.
    :param unseen: the hold-out of ``"custom"``.
    :return: names to train on, names held out.
    :raises ValueError: on an unknown split or task, and where ``unseen`` is missing or stands beside another split.
    """
    if (name == CUSTOM) != (unseen is not None):
        raise ValueError(
            f"the split {CUSTOM!r} goes with a list of unseen tasks, and no other does; got {name!r} and {unseen}"
        )
    if name == CUSTOM or name in SPLITS:
        return split(name, unseen)
    if name in [f"{FOLD}{number}" for number in range(_N_FOLDS)]:
        held_out = folds()[int(name.removeprefix(FOLD))]
        return tuple(task for task in SPLITS["ml45"][0] if task not in held_out), held_out
    raise ValueError(f"unknown split {name!r}: use {SPLIT_NAMES}")
