"""Draws success rates and learning curves."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
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

Drawn = TypeVar("Drawn")
Bars = dict[str, dict[str, Estimate]]
"""Estimates by the label below a group of bars, and by condition."""


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


def success_chart(results: Sequence[CellResult], path: str | Path) -> None:
    """Draw the success rates of all tasks under all conditions with 95% intervals, seen and unseen apart.

    Where no environment says whether a step was a success, the returns are drawn.

    :param results: results of `evaluate_tasks`.
    :param path: the png.
    :raises ImportError: without matplotlib.
    :raises ValueError: when there is nothing to draw.
    """
    panels = [(title, bars) for title, bars in _panels(results).items() if bars]
    if not panels:
        raise ValueError("there are no results to draw")
    n_bars = max(sum(map(len, bars.values())) for _, bars in panels)
    n_places = max(len(bars) for _, bars in panels)
    figure = new_figure((max(7.0, 3.0 + 0.16 * n_bars), 3.2 * len(panels)))
    for number, (title, bars) in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, number + 1)
        axes.set_title(title, loc="left")
        axes.set_xlim(-0.5, n_places - 0.5)
        _draw_bars(axes, bars, is_rate=says_success(results))
    save_figure(figure, path)


def curves_chart(rows: Sequence[Mapping[str, float]], path: str | Path) -> None:
    """Draw what was logged in training, a small chart for each quantity.

    :param rows: logged values of `LearningCurve`.
    :param path: the png.
    :raises ImportError: without matplotlib.
    :raises ValueError: when nothing was logged.
    """
    names = sorted({name for row in rows for name in row if name.startswith("train/")} - {"train/n_updates"})
    if not names:
        raise ValueError("there is no learning curve to draw: train for more steps than `log_interval`")
    n_columns = 3
    n_rows = -(-len(names) // n_columns)
    figure = new_figure((4.0 * n_columns, 2.6 * n_rows))
    for number, name in enumerate(names):
        axes = figure.add_subplot(n_rows, n_columns, number + 1)
        points = [(row["step"], row[name]) for row in rows if name in row]
        axes.plot(*zip(*points, strict=True), color=COLOURS[0])
        axes.set_title(name.removeprefix("train/"), loc="left")
        axes.set_xlabel("gradient steps")
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


def _panels(results: Sequence[CellResult]) -> dict[str, Bars]:
    titles = {seen: f"{group} tasks" for seen, group in GROUPS.items()}
    told, judged = "scenes where the sentence alone decides", says_success(results)
    panels: dict[str, Bars] = {title: {} for title in (*titles.values(), told)}
    for result in results:
        title = told if result.condition.is_told else titles[result.seen]
        panels[title].setdefault(result.task, {})[result.condition.name] = score_of(result, judged)
    for summary in summarise(results):
        panels[titles[summary.seen]].setdefault("mean", {})[summary.condition] = summary.score
    return panels


def _draw_bars(axes: Any, bars: Bars, is_rate: bool) -> None:
    conditions = list(dict.fromkeys(condition for estimates in bars.values() for condition in estimates))
    width = 0.8 / len(conditions)
    for number, condition in enumerate(conditions):
        places = np.array([place for place, estimates in enumerate(bars.values()) if condition in estimates])
        estimates = [estimates[condition] for estimates in bars.values() if condition in estimates]
        values, lows, highs = np.array([(each.value, each.low, each.high) for each in estimates]).T
        axes.bar(
            places + (number - (len(conditions) - 1) / 2) * width,
            values,
            width,
            # The ends may coincide with the value: rounding must not turn a length negative.
            yerr=np.clip([values - lows, highs - values], 0.0, None),
            label=condition,
            color=COLOURS[number % len(COLOURS)],
            error_kw={"elinewidth": 0.7, "ecolor": "#444444"},
        )
    axes.set_xticks(range(len(bars)), list(bars), rotation=20, ha="right")
    if is_rate:
        axes.set_ylim(0.0, 1.05)
    axes.set_ylabel("success" if is_rate else "return")
    tidy(axes)
