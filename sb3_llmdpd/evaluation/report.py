"""Sums up the results of an evaluation, in groups of tasks and in tables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from sb3_llmdpd.evaluation.phases import PHASES, phase_rates
from sb3_llmdpd.evaluation.statistics import (
    Estimate,
    interquartile_mean_over_tasks,
    mean_over_tasks,
    rounded,
    success_rate,
    with_interval,
)
from sb3_llmdpd.evaluation.tasks import CellResult

GROUPS = {False: "unseen", True: "seen", None: "all"}
"""Groups of tasks by whether the model was trained on them, in the order of the tables."""


@dataclass(frozen=True)
class GroupSummary:
    """The tasks of one group under one condition.

    :param seen: whether the model was trained on these tasks; None where nobody said.
    :param condition: name of the condition.
    :param n_tasks: tasks in the group.
    :param success: mean of the tasks' success rates (any step); None, like the next two, where no environment
        said whether a step was a success.
    :param iqm: interquartile mean of the tasks' success rates (any step).
    :param last_success: mean of the tasks' success rates (last step).
    :param total_reward: mean of the tasks' mean returns.
    """

    seen: bool | None
    condition: str
    n_tasks: int
    success: Estimate | None
    iqm: Estimate | None
    last_success: Estimate | None
    total_reward: Estimate

    @property
    def score(self) -> Estimate:
        """Success, or the return where nobody says it."""
        return self.total_reward if self.success is None else self.success


@dataclass(frozen=True)
class Table:
    """A table of strings.

    :param title: title above it.
    :param header: (n_columns,).
    :param rows: each (n_columns,).
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Write the table in Markdown, its title as a paragraph above it."""
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        lines = ["| " + " | ".join(row) + " |" for row in (self.header, rule, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines, ""])

    def text(self) -> str:
        """Write the table for a terminal: aligned columns, never cut."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        lines = [self.title]
        for first, *others in (self.header, ["-" * width for width in widths], *self.rows):
            aligned = map(str.rjust, others, widths[1:])
            lines.append("  ".join([first.ljust(widths[0]), *aligned]))
        return "\n".join([*lines, ""])


def says_success(results: Sequence[CellResult]) -> bool:
    """Tell whether any environment said if a step was a success; returns are reported otherwise."""
    return any(result.judged for result in results)


def score_of(result: CellResult, by_success: bool) -> Estimate:
    """Estimate the success rate of a cell, or its mean return.

    :param result: result of a cell.
    :param by_success: see `says_success`.
    """
    return success_rate(result.successes) if by_success else mean_over_tasks([result.returns])


def summarise(results: Sequence[CellResult]) -> list[GroupSummary]:
    """Sum up seen and unseen tasks apart, under each condition.

    :param results: results of `evaluate_tasks`; scenes that were told another task's sentence are left out.
    :return: unseen tasks first, conditions in the order of the results.
    """
    groups: dict[tuple[bool | None, str], list[CellResult]] = {
        (seen, condition): [] for seen in GROUPS for condition in _conditions(results)
    }
    for result in results:
        if not result.condition.is_told:
            groups[result.seen, result.condition.name].append(result)
    judged = says_success(results)
    return [_summary(seen, condition, group, judged) for (seen, condition), group in groups.items() if group]


def tables(results: Sequence[CellResult]) -> list[Table]:
    """Make the tables that end an evaluation.

    :param results: results of `evaluate_tasks`.
    :return: groups with their intervals, single tasks, scenes where the sentence decides, and how far the
        episodes came where that was watched; those of them that have rows.
    """
    made = [_group_table(results), _task_table(results), _told_table(results), _phase_table(results)]
    return [table for table in made if table.rows]


def _group_table(results: Sequence[CellResult]) -> Table:
    if not says_success(results):
        return _group_returns(results)
    digits = _digits(results)
    rows = tuple(
        (
            f"{GROUPS[summary.seen]} ({summary.n_tasks})",
            summary.condition,
            with_interval(summary.success),
            with_interval(summary.iqm),
            "" if summary.last_success is None else rounded(summary.last_success.value),
            rounded(summary.total_reward.value, digits),
        )
        for summary in summarise(results)
    )
    header = ("tasks", "prompt", "success", "interquartile mean", "last step", "return")
    return Table("Success at any step, over tasks [95% bootstrap interval]", header, rows)


