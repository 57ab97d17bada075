"""Names the cells of an evaluation: one task under one condition each."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from sb3_llmdpd.data.metaworld.scenes import SHARED_SCENES
from sb3_llmdpd.data.metaworld.tasks import TASKS
from sb3_llmdpd.evaluation.metaworld_suite import METAWORLD_SUITE
from sb3_llmdpd.evaluation.suite import Suite

CONDITIONS = ("text+trajectory", "text", "trajectory", "none", "wrong", "expert")
"""Conditions that every evaluation should have, beside ``"told:<task>"``."""

CONTROLS = ("wrong-text", "wrong-trajectory", "antonym", "paraphrase", "copy")
"""Further conditions that `make_cells` knows by name."""

CONTROLS_OF_PROMPTS = tuple(name for name in CONTROLS if name != "copy")
"""The controls in which the evaluated policy acts."""

PARAPHRASE = "paraphrase"
"""A condition; behind a colon may stand the style of the phrasing."""

TOLD = "told:"
"""Begins the name of a condition that fixes the sentence."""


@dataclass(frozen=True)
class Condition:
    """The one who acts, and the prompt.

    :param name: name in tables.
    :param text_of: task whose sentence is told; None for none.
    :param trajectory_of: task of which an example is shown; None for none.
    :param expert: the environment's scripted expert acts instead of the policy.
    :param copy: `CopyPlayer`, which repeats the example's actions, acts instead of the policy.
    :param paraphrased: the sentence is a phrasing that no data set holds.
    :param style: style of that phrasing, see `Suite.paraphrases`.
    :param other_goal: the example has another goal than the scene: the one that ends farthest away.
    :param n_examples: examples that are shown at once.
    """

    name: str
    text_of: str | None = None
    trajectory_of: str | None = None
    expert: bool = False
    copy: bool = False
    paraphrased: bool = False
    other_goal: bool = False
    n_examples: int = 1
    style: str = ""

    @property
    def is_told(self) -> bool:
        """True of ``"told:<task>"``, which fixes the sentence in all scenes."""
        return self.name.startswith(TOLD)


@dataclass(frozen=True)
class Cell:
    """One task under one condition.

    :param task: task whose scenes are played and whose success counts.
    :param condition: the one who acts, and the prompt.
    :param seen: True if the policy was trained on the task; None if unknown.
    :param n_episodes: episodes to play; None for the number given to `evaluate_tasks`.
    :param same_goal: each scene has the goal of one of the task's examples, with its object placed anew;
        where an example of the task is shown, it is that one.
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
    suite: Suite = METAWORLD_SUITE,
) -> list[Cell]:
    """Put every task under every condition.

    - ``"text+trajectory"``, ``"text"``, ``"trajectory"``: the task's own sentence, an example of it, or both.
    - ``"none"``: no prompt.
    - ``"wrong"``: sentence and example of another of the tasks.
    - ``"wrong-text"``: the sentence of another task, with the right example.
    - ``"wrong-trajectory"``: the example of another task, with the right sentence. With ``same_goal``, an
      example of the same task with another goal; a task whose goal is a part of its object has no such cell.
    - ``"paraphrase"``: a sentence that no data set holds, alone. ``"paraphrase:terse"``: one of a style, such
      as Meta-World's `STYLES`; tasks without a wording of that style have no such cell.
    - ``"antonym"``: the sentence of the opposite task, alone; tasks without an opposite have no such cell.
    - ``"copy"``: the actions of an example, repeated.
    - ``"expert"``: the scripted expert.
    - ``"told:<task>"``: that task's sentence, in the scenes of each of the tasks.

    A number behind a condition that shows an example is the number of examples, as in ``"trajectory:5"``.

    :param tasks: distinct names.
    :param conditions: names of conditions.
    :param unseen: tasks that training held out; None if unknown.
    :param same_goal: see `Cell`; for hidden goals, which only the example tells.
    :param seed: decides which other task is the wrong one; each serves once, and never as its own.
    :param suite: says what is known of the tasks; Meta-World by default.
    :return: the cells, task after task.
    :raises ValueError: on an unknown condition, no task, a task named twice, or one where two are needed.
    """
    if not tasks or len(set(tasks)) < len(tasks):
        raise ValueError(f"`tasks` must name at least one task, each once, got {list(tasks)}")
    need_another = {"wrong", "wrong-text"} if same_goal else {"wrong", "wrong-text", "wrong-trajectory"}
    if len(tasks) < 2 and (needy := sorted(need_another & {split_number(name)[0] for name in conditions})):
        lacking = f"the condition {needy[0]!r} takes the prompt of another evaluated task"
        raise ValueError(f"{lacking}: evaluate at least two, or leave it out")
    circle = np.random.default_rng(seed).permutation(len(tasks))
    following = {tasks[one]: tasks[other] for one, other in zip(circle, np.roll(circle, -1), strict=True)}
    return [
        Cell(task, condition, _is_seen(task, unseen), same_goal=same_goal)
        for task in tasks
        for name in conditions
        if (condition := _condition(name, task, following[task], same_goal, suite)) is not None
    ]


