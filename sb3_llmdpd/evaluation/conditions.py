"""Names the cells of an evaluation: whose scenes are played, and what the policy is told there."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

CONDITIONS = ("text+trajectory", "text", "trajectory", "none", "wrong", "expert")
"""The conditions that `make_cells` knows by name, beside ``"told:<task>"``."""

TOLD = "told:"
"""What the name of a condition begins with that fixes the sentence."""


@dataclass(frozen=True)
class Condition:
    """How the policy is prompted.

    :param name: as it stands in tables.
    :param text_of: the task whose sentence it is told; None for none.
    :param trajectory_of: the task of which it is shown an example; None for none.
    :param expert: the environment's scripted expert acts instead of the policy.
    """

    name: str
    text_of: str | None = None
    trajectory_of: str | None = None
    expert: bool = False

    @property
    def is_told(self) -> bool:
        """Whether it is a ``"told:<task>"``: the sentence is fixed, whatever the scenes."""
        return self.name.startswith(TOLD)


@dataclass(frozen=True)
class Cell:
    """One cell of an evaluation.

    :param task: whose scenes are played, and whose success counts.
    :param condition: how the policy is prompted there.
    :param seen: whether the policy was trained on the task; None where nobody says.
    :param n_episodes: to be played; None for as many as `evaluate_tasks` is told.
    """

    task: str
    condition: Condition
    seen: bool | None = None
    n_episodes: int | None = None


def make_cells(
    tasks: Sequence[str], conditions: Sequence[str] = CONDITIONS, *, unseen: Collection[str] | None = None, seed: int = 0
) -> list[Cell]:
    """Every task under every condition.

    ``"text+trajectory"``, ``"text"``, ``"trajectory"``: the task's own sentence, an example of it, or both. ``"none"``: no
    prompt. ``"wrong"``: sentence and example of another of the tasks. ``"expert"``: the scripted expert. ``"told:<task>"``:
    that task's sentence, in the scenes of each of the tasks.

    :param tasks: distinct names.
    :param conditions: names of conditions.
    :param unseen: the tasks that training held out; None where nobody knows.
    :param seed: decides which other task is the wrong one; no task is its own, and each is the wrong one once.
    :return: the cells, task after task.
    :raises ValueError: on an unknown condition, a task named twice, no task, or a single task under ``"wrong"``.
    """
    if not tasks or len(set(tasks)) < len(tasks):
        raise ValueError(f"`tasks` must name at least one task, each once, got {list(tasks)}")
    if "wrong" in conditions and len(tasks) < 2:
        raise ValueError(
            "the condition 'wrong' takes the prompt of another evaluated task: evaluate at least two, or leave it out"
        )
    circle = np.random.default_rng(seed).permutation(len(tasks))
    following = {tasks[one]: tasks[other] for one, other in zip(circle, np.roll(circle, -1), strict=True)}
    return [
        Cell(task, _condition(name, task, following[task]), None if unseen is None else task not in unseen)
        for task in tasks
        for name in conditions
    ]


def _condition(name: str, task: str, other: str) -> Condition:
    known = {
        "text+trajectory": Condition(name, text_of=task, trajectory_of=task),
        "text": Condition(name, text_of=task),
        "trajectory": Condition(name, trajectory_of=task),
        "none": Condition(name),
        "wrong": Condition(name, text_of=other, trajectory_of=other),
        "expert": Condition(name, expert=True),
    }
    if name in known:
        return known[name]
    if name.startswith(TOLD) and name != TOLD:
        return Condition(name, text_of=name.removeprefix(TOLD))
    raise ValueError(f"unknown condition {name!r}: use {', '.join(CONDITIONS)} or {TOLD}<task>")