def _group_returns(results: Sequence[CellResult]) -> Table:
    digits = _digits(results)
    rows = tuple(
        (
            f"{GROUPS[summary.seen]} ({summary.n_tasks})",
            summary.condition,
            with_interval(summary.total_reward, digits),
        )
        for summary in summarise(results)
    )
    return Table(
        "Return, over tasks [95% bootstrap interval]; the environment says nothing of success",
        ("tasks", "prompt", "return"),
        rows,
    )


def _digits(results: Sequence[CellResult]) -> int:
    """Count the digits after the point that show three of the largest mean return."""
    largest = max(abs(score_of(result, by_success=False).value) for result in results)
    return 2 if largest == 0 else min(max(2 - math.floor(math.log10(largest)), 0), 6)


def _task_table(results: Sequence[CellResult]) -> Table:
    conditions, judged = _conditions(results), says_success(results)
    digits = 2 if judged else _digits(results)
    rates = {
        (result.task, result.condition.name): rounded(score_of(result, judged).value, digits)
        for result in results
    }
    groups = {result.task: GROUPS[result.seen] for result in results if not result.condition.is_told}
    order = list(GROUPS.values())
    rows = tuple(
        (task, group, *(rates.get((task, condition), "") for condition in conditions))
        for task, group in sorted(groups.items(), key=lambda item: order.index(item[1]))
    )
    title = "Success at any step, by task" if judged else "Return, by task"
    return Table(title, ("task", "", *conditions), rows)


def told_rates(results: Sequence[CellResult], values: str = "successes") -> dict[str, Estimate]:
    """Measure how a policy follows sentences in scenes that tasks share.

    :param results: results of `evaluate_tasks`; of them, those of the conditions ``"told:<task>"``.
    :param values: ``"successes"``, ``"soon"`` (`CellResult.soon`), or ``"returns"``.
    :return: under ``"does what it is told"`` the mean success in scenes that were told their own sentence,
        and under ``"does the other"`` in those that were told another one; no key without any.
    """
    rates: dict[str, list[Sequence[float]]] = {"does what it is told": [], "does the other": []}
    for result in results:
        if result.condition.is_told:
            own = result.condition.text_of == result.task
            rates["does what it is told" if own else "does the other"].append(getattr(result, values))
    return {name: mean_over_tasks(of_tasks) for name, of_tasks in rates.items() if of_tasks}


def _told_table(results: Sequence[CellResult]) -> Table:
    if not says_success(results):
        return _told_returns(results)
    rows = []
    for result in results:
        if result.condition.is_told:
            rates = (with_interval(success_rate(values)) for values in (result.successes, result.soon))
            rows.append((result.task, str(result.condition.text_of), *rates))
    soon = told_rates(results, "soon")
    rows += [
        ("mean", name, with_interval(rate), with_interval(soon[name]))
        for name, rate in told_rates(results).items()
    ]
    header = ("scenes of", "told the sentence of", "success", "soon")
    return Table("Scenes where the sentence alone decides [95% interval]", header, tuple(rows))


def _told_returns(results: Sequence[CellResult]) -> Table:
    digits = _digits(results)
    rows = [
        (result.task, str(result.condition.text_of), with_interval(score_of(result, False), digits))
        for result in results
        if result.condition.is_told
    ]
    means = told_rates(results, "returns").items()
    rows += [("mean", name, with_interval(mean, digits)) for name, mean in means]
    header = ("scenes of", "told the sentence of", "return")
    return Table("Scenes that were told a sentence [95% interval]", header, tuple(rows))


def _phase_table(results: Sequence[CellResult]) -> Table:
    rows = tuple(
        (
            result.task,
            result.condition.name,
            *(rounded(rate) for rate in phase_rates(result.phases).values()),
            rounded(100 * median(episode.closest for episode in result.phases), 1),
        )
        for result in results
        if result.phases is not None
    )
    title = "Share of the episodes that came so far, and the median of how near the hand came"
    return Table(title, ("task", "prompt", *PHASES, "closest [cm]"), rows)


def _conditions(results: Sequence[CellResult]) -> list[str]:
    return list(dict.fromkeys(result.condition.name for result in results if not result.condition.is_told))


def _summary(seen: bool | None, condition: str, results: Sequence[CellResult], judged: bool) -> GroupSummary:
    successes = [result.successes for result in results]
    return GroupSummary(
        seen,
        condition,
        len(results),
        success=mean_over_tasks(successes) if judged else None,
        iqm=interquartile_mean_over_tasks(successes) if judged else None,
        last_success=mean_over_tasks([result.last_successes for result in results]) if judged else None,
        total_reward=mean_over_tasks([result.returns for result in results]),
    )
