"""The tables of docs/benchmarks.md that grids give: `make tables` writes them anew after a change of docs/results."""

import re
from functools import cache
from pathlib import Path

from sb3_llmdpd.benchmarks.metaworld.report import facts
from sb3_llmdpd.benchmarks.metaworld.results import GridResults, read_grid
from sb3_llmdpd.benchmarks.metaworld.tables import tables
from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.evaluation.report import Table

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "benchmarks.md"

_GRID = re.compile(r"(?<=<!-- grid )(?P<name>\S+) -->\n(?P<shown>.*?)(?=<!-- end of grid -->)", re.DOTALL)
_LEFT_TO_THE_REPORT = ("full told text+trajectory: returns", "The rows")
"""Tables of a grid's report that the page does without."""


def results_of(name: str) -> GridResults:
    """The raw results of a grid, by the name of its folder in docs/results."""
    return read_grid(DOCS / "results" / name / "results.json")


@cache  # each interval is a bootstrap
def tables_of(name: str) -> list[Table]:
    """All tables of a grid's report."""
    return tables(results_of(name))


def of_grid(name: str) -> str:
    """What the page shows of a grid: its facts and tables, as markdown."""
    shown = [table.markdown() for table in tables_of(name) if not table.title.startswith(_LEFT_TO_THE_REPORT)]
    return "\n".join([*(f"- {fact}" for fact in facts(results_of(name))), "", *shown])


def on_the_page() -> dict[str, str]:
    """What the page holds now, by the name of the grid."""
    return {match["name"]: match["shown"] for match in _GRID.finditer(PAGE.read_text(encoding="utf-8"))}


def filled(page: str) -> str:
    """A page with the tables of the grids that it names, whatever stood there."""
    return _GRID.sub(lambda match: f"{match['name']} -->\n{of_grid(match['name'])}", page)


if __name__ == "__main__":
    text = filled(PAGE.read_text(encoding="utf-8"))
    with whole_file(PAGE) as path:
        path.write_text(text, encoding="utf-8")
