"""Puts the results of an evaluation into a JSON file and into tables."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from sb3_llmdpd.checkpoint.values import to_json
from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.evaluation.conditions import Condition
from sb3_llmdpd.evaluation.phases import PHASES, Phases, phase_rates
from sb3_llmdpd.evaluation.statistics import (
    Estimate,
    interquartile_mean_over_tasks,
    mean_over_tasks,
    success_rate,
)
from sb3_llmdpd.evaluation.tasks import CellResult

FORMAT_VERSION = 1
PACKAGES = ("sb3-llmdpd", "torch", "stable-baselines3", "gymnasium", "numpy", "metaworld", "mujoco")
"""Whose versions are written beside the results."""
GROUPS = {False: "unseen", True: "seen", None: "all"}
"""Groups of tasks by whether the model was trained on them, in the order of the tables."""


@dataclass(frozen=True)
class GroupSummary:
    """The tasks of one group under one condition.

    :param seen: whether the model was trained on these tasks; None where nobody said.
    :param condition: its name.
    :param n_tasks: tasks in the group.
    :param success: mean of the tasks' success rates (any step).
    :param iqm: interquartile mean of the tasks' success rates (any step).
    :param last_success: mean of the tasks' success rates (last step).
    :param total_reward: mean of the tasks' mean returns.
    """

    seen: bool | None
    condition: str
    n_tasks: int
    success: Estimate
    iqm: Estimate
    last_success: Estimate
    total_reward: Estimate


@dataclass(frozen=True)
class Table:
    """A table of strings.

    :param title: stands above it.
    :param header: (n_columns,).
    :param rows: each (n_columns,).
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """The table in Markdown, its title as a paragraph above it."""
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        lines = ["| " + " | ".join(row) + " |" for row in (self.header, rule, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines, ""])

    def text(self) -> str:
        """The table for a terminal: aligned columns, never cut."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        rule = ["-" * width for width in widths]
        lines = [
            "  ".join(
                entry.rjust(width) if number else entry.ljust(width)
                for number, (entry, width) in enumerate(columns)
            )
            for columns in (zip(row, widths, strict=True) for row in (self.header, rule, *self.rows))
        ]
        return "\n".join([self.title, *lines, ""])


def write_results(path: str | Path, results: Sequence[CellResult], settings: Mapping[str, Any]) -> None:
    """Write ``results.json``, whole or not at all.

    The file is one JSON object: ``format_version`` (1); ``created`` (UTC); ``versions`` of Python and the packages;
    ``settings``, as given; ``cells``, the fields of `CellResult`, all lists with an entry an episode, and with them
    ``success_rate`` and its interval; ``groups``, the fields of `GroupSummary`. An estimate has ``value``, ``low``, ``high``
    (95%).

    :param path: the file.
    :param results: of `evaluate_tasks`.
    :param settings: whatever is needed to do it again; classes become their names.
    """
    document = {
        "format_version": FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "settings": to_json(settings),
        "cells": [
            {**asdict(result), "success_rate": asdict(success_rate(result.successes))} for result in results
        ],
        "groups": [asdict(summary) for summary in summarise(results)],
    }
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n")


def read_results(path: str | Path) -> tuple[list[CellResult], dict[str, Any]]:
    """Read what `write_results` wrote.

    :param path: the file.
    :return: results and settings.
    :raises FileNotFoundError: when there is no such file.
    :raises ValueError: when it is something else, damaged, or of another format version.
    """
    try:
        document = json.loads(Path(path).read_text())
        found = document["format_version"]
        if found == FORMAT_VERSION:
            return [_result_of(cell) for cell in document["cells"]], document["settings"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} does not hold results of an evaluation ({type(error).__name__}: {error})"
        ) from error
    raise ValueError(
        f"{path} has format version {found!r}, and this sb3_llmdpd reads version {FORMAT_VERSION}"
    )


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that decide the numbers; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def summarise(results: Sequence[CellResult]) -> list[GroupSummary]:
    """Seen and unseen tasks apart, under each condition; scenes that were told another task's sentence are left out.

    :param results: of `evaluate_tasks`.
    :return: unseen tasks first, conditions in the order of the results.
    """
    summaries = []
    for seen in GROUPS:
        for condition in _conditions(results):
            of_group = [
                result for result in results if result.seen is seen and result.condition.name == condition
            ]
            if of_group:
                summaries.append(_summary(seen, condition, of_group))
    return summaries


def tables(results: Sequence[CellResult]) -> list[Table]:
    """The tables that end an evaluation: groups with their intervals, single tasks, scenes where the sentence decides, and how
    far the episodes came where that was watched.

    :param results: of `evaluate_tasks`.
    :return: those of them that have rows.
    """
    made = [_group_table(results), _task_table(results), _told_table(results), _phase_table(results)]
    return [table for table in made if table.rows]


def _group_table(results: Sequence[CellResult]) -> Table:
    rows = tuple(
        (
            f"{GROUPS[summary.seen]} ({summary.n_tasks})",
            summary.condition,
            _with_interval(summary.success),
            _with_interval(summary.iqm),
            f"{summary.last_success.value:.2f}",
            f"{summary.total_reward.value:.0f}",
        )
        for summary in summarise(results)
    )
    header = ("tasks", "prompt", "success", "interquartile mean", "last step", "return")
    return Table("Success at any step, over tasks [95% bootstrap interval]", header, rows)


def _task_table(results: Sequence[CellResult]) -> Table:
    conditions = _conditions(results)
    rates = {(result.task, result.condition.name): f"{result.success_rate:.2f}" for result in results}
    groups = {result.task: GROUPS[result.seen] for result in results if not result.condition.is_told}
    tasks = sorted(groups, key=lambda task: list(GROUPS.values()).index(groups[task]))
    rows = tuple(
        (task, groups[task], *(rates.get((task, name), "") for name in conditions)) for task in tasks
    )
    return Table("Success at any step, by task", ("task", "", *conditions), rows)


def told_rates(results: Sequence[CellResult], values: str = "successes") -> dict[str, Estimate]:
    """How a policy follows sentences in scenes that tasks share.

    :param results: of `evaluate_tasks`; of them, those of the conditions ``"told:<task>"``.
    :param values: ``"successes"``, or ``"soon"`` for those that `sb3_llmdpd.data.metaworld.scenes.soon` counts.
    :return: under ``"does what it is told"`` the mean success in scenes that were told their own sentence, and under
        ``"does the other"`` in those that were told another one; a key is left out where there are none.
    """
    told = [result for result in results if result.condition.is_told]
    rates = {
        "does what it is told": [
            getattr(result, values) for result in told if result.condition.text_of == result.task
        ],
        "does the other": [
            getattr(result, values) for result in told if result.condition.text_of != result.task
        ],
    }
    return {name: mean_over_tasks(of_tasks) for name, of_tasks in rates.items() if of_tasks}


def _told_table(results: Sequence[CellResult]) -> Table:
    rows = [
        (
            result.task,
            str(result.condition.text_of),
            *map(_with_interval, map(success_rate, (result.successes, result.soon))),
        )
        for result in results
        if result.condition.is_told
    ]
    soon = told_rates(results, "soon")
    rows += [
        ("mean", name, _with_interval(rate), _with_interval(soon[name]))
        for name, rate in told_rates(results).items()
    ]
    header = ("scenes of", "told the sentence of", "success", "soon")
    return Table("Scenes where the sentence alone decides [95% interval]", header, tuple(rows))


def _phase_table(results: Sequence[CellResult]) -> Table:
    rows = tuple(
        (
            result.task,
            result.condition.name,
            *(f"{rate:.2f}" for rate in phase_rates(result.phases).values()),
            f"{100 * median(episode.closest for episode in result.phases):.1f}",
        )
        for result in results
        if result.phases is not None
    )
    header = ("task", "prompt", *PHASES, "closest [cm]")
    return Table(
        "Share of the episodes that came so far, and the median of how near the hand came", header, rows
    )


def _conditions(results: Sequence[CellResult]) -> list[str]:
    return list(dict.fromkeys(result.condition.name for result in results if not result.condition.is_told))


def _summary(seen: bool | None, condition: str, results: Sequence[CellResult]) -> GroupSummary:
    successes = [result.successes for result in results]
    return GroupSummary(
        seen,
        condition,
        len(results),
        success=mean_over_tasks(successes),
        iqm=interquartile_mean_over_tasks(successes),
        last_success=mean_over_tasks([result.last_successes for result in results]),
        total_reward=mean_over_tasks([result.returns for result in results]),
    )


def _with_interval(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _result_of(cell: Mapping[str, Any]) -> CellResult:
    per_episode = ("seeds", "successes", "last_successes", "returns", "first_successes")
    phases = cell.get("phases")
    return CellResult(
        task=cell["task"],
        condition=Condition(**cell["condition"]),
        seen=cell["seen"],
        **{name: tuple(cell[name]) for name in per_episode},
        phases=None if phases is None else tuple(Phases(**episode) for episode in phases),
    )
