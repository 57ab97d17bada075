"""Reports as one HTML file with its charts in it, which opens without a network."""

from collections.abc import Mapping, Sequence
from html import escape

from sb3_llmdpd.evaluation.charts import COLOURS
from sb3_llmdpd.evaluation.report import Table
from sb3_llmdpd.evaluation.statistics import Estimate, rounded

LABELS, DOTS, NUMBERS, LINE = 300, 480, 60, 24
"""Widths of a chart's three columns, and height of a line, in pixels."""

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


Dots = Mapping[str, Estimate]
"""Success rates by the label of their dot."""


def page(
    title: str,
    facts: Sequence[str],
    charts: Mapping[str, Dots],
    tables: Sequence[Table],
    last_heading: str,
    last: Sequence[str],
) -> str:
    """Put a report together.

    :param title: title of the page.
    :param facts: sentences that come first.
    :param charts: charts by their titles.
    :param tables: tables; one of two columns is taken to be of words.
    :param last_heading: heading of the sentences that come last.
    :param last: sentences that come last.
    """
    parts = [
        *((heading, chart(heading, dots)) for heading, dots in charts.items()),
        *((table.title, _table(table)) for table in tables),
        (last_heading, _list(last)),
    ]
    body = "\n".join(f"<h2>{escape(heading)}</h2>\n{content}" for heading, content in parts)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
{_list(facts)}
{body}
</body></html>
"""


def chart(title: str, dots: Dots) -> str:
    """Draw dots with their intervals, as an SVG element."""
    width, height = LABELS + DOTS + NUMBERS, LINE * (len(dots) + 1)
    lines = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = _x(tick)
        lines.append(f'<line x1="{x}" x2="{x}" y1="0" y2="{height - LINE}" stroke="#8886"/>')
        lines.append(f'<text x="{x}" y="{height - 7}" text-anchor="middle">{tick:g}</text>')
    for number, (label, estimate) in enumerate(dots.items()):
        y, ends = LINE * number + LINE / 2, f'x1="{_x(estimate.low):.1f}" x2="{_x(estimate.high):.1f}"'
        lines += [
            f'<text x="{LABELS - 8}" y="{y + 4}" text-anchor="end">{escape(label)}</text>',
            f'<line {ends} y1="{y}" y2="{y}" stroke="{COLOURS[0]}" stroke-width="2"/>',
            f'<circle cx="{_x(estimate.value):.1f}" cy="{y}" r="5" fill="{COLOURS[0]}"/>',
            f'<text x="{LABELS + DOTS + 16}" y="{y + 4}">{rounded(estimate.value)}</text>',
        ]
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return "\n".join([f'<svg role="img" aria-label="{escape(title)}" {size}>', *lines, "</svg>"])


def _x(rate: float) -> float:
    return LABELS + DOTS * rate


def _list(sentences: Sequence[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "\n</ul>"


def _table(table: Table) -> str:
    of_words = ' class="words"' if len(table.header) == 2 else ""
    rows = "\n".join(_line(row, "td") for row in table.rows)
    head = _line(table.header, "th")
    return f"<table{of_words}>\n<thead>{head}</thead>\n<tbody>\n{rows}\n</tbody>\n</table>"


def _line(entries: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(entry)}</{tag}>" for entry in entries) + "</tr>"
