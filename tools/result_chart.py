"""Draws a table of estimates: a dot with its interval for each row, a panel for each column."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_llmdpd.common.files import whole_file
from tools.result_files import ESTIMATE, estimate


def description(rows: list[list[str]]) -> str:
    """The drawn table as text, which the chart carries: a test compares it, since fonts differ by machine."""
    return "\n".join(" | ".join(row) for row in rows)


def draw(rows: list[list[str]], path: Path) -> None:
    """Draw a table, the first row on top and in colour.

    :param rows: head and rows of a table; columns without estimates are left out.
    :param path: of the svg.
    """
    head, *entries = rows
    columns = [place for place, entry in enumerate(entries[0]) if ESTIMATE.fullmatch(entry)]
    with mpl.rc_context({"svg.hashsalt": "results", "font.size": 10, "svg.fonttype": "none"}):
        figure = Figure(figsize=(10, 1.2 + 0.4 * len(entries)), layout="constrained")
        for axes, place in zip(figure.subplots(1, len(columns), sharey=True), columns, strict=True):
            _panel(axes, [entry[place] for entry in entries])
            axes.set_title(head[place], fontsize=10, loc="left")
            axes.set_yticks(range(len(entries)), [entry[0].strip("*") for entry in entries])
        figure.supxlabel("success at any step, with its 95% interval", fontsize=10)
        with whole_file(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None, "Description": description(rows)})


def _panel(axes: Axes, entries: list[str]) -> None:
    for height, entry in enumerate(entries):
        if entry:
            value, low, high = estimate(entry)
            colour = "#666666" if height else "#0072b2"
            axes.plot([low, high], [height, height], color=colour, linewidth=2)
            axes.plot(value, height, "o", color=colour)
            axes.annotate(
                f"{value:.2f}", (value, height), (0, 5), textcoords="offset points", ha="center", color=colour
            )
    axes.set(xlim=(-0.03, 1.05), ylim=(len(entries) - 0.5, -0.7))
    axes.grid(axis="x", color="#dddddd")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