def default_conditions(n_tasks: int, *, texts: bool, examples: bool, expert: bool) -> list[str]:
    """Choose those of `CONDITIONS` that can be.

    :param n_tasks: number of tasks; a wrong prompt is that of another one.
    :param texts: there are sentences, and the model reads them.
    :param examples: there are examples.
    :param expert: the environments have experts.
    """
    possible = {
        "text+trajectory": texts and examples,
        "text": texts,
        "trajectory": examples,
        "none": True,
        "wrong": n_tasks > 1 and (texts or examples),
        "expert": expert,
    }
    return [name for name in CONDITIONS if possible[name]]


def wrong_as_far_as_known(cells: Sequence[Cell], *, texts: bool, examples: bool) -> list[Cell]:
    """Leave sentence or example out of wrong prompts where there is none of any task.

    :param cells: cells of any conditions; those named ``"wrong"`` change.
    :param texts: there are sentences, and the model reads them.
    :param examples: there are examples.
    """
    lacking: dict[str, Any] = {} if texts else {"text_of": None}
    lacking |= {} if examples else {"trajectory_of": None}
    return [
        cell
        if cell.condition.name != "wrong"
        else replace(cell, condition=replace(cell.condition, **lacking))
        for cell in cells
    ]


def shared_scene_cells(
    tasks: Collection[str] | None = None, *, goal_visible: bool = True, unseen: Collection[str] | None = None
) -> list[Cell]:
    """Make cells in whose scenes only the sentence says which of two tasks is meant.

    With the task's own sentence a cell measures if the policy does what it is told, and with the other task's
    sentence if it does what it is not told. The second is left out where doing the other task succeeds here
    as well: whoever carries a puck to the goal has reached it with the hand.

    :param tasks: only pairs of these; by default of all 50.
    :param goal_visible: True if observations show the goal. With a hidden goal other pairs begin alike, and a
        pair is left out if a goal is separate from the object: no sentence tells it.
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
        for task, sentence_of in product(pair.tasks, repeat=2)
        if sentence_of == task or task in pair.exclusive
    ]
    return [
        Cell(task, Condition(f"{TOLD}{sentence_of}", text_of=sentence_of), _is_seen(task, unseen))
        for task, sentence_of in dict.fromkeys(told)
    ]


def _is_seen(task: str, unseen: Collection[str] | None) -> bool | None:
    return None if unseen is None else task not in unseen


def split_number(name: str) -> tuple[str, int]:
    """Read the number of examples off a condition's name: ``"trajectory:5"`` is ``("trajectory", 5)``.

    :param name: name of a condition.
    :return: the condition with one example, and the number; 1 where there is none.
    """
    base, sign, number = name.rpartition(":")
    return (base, int(number)) if sign and number.isdecimal() else (name, 1)


def _condition(name: str, task: str, other: str, same_goal: bool, suite: Suite) -> Condition | None:
    """Make a condition by its name; None where it means nothing in the task."""
    base, n_examples = split_number(name)
    condition = _condition_of_one(base, task, other, same_goal, suite)
    if condition is None or base == name:
        return condition
    if condition.trajectory_of is None or condition.copy or not n_examples:
        raise ValueError(
            f"the condition {base!r} shows no {n_examples} examples: leave the number out of {name!r}"
        )
    return replace(condition, name=name, n_examples=n_examples)


def _condition_of_one(name: str, task: str, other: str, same_goal: bool, suite: Suite) -> Condition | None:
    """Make a condition that shows one example at most."""
    if name == "antonym":
        opposite = suite.opposite(task)
        return None if opposite is None else Condition(name, text_of=opposite)
    if name == "wrong-trajectory" and same_goal and not suite.goal_needs_telling(task):
        return None
    shown = task if same_goal else other
    known = {
        "text+trajectory": Condition(name, text_of=task, trajectory_of=task),
        "text": Condition(name, text_of=task),
        "trajectory": Condition(name, trajectory_of=task),
        "none": Condition(name),
        "wrong": Condition(name, text_of=other, trajectory_of=other),
        "wrong-text": Condition(name, text_of=other, trajectory_of=task),
        "wrong-trajectory": Condition(name, text_of=task, trajectory_of=shown, other_goal=same_goal),
        PARAPHRASE: Condition(name, text_of=task, paraphrased=True),
        "copy": Condition(name, trajectory_of=task, copy=True),
        "expert": Condition(name, expert=True),
    }
    if name in known:
        return known[name]
    if name.startswith(f"{PARAPHRASE}:"):
        style = name.partition(":")[2]
        if style not in suite.styles:
            there = f"known are {', '.join(suite.styles)}" if suite.styles else "these tasks have none"
            raise ValueError(f"unknown style of phrasings {style!r} in the condition {name!r}: {there}")
        given = suite.paraphrases(task, style)
        return Condition(name, text_of=task, paraphrased=True, style=style) if given else None
    if name.startswith(TOLD) and name != TOLD:
        return Condition(name, text_of=name.removeprefix(TOLD))
    raise ValueError(f"unknown condition {name!r}: use {', '.join((*CONDITIONS, *CONTROLS))} or {TOLD}<task>")
