"""Draws success rates and learning curves."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from textwrap import wrap
from typing import Any, TypeVar

import numpy as np
import typer

from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.common.optional_imports import require
from sb3_llmdpd.evaluation.report import GROUPS, says_success, score_of, summarise
from sb3_llmdpd.evaluation.statistics import Estimate
from sb3_llmdpd.evaluation.tasks import CellResult

COLOURS = ("#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#999999", "#cc79a7", "#f0e442")
"""Colours of Okabe and Ito, which colour-blind readers can tell apart."""

GOOD_SIGNS = {
    "Losses": "bc_loss falls below 1 and flattens; critic_loss settles, and does not keep growing",
    "Values": "They level off within what rewards and discount allow; do not trust one that keeps rising",
    "Learning rates": "They follow the schedule that was asked for",
    "Held-out episodes": "Errors fall and level off below 1; where they rise, episodes are learned by heart",
    "Held-out tasks": "Errors stay near those of held-out episodes; far above, a new task will not work",
}
"""Descriptions of good curves, by the title of a group of learning curves."""

Drawn = TypeVar("Drawn")
Rows = dict[str, dict[str, Estimate]]
"""Estimates by the label of a row, and by condition."""
Points = list[tuple[float, float]]
"""Steps, and the value at each."""
Lines = dict[str, Points]
"""Points by the name of a line."""

_HELD_OUT = {"validation": "Held-out episodes", "validation_unseen": "Held-out tasks"}
_TOLD = "told"
_LINE = 0.095
"""Inches from one dot to the next."""
_LEAST = 3
"""Least height of a row, in dots: a label may have two lines."""
_COLUMNS, _WIDTH = 4, 12.0
"""Charts of learning curves side by side, and inches of their whole."""
_LETTERS = 11.0
"""Letters in an inch of a group's title."""
_LOG_FROM = 30.0
"""Ratio of the largest to the smallest value from which on an axis is logarithmic."""


def draw_or_say_why(chart: Callable[[Drawn, Path], None], drawn: Drawn, path: Path) -> None:
    """Draw a chart, or print why it is left out.

    :param chart: draws it; one of the functions below.
    :param drawn: what it shows.
    :param path: the png.
    """
    try:
        chart(drawn, path)
    except ImportError as error:
        typer.echo(f"{path.name} is left out: {error}")


def success_chart(results: Sequence[CellResult], path: str | Path, model: str = "") -> None:
    """Draw the success rates of all tasks under all conditions with 95% intervals, seen and unseen apart.

    A row is a task, a dot is a condition; the mean over several tasks comes first. Where no
    environment says whether a step was a success, the returns are drawn.

    :param results: results of `evaluate_tasks`.
    :param path: the png.
    :param model: name of the model, for the title.
    :raises ImportError: without matplotlib.
    :raises ValueError: when there is nothing to draw.
    """
    panels = _panels(results)
    if not panels:
        raise ValueError("there are no results to draw")
    is_rate = says_success(results)
    heights = [_height(panel) for panel in panels]
    # Of the whole: the dots, and for each panel its title and the numbers below.
    figure = new_figure((8.0, 1.0 + _LINE * sum(heights) + 0.65 * len(panels)))
    drawn = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    conditions = list(
        dict.fromkeys(each for panel in panels for rows in panel.rows.values() for each in rows)
    )
    colours = {
        name: COLOURS[number % len(COLOURS)] for number, name in enumerate(conditions) if name != _TOLD
    }
    for axes, panel in zip(drawn, panels, strict=True):
        _draw_dots(axes, panel, {**colours, _TOLD: "#222222"})
        if is_rate:
            axes.set_xlim(0.0, 1.0)
            axes.set_xticks(np.linspace(0.0, 1.0, 6))
    marks = [drawn[0].plot([], [], "o", color=colour, label=name)[0] for name, colour in colours.items()]
    title = f"{'Success at any step' if is_rate else 'Return'}, with 95% intervals"
    figure.legend(
        handles=marks,
        loc="outside upper center",
        ncols=4,
        frameon=False,
        title=f"{model}\n{title}" if model else title,
        title_fontproperties={"weight": "bold"},
    )
    save_figure(figure, path)


