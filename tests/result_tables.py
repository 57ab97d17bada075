"""The tables of docs/benchmarks.md that grids give: `make tables` writes them anew after a change of docs/results."""

import re
from pathlib import Path

from sb3_llmdpd.benchmarks.grid_report import facts
from sb3_llmdpd.benchmarks.grid_results import read_grid
from sb3_llmdpd.benchmarks.grid_tables import tables

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "benchmarks.md"

_GRID = re.compile(r"(?<=<!-- grid )(?P<name>\S+) -->\n.*?(?=<!-- end of grid -->)", re.DOTALL)
_LEFT_TO_THE_REPORT = ("full told text+trajectory: returns", "The rows")
"""Tables of a grid's report that the page does without."""


def of_grid(name: str) -> str:
    """What the page shows of a grid.

    :param name: of its folder in docs/results.
    :return: its facts and tables, as markdown.
    """
    results = read_grid(DOCS / "results" / name / "results.json")
    shown = [table.markdown() for table in tables(results) if not table.title.startswith(_LEFT_TO_THE_REPORT)]
    return "\n".join([*(f"- {fact}" for fact in facts(results)), "", *shown])


def on_the_page() -> dict[str, str]:
    """What the page holds now, by the name of the grid."""
    page = PAGE.read_text(encoding="utf-8")
    return {match["name"]: match[0].partition("\n")[2] for match in _GRID.finditer(page)}


def fill() -> None:
    """Write the tables of all grids that the page names."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_GRID.sub(lambda match: f"{match['name']} -->\n{of_grid(match['name'])}", page), encoding="utf-8")


if __name__ == "__main__":
    fill()
