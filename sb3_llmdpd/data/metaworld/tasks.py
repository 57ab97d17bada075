"""The 50 tasks of Meta-World by name, which a split holds out, and tasks whose goal is told in words."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sb3_llmdpd.data.metaworld.sentences import PARAPHRASES, SENTENCES, WORDINGS
from sb3_llmdpd.data.metaworld.told_goals import REARRANGED, TOLD_GOALS

# Tasks whose object the simulator draws apart from the goal. In the others, the goal is a part of the object
# (a drawer and its open position), or the object always lies in the same place.
_GOAL_SEPARATE = {
    "basketball", "bin-picking", "box-close", "coffee-pull", "coffee-push", "hand-insert", "peg-insert-side",
    "pick-place", "pick-place-wall", "push", "push-back", "push-wall", "reach", "reach-wall", "shelf-place",
    "soccer", "stick-pull", "stick-push", "sweep-into",
}  # fmt: skip
# Those of them whose goal hardly moves: the goals of two scenes are nearer to each other than about what
# success forgives. ``python -m sb3_llmdpd.data.metaworld.scenes`` measures it.
_GOAL_STAYS = {
    "bin-picking", "coffee-push", "hand-insert", "push-wall", "stick-pull", "stick-push", "sweep-into",
}  # fmt: skip

_OPPOSITES = (
    ("assembly", "disassemble"), ("coffee-pull", "coffee-push"), ("door-close", "door-open"),
    ("door-lock", "door-unlock"), ("drawer-close", "drawer-open"), ("faucet-close", "faucet-open"),
    ("handle-press", "handle-pull"), ("handle-press-side", "handle-pull-side"),
    ("peg-insert-side", "peg-unplug-side"), ("plate-slide", "plate-slide-back"),
    ("plate-slide-side", "plate-slide-back-side"), ("push", "push-back"), ("stick-pull", "stick-push"),
    ("window-close", "window-open"),
)  # fmt: skip
_OPPOSITE_OF = {one: other for pair in _OPPOSITES for one, other in (pair, pair[::-1])}


@dataclass(frozen=True)
class TaskInfo:
    """One task of Meta-World.

    :param name: its name without the version, e.g. ``"drawer-open"``.
    :param texts: phrasings of its sentence; the first is the canonical one.
    :param goal_separate: True when the goal can stay while the object is placed elsewhere.
    :param goal_moves: True when the goals of two scenes are, on average, farther apart than success forgives.
    :param paraphrases: further phrasings, for tests alone: no data set holds them.
    :param wordings: further ones by style, for tests alone as well.
    :param opposite: name of the task that asks for the opposite, as closing does of opening; None without
        one.
    :param base: task whose scene and expert it has, where its goal is told in words; None of the 50 tasks.
    :param goal: position of a goal that is told in words, in metres; None where the scene draws it.
    """

    name: str
    texts: tuple[str, ...]
    goal_separate: bool
    goal_moves: bool = True
    paraphrases: tuple[str, ...] = ()
    wordings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    opposite: str | None = None
    base: str | None = None
    goal: tuple[float, float, float] | None = None

    @property
    def text(self) -> str:
        """The canonical sentence."""
        return self.texts[0]

    @property
    def env_id(self) -> str:
        """The simulator's own name of the task, e.g. ``"drawer-open-v3"``."""
        return f"{self.base or self.name}-v3"

    @property
    def goal_needs_telling(self) -> bool:
        """True when nothing but the prompt can tell a goal that the observation hides."""
        return self.goal is not None or (self.goal_separate and self.goal_moves)


TASKS: dict[str, TaskInfo] = {
    name: TaskInfo(
        name,
        texts,
        goal_separate=name in _GOAL_SEPARATE,
        goal_moves=name not in _GOAL_STAYS,
        paraphrases=PARAPHRASES[name],
        wordings=WORDINGS[name],
        opposite=_OPPOSITE_OF.get(name),
    )
    for name, texts in SENTENCES.items()
}
"""All tasks by name."""

TOLD_TASKS: dict[str, TaskInfo] = {
    name: TaskInfo(
        name,
        told.texts(),
        goal_separate=False,  # all scenes of the task share it
        paraphrases=told.paraphrases(),
        wordings={REARRANGED: told.rearranged()},
        opposite=told.opposite if told.opposite in TOLD_GOALS else None,
        base=told.base,
        goal=told.position,
    )
    for name, told in TOLD_GOALS.items()
}
"""Tasks with a goal that is told in words, by name, see `told_goals`."""

_ML10_TRAIN = (
    "reach", "push", "pick-place", "door-open", "drawer-close", "button-press-topdown", "peg-insert-side",
    "window-open", "sweep", "basketball",
)  # fmt: skip
_ML10_TEST = ("drawer-open", "door-close", "shelf-place", "sweep-into", "lever-pull")
_ML45_TEST = ("bin-picking", "box-close", "hand-insert", "door-lock", "door-unlock")

SPLITS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ml10": (_ML10_TRAIN, _ML10_TEST),
    "ml45": (tuple(name for name in TASKS if name not in _ML45_TEST), _ML45_TEST),
}
"""Tasks to train on and tasks to hold out, by the name of the split."""


def task_info(name: str) -> TaskInfo:
    """Look a task up.

    :param name: name of the task, ``"drawer-open"`` or, as the simulator has it, ``"drawer-open-v3"``; or
        with the place of its goal, ``"push-to-far-left"``.
    :return: the task.
    :raises ValueError: when there is none of that name; the message names the nearest ones.
    """
    known = TASKS.get(name.removesuffix("-v3")) or TOLD_TASKS.get(name)
    if known is None:
        near = difflib.get_close_matches(name, [*TASKS, *TOLD_TASKS], n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        every = ", ".join(sorted(TASKS))
        raise ValueError(
            f"unknown Meta-World task {name!r}: {hint}The {len(TASKS)} tasks are {every}; and"
            f" {len(TOLD_TASKS)} have a goal told in words, as {next(iter(TOLD_TASKS))!r}"
        )
    return known


def by_need_of_goal(tasks: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part tasks by `TaskInfo.goal_needs_telling`.

    :param tasks: names of tasks.
    :return: those in which an example has to tell a hidden goal, and those in which scene or task tell it.
    :raises ValueError: on an unknown task.
    """
    known = [task_info(task) for task in tasks]
    told = [info.name for info in known if info.goal_needs_telling]
    return told, [info.name for info in known if not info.goal_needs_telling]


def split(name: str = "ml45", unseen: Sequence[str] | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Choose tasks to train on, and tasks that stay unseen.

    :param name: ``"ml45"`` or ``"ml10"``; ignored when ``unseen`` is given.
    :param unseen: names of a custom hold-out; training then gets all others of the 50 tasks.
    :return: names to train on, names held out; no name is in both.
    :raises ValueError: on an unknown split or task, a task named twice, and a hold-out that leaves nothing.
    """
    if unseen is None:
        if name not in SPLITS:
            splits = " or ".join(map(repr, sorted(SPLITS)))
            raise ValueError(f"unknown split {name!r}: use {splits}, or name the `unseen` tasks")
        return SPLITS[name]
    held_out = tuple(task_info(task).name for task in unseen)
    if len(set(held_out)) < len(held_out):
        raise ValueError(f"`unseen` names a task twice: {', '.join(held_out)}")
    train = tuple(task for task in TASKS if task not in held_out)
    if not held_out or not train:
        asked = f"name at least one task and leave at least one of the {len(TASKS)}"
        raise ValueError(f"`unseen` must {asked}, got {len(held_out)}")
    return train, held_out