def curves_chart(rows: Sequence[Mapping[str, float]], path: str | Path) -> None:
    """Draw what was logged in training, in groups that say what good looks like.

    A learning rate that never changes is left out, and so are errors of single parts of an action or an
    episode, which are in the file of the learning curve.

    :param rows: logged values of `LearningCurve`.
    :param path: the png.
    :raises ImportError: without matplotlib.
    :raises ValueError: when nothing was logged.
    """
    groups = _curve_groups(rows)
    if not groups:
        raise ValueError("there is no learning curve to draw: train for more steps than `log_interval`")
    lines_of_groups = _side_by_side(groups)
    heights = [max(_grid(len(groups[title]))[0] for title in line) for line in lines_of_groups]
    figure = new_figure((_WIDTH, 2.3 * sum(heights) + 0.6 * len(heights)))
    figures = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, titles in zip(figures, lines_of_groups, strict=True):
        widths = [_grid(len(groups[title]))[1] for title in titles]
        parts = part.subfigures(1, len(titles), squeeze=False, width_ratios=widths)[0]
        for of_group, title, width in zip(parts, titles, widths, strict=True):
            sign = wrap(f"{title}. {GOOD_SIGNS[title]}", round(_WIDTH * _LETTERS * width / sum(widths)))
            of_group.suptitle("\n".join(sign), x=0.01, ha="left", fontsize="medium")
            _draw_group(of_group, title, groups[title])
    save_figure(figure, path)


def new_figure(size: tuple[float, float]) -> Any:
    """Make an empty figure of matplotlib.

    :param size: width and height in inches.
    :raises ImportError: without matplotlib.
    """
    return require("matplotlib.figure", "plots").Figure(figsize=size, layout="constrained")


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a figure of matplotlib to a png, whole or not at all."""
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def tidy(axes: Any) -> None:
    """Take away the frame of matplotlib's axes, and put the legend beside them."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


@dataclass(frozen=True)
class _Panel:
    """One part of a chart of success rates.

    :param title: title above it.
    :param rows: estimates by the label of a row, and by condition.
    :param has_mean: True if the first row is the mean over the others.
    """

    title: str
    rows: Rows
    has_mean: bool


def _panels(results: Sequence[CellResult]) -> list[_Panel]:
    panels, judged = [], says_success(results)
    for seen, group in GROUPS.items():
        of_group = [each for each in results if each.seen is seen and not each.condition.is_told]
        rows: Rows = {}
        if has_mean := len({each.task for each in of_group}) > 1:
            rows["mean"] = {each.condition: each.score for each in summarise(of_group)}
        for each in of_group:
            rows.setdefault(each.task, {})[each.condition.name] = score_of(each, judged)
        if of_group:
            panels.append(_Panel(f"{group} tasks, {_n_episodes(of_group)}", rows, has_mean))
    if told := [each for each in results if each.condition.is_told]:
        rows = {
            f"{each.task},\ntold {each.condition.text_of}": {_TOLD: score_of(each, judged)} for each in told
        }
        title = f"scenes where the sentence alone decides, {_n_episodes(told)}"
        panels.append(_Panel(title, rows, has_mean=False))
    return panels


def _n_episodes(results: Sequence[CellResult]) -> str:
    """Say how many episodes a dot stands for."""
    numbers = sorted({result.n_episodes for result in results})
    return f"n = {numbers[0]} a dot" if len(numbers) == 1 else f"n = {numbers[0]} to {numbers[-1]} a dot"


def _height(panel: _Panel) -> int:
    """Count the lines of a panel: one a dot, and one or two between tasks."""
    return sum(max(len(dots), _LEAST) + 1 for dots in panel.rows.values())


