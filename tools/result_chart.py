"""Draws tables of success: lines over the number of examples, or dots beside the names of rows."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_llmdpd.common.files import whole_file
from tools.result_files import ESTIMATE, estimate

STYLES = (("#0072b2", "o"), ("#56b4e9", "s"), ("#d55e00", "^"), ("#999999", "v"), ("#009e73", "D"))
"""Colour and mark of each line, in the order of the rows."""
_STYLE = {"svg.hashsalt": "results", "font.size": 10, "svg.fonttype": "none"}


def description(rows: list[list[str]]) -> str:
    """The drawn table as text, which the chart carries: a test compares it, since fonts differ by machine."""
    return "\n".join(" | ".join(row) for row in rows)


def draw(rows: list[list[str]], path: Path) -> None:
    """Draw a table whose columns of estimates begin with a number of examples.

    A row with several estimates becomes a line with intervals. A row with one has nothing to do with that
    number and becomes a level.

    :param rows: head and rows of the table; columns without estimates are left out.
    :param path: of the svg.
    """
    head, *entries = rows
    columns = [place for place, entry in enumerate(entries[0]) if ESTIMATE.fullmatch(entry)]
    numbers = [int(head[place].split()[0]) for place in columns]
    lines = {entry[0].strip("*"): [entry[place] for place in columns] for entry in entries}
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8, 4.4), layout="constrained")
        axes = figure.subplots()
        several = {name: shown for name, shown in lines.items() if sum(map(bool, shown)) > 1}
        for place, (name, shown) in enumerate(several.items()):
            _line(axes, numbers, shown, name, place, len(several))
        for name in [name for name in lines if name not in several]:
            _level(axes, next(filter(None, lines[name])), name)
        axes.set_xscale("log")
        axes.set_xticks(numbers, map(str, numbers))
        axes.minorticks_off()
        axes.set(xlabel="examples of the unseen task", ylabel="success, with its 95% interval")
        axes.set(ylim=(0, 1.03), xlim=(numbers[0] / 1.35, numbers[-1] * 1.35))
        axes.legend(loc="lower right", frameon=False)
        _save(figure, axes, "y", rows, path)


def draw_dots(rows: list[list[str]], path: Path) -> None:
    """Draw a table of estimates: a line of dots with intervals for each row, in a colour for each column.

    :param rows: head and rows of the table; columns without estimates are left out.
    :param path: of the svg.
    """
    head, *entries = rows
    columns = [place for place in range(len(head)) if any(ESTIMATE.fullmatch(row[place]) for row in entries)]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8, 1.4 + 0.42 * len(entries)), layout="constrained")
        axes = figure.subplots()
        for number, column in enumerate(columns):
            colour, mark = STYLES[number]
            shown = [(y, *estimate(row[column])) for y, row in enumerate(entries) if row[column]]
            y, values, low, high = zip(*shown, strict=True)
            aside = [at + 0.14 * (number - (len(columns) - 1) / 2) for at in y]
            axes.hlines(aside, low, high, color=colour, linewidth=1.5)
            axes.plot(values, aside, mark, color=colour, label=head[column], markersize=5)
        axes.set_yticks(range(len(entries)), [row[0].strip("*") for row in entries])
        axes.invert_yaxis()
        axes.set(xlim=(-0.02, 1.02), xlabel="success, with its 95% interval")
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
        _save(figure, axes, "x", rows, path)


def _save(figure: Figure, axes: Axes, graded: str, rows: list[list[str]], path: Path) -> None:
    """Save a chart with a grid along its axis of success."""
    axes.grid(axis=graded, color="#dddddd")
    axes.spines[["top", "right"]].set_visible(False)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Description": description(rows)})


def _line(axes: Axes, numbers: list[int], shown: list[str], name: str, place: int, n_lines: int) -> None:
    """Draw one method, moved a little to its side: intervals that lie on each other cannot be read."""
    colour, mark = STYLES[place]
    aside = 1.03 ** (place - (n_lines - 1) / 2)
    points = [(n * aside, *estimate(entry)) for n, entry in zip(numbers, shown, strict=True) if entry]
    x, values, low, high = zip(*points, strict=True)
    axes.vlines(x, low, high, color=colour, linewidth=1.5)
    axes.plot(x, values, marker=mark, color=colour, label=name, linewidth=1.2, markersize=5)


def _level(axes: Axes, shown: str, name: str) -> None:
    value, _, _ = estimate(shown)
    axes.axhline(value, color="#666666", linewidth=0.8, linestyle="dashed")
    beside = ("axes fraction", "data")
    axes.annotate(name, (1.01, value), xycoords=beside, va="center", color="#666666", fontsize=9)
