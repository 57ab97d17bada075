"""Names the cells of an evaluation: whose scenes are played, and what the policy is told there."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from sb3_llmdpd.data.metaworld.scenes import SHARED_SCENES
from sb3_llmdpd.data.metaworld.tasks import TASKS, task_info

CONDITIONS = ("text+trajectory", "text", "trajectory", "none", "wrong", "expert")
"""The conditions that every evaluation should have, beside ``"told:<task>"``."""

CONTROLS = ("wrong-text", "wrong-trajectory", "antonym", "paraphrase", "copy")
"""Further ones that `make_cells` knows by name."""

CONTROLS_OF_PROMPTS = tuple(name for name in CONTROLS if name != "copy")
"""Those in which the evaluated policy acts."""

TOLD = "told:"
"""What the name of a condition begins with that fixes the sentence."""


@dataclass(frozen=True)
class Condition:
    """Who acts, and how it is prompted.

    :param name: as it stands in tables.
    :param text_of: the task whose sentence it is told; None for none.
    :param trajectory_of: the task of which it is shown an example; None for none.
    :param expert: the environment's scripted expert acts instead of the policy.
    :param copy: `CopyPlayer`, which repeats the example's actions, acts instead of the policy.
    :param paraphrased: the sentence is one of the phrasings that no data set holds.
    :param other_goal: the example is one of another goal than the scene's: of all, the one with the farthest end.
    """

    name: str
    text_of: str | None = None
    trajectory_of: str | None = None
    expert: bool = False
    copy: bool = False
    paraphrased: bool = False
    other_goal: bool = False

    @property
    def is_told(self) -> bool:
        """Whether it is a ``"told:<task>"``: the sentence is fixed, whatever the scenes."""
        return self.name.startswith(TOLD)


@dataclass(frozen=True)
class Cell:
    """One cell of an evaluation.

    :param task: whose scenes are played, and whose success counts.
    :param condition: who acts there, and how it is prompted.
    :param seen: whether the policy was trained on the task; None where nobody says.
    :param n_episodes: to be played; None for as many as `evaluate_tasks` is told.
    :param same_goal: each scene has the goal of one of the task's examples, its object placed anew, and where an example of
        the task is shown it is that one.
    """

    task: str
    condition: Condition
    seen: bool | None = None
    n_episodes: int | None = None
    same_goal: bool = False


def make_cells(
    tasks: Sequence[str],
    conditions: Sequence[str] = CONDITIONS,
    *,
    unseen: Collection[str] | None = None,
    same_goal: bool = False,
    seed: int = 0,
) -> list[Cell]:
    """Every task under every condition.

    ``"text+trajectory"``, ``"text"``, ``"trajectory"``: the task's own sentence, an example of it, or both. ``"none"``: no
    prompt. ``"wrong"``: sentence and example of another of the tasks. ``"wrong-text"``: the sentence of another, with the
    right example. ``"wrong-trajectory"``: the example of another, with the right sentence; with ``same_goal``, of the same
    task and another goal, and no such cell for tasks whose goal is a part of their object. ``"paraphrase"``: a sentence that
    no data set holds, alone. ``"antonym"``: the sentence of the opposite task, alone, and no such cell for tasks that have
    none. ``"copy"``: the actions of an example, repeated. ``"expert"``: the scripted expert. ``"told:<task>"``: that task's
    sentence, in the scenes of each of the tasks.

    :param tasks: distinct names.
    :param conditions: names of conditions.
    :param unseen: the tasks that training held out; None where nobody knows.
    :param same_goal: see `Cell`; for goals that are hidden, so that only the example tells them.
    :param seed: decides which other task is the wrong one; no task is its own, and each is the wrong one once.
    :return: the cells, task after task.
    :raises ValueError: on an unknown condition, a task named twice, no task, or a single task where another is needed.
    """
    if not tasks or len(set(tasks)) < len(tasks):
        raise ValueError(f"`tasks` must name at least one task, each once, got {list(tasks)}")
    need_another = {"wrong", "wrong-text"} if same_goal else {"wrong", "wrong-text", "wrong-trajectory"}
    if len(tasks) < 2 and (needy := sorted(need_another & set(conditions))):
        raise ValueError(
            f"the condition {needy[0]!r} takes the prompt of another evaluated task: evaluate at least two, or leave it out"
        )
    circle = np.random.default_rng(seed).permutation(len(tasks))
    following = {tasks[one]: tasks[other] for one, other in zip(circle, np.roll(circle, -1), strict=True)}
    return [
        Cell(
            task,
            _condition(name, task, following[task], same_goal),
            _is_seen(task, unseen),
            same_goal=same_goal,
        )
        for task in tasks
        for name in conditions
        if _has(name, task, same_goal)
    ]


def shared_scene_cells(
    tasks: Collection[str] | None = None, *, goal_visible: bool = True, unseen: Collection[str] | None = None
) -> list[Cell]:
    """Scenes in which only the sentence says which of two tasks is meant.

    A scene of a task that is told the task's own sentence measures whether the policy does what it is told, and told that of
    the other, whether it does what it is not told. The second is left out where doing the other succeeds here as well: who
    carries a puck to the goal has reached it with the hand.

    :param tasks: only pairs of these; by default of all 50.
    :param goal_visible: whether the observations show the goal. Hidden, other pairs begin alike, and those are left out whose
        goal is separate from the object: no sentence tells it.
    :param unseen: see `make_cells`.
    :return: cells of the conditions ``"told:<task>"``, each once.
    """
    pairs = [
        pair
        for pair in SHARED_SCENES
        if pair.exclusive
        and (tasks is None or set(pair.tasks) <= set(tasks))
        and (pair.goal_visible if goal_visible else not any(TASKS[task].goal_separate for task in pair.tasks))
    ]
    told = [
        (task, sentence_of)
        for pair in pairs
        for task in pair.tasks
        for sentence_of in pair.tasks
        if sentence_of == task or task in pair.exclusive
    ]
    return [
        Cell(task, Condition(f"{TOLD}{sentence_of}", text_of=sentence_of), _is_seen(task, unseen))
        for task, sentence_of in dict.fromkeys(told)
    ]


def _has(condition: str, task: str, same_goal: bool) -> bool:
    """Whether a condition means anything in a task."""
    if condition == "antonym":
        return task_info(task).opposite is not None
    if condition == "wrong-trajectory" and same_goal and task in TASKS:
        return TASKS[task].goal_needs_telling
    return True


def _is_seen(task: str, unseen: Collection[str] | None) -> bool | None:
    return None if unseen is None else task not in unseen


def _condition(name: str, task: str, other: str, same_goal: bool) -> Condition:
    if name == "antonym":
        return Condition(name, text_of=task_info(task).opposite)
    known = {
        "text+trajectory": Condition(name, text_of=task, trajectory_of=task),
        "text": Condition(name, text_of=task),
        "trajectory": Condition(name, trajectory_of=task),
        "none": Condition(name),
        "wrong": Condition(name, text_of=other, trajectory_of=other),
        "wrong-text": Condition(name, text_of=other, trajectory_of=task),
        "wrong-trajectory": Condition(
            name, text_of=task, trajectory_of=task if same_goal else other, other_goal=same_goal
        ),
        "paraphrase": Condition(name, text_of=task, paraphrased=True),
        "copy": Condition(name, trajectory_of=task, copy=True),
        "expert": Condition(name, expert=True),
    }
    if name in known:
        return known[name]
    if name.startswith(TOLD) and name != TOLD:
        return Condition(name, text_of=name.removeprefix(TOLD))
    raise ValueError(f"unknown condition {name!r}: use {', '.join((*CONDITIONS, *CONTROLS))} or {TOLD}<task>")