def _draw_dots(axes: Any, panel: _Panel, colours: Mapping[str, str]) -> None:
    line, middles = 0.0, []
    for number, dots in enumerate(panel.rows.values()):
        height = max(len(dots), _LEAST) + 1
        middles.append(line + height / 2)
        if number % 2:
            axes.axhspan(line, line + height, color="#f2f2f2", zorder=0)
        for place, (condition, estimate) in enumerate(dots.items()):
            axes.errorbar(
                estimate.value,
                line + (height - len(dots)) / 2 + place + 0.5,
                # The ends may coincide with the value: rounding must not turn a length negative.
                xerr=np.clip([[estimate.value - estimate.low], [estimate.high - estimate.value]], 0.0, None),
                fmt="o",
                markersize=4.5,
                elinewidth=1.2,
                color=colours[condition],
                clip_on=False,
            )
        line += height
    axes.set_yticks(middles, list(panel.rows))
    if panel.has_mean:
        axes.get_yticklabels()[0].set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(line, 0.0)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.set_title(panel.title, loc="left")


def _curve_groups(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Lines]]:
    """Sort what was logged into groups of charts, and those into lines; empty ones are left out."""
    groups: dict[str, dict[str, Lines]] = {title: {} for title in GOOD_SIGNS}
    for name in dict.fromkeys(name for row in rows for name in row):
        points = [(row["step"], row[name]) for row in rows if name in row]
        if place := _place(name, points):
            title, chart, line = place
            groups[title].setdefault(chart, {})[line] = points
    return {title: charts for title, charts in groups.items() if charts}


def _place(name: str, points: Points) -> tuple[str, str, str] | None:
    """Name the group, the chart and the line of what was logged; None for what is not drawn."""
    kind, _, rest = name.partition("/")
    if kind in _HELD_OUT:
        prompt, _, what = rest.partition("_")
        is_part = re.search(r"_(begin|middle|end|of_\d+)$", rest)
        return None if is_part else (_HELD_OUT[kind], what.replace("_", " "), prompt)
    if kind != "train" or rest == "n_updates":
        return None
    if rest.endswith("learning_rate"):
        is_constant = len({value for _, value in points}) == 1
        return None if is_constant else ("Learning rates", "learning rate", rest)
    if rest.endswith("loss"):
        return "Losses", rest, rest
    return "Values", "value" if rest.endswith("value") else rest, rest


def _side_by_side(groups: Mapping[str, Mapping[str, Lines]]) -> list[list[str]]:
    """Put groups of few charts side by side: the titles of each row of groups."""
    rows: list[list[str]] = [[]]
    for title in groups:
        if rows[-1] and sum(len(groups[each]) for each in (*rows[-1], title)) > _COLUMNS:
            rows.append([])
        rows[-1].append(title)
    return rows


def _grid(n_charts: int) -> tuple[int, int]:
    """Choose rows and columns for the charts of a group."""
    n_rows = -(-n_charts // _COLUMNS)
    return n_rows, -(-n_charts // n_rows)


def _draw_group(figure: Any, title: str, charts: Mapping[str, Lines]) -> None:
    is_held_out = title in _HELD_OUT.values()
    for number, (name, lines) in enumerate(charts.items()):
        axes = figure.add_subplot(*_grid(len(charts)), number + 1)
        for (label, points), colour in zip(lines.items(), cycle(COLOURS)):
            # A single point makes no line.
            marker = "o" if len(points) == 1 else ""
            axes.plot(*zip(*points, strict=True), color=colour, label=label, marker=marker, linewidth=1.2)
        values = [value for points in lines.values() for _, value in points]
        if (is_held_out or title == "Losses") and max(values) > _LOG_FROM * min(values) > 0:
            axes.set_yscale("log")
        axes.set_title(name, loc="left", fontsize="medium")
        axes.set_xlabel("gradient steps")
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1 and not is_held_out:
            axes.legend(frameon=False, fontsize="small")
    if is_held_out:  # all charts have the same lines
        handles = figure.axes[0].get_lines()
        figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize="small")
