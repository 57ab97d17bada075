"""The report of a grid as one HTML file with its charts in it, which opens without a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from sb3_llmdpd.evaluation.charts import COLOURS
from sb3_llmdpd.evaluation.report import Table
from sb3_llmdpd.evaluation.statistics import Estimate

LABELS, BARS, NUMBERS, LINE = 300, 480, 60, 24
"""Widths of a chart's three columns and height of a bar's line, in pixels."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25em 0.7em; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child, .words td, .words th { text-align: left; }
.words td { white-space: normal; }
svg { max-width: 100%; height: auto; font-size: 13px; }
svg text { fill: currentColor; }
:root { color-scheme: light dark; }
"""


@dataclass(frozen=True)
class Panel:
    """One chart.

    :param title: stands above it.
    :param estimates: success rates by the label of their bar.
    """

    title: str
    estimates: Mapping[str, Estimate]


def page(
    title: str,
    facts: Sequence[str],
    panels: Sequence[Panel],
    tables: Sequence[Table],
    not_shown: Sequence[str],
) -> str:
    """Put a report together.

    :param title: of the page.
    :param facts: sentences that come first.
    :param panels: the charts.
    :param tables: the tables; one of two columns is taken to be of words.
    :param not_shown: sentences that come last.
    :return: the HTML.
    """
    body = [
        f"<h1>{escape(title)}</h1>",
        _list(facts),
        *(f"<h2>{escape(panel.title)}</h2>\n{chart(panel)}" for panel in panels),
        *(f"<h2>{escape(table.title)}</h2>\n{_table(table)}" for table in tables),
        "<h2>What the numbers do not show</h2>",
        _list(not_shown),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
    )
    return "\n".join(
        ["<!doctype html>", f'<html lang="en"><head>{head}</head><body>', *body, "</body></html>", ""]
    )


def chart(panel: Panel) -> str:
    """Draw horizontal bars with their intervals.

    :param panel: what to draw.
    :return: an SVG element.
    """
    height = LINE * (len(panel.estimates) + 1)
    lines = [
        f'<line x1="{_x(tick)}" x2="{_x(tick)}" y1="0" y2="{height - LINE}" stroke="#8886"/>'
        f'<text x="{_x(tick)}" y="{height - 7}" text-anchor="middle">{tick:g}</text>'
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    for number, (label, estimate) in enumerate(panel.estimates.items()):
        middle = LINE * number + LINE / 2
        bar = f'y="{middle - 7}" width="{_x(estimate.value) - LABELS:.1f}" height="14" fill="{COLOURS[0]}"'
        lines += [
            f'<text x="{LABELS - 8}" y="{middle + 4}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{LABELS}" {bar}/>',
            f'<line x1="{_x(estimate.low):.1f}" x2="{_x(estimate.high):.1f}" y1="{middle}" y2="{middle}"'
            f' stroke="{COLOURS[3]}" stroke-width="3"/>',
            f'<text x="{LABELS + BARS + 12}" y="{middle + 4}">{estimate.value:.2f}</text>',
        ]
    size = f'width="{LABELS + BARS + NUMBERS}" height="{height}" viewBox="0 0 {LABELS + BARS + NUMBERS} {height}"'
    return "\n".join([f'<svg role="img" aria-label="{escape(panel.title)}" {size}>', *lines, "</svg>"])


def _x(rate: float) -> float:
    return LABELS + BARS * rate


def _list(sentences: Sequence[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "\n</ul>"


def _table(table: Table) -> str:
    def line(entries: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(entry)}</{tag}>" for entry in entries) + "</tr>"

    of_words = ' class="words"' if len(table.header) == 2 else ""
    rows = "\n".join(line(row, "td") for row in table.rows)
    return (
        f"<table{of_words}>\n<thead>{line(table.header, 'th')}</thead>\n<tbody>\n{rows}\n</tbody>\n</table>"
    )
