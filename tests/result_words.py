"""What the docs say of results, for their tests: the words of a page, and the tables and raw results of what was tried."""

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from result_tables import DOCS

from sb3_llmdpd.benchmarks.common.variants import BOTH, EXAMPLE, TEXT

TRIED = DOCS / "what_was_tried.md"

SHOWN = (("seen", BOTH), ("seen", TEXT), ("unseen", BOTH), ("unseen", EXAMPLE))
"""Columns of the table of trainings, once for the errors and once for success."""
TOLD = (SHOWN[0], *SHOWN[2:])
"""Those of them that were measured where the sentence alone was not."""


def table_behind(mark: str) -> list[list[str]]:
    """The cells of the table that follows a comment in the page of what was tried, without its head."""
    lines = (
        TRIED.read_text(encoding="utf-8").partition(f"<!-- {mark} -->\n")[2].partition("\n\n")[0].splitlines()
    )
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def words_of(page: Path) -> str:
    """Its text in one line."""
    return " ".join(page.read_text(encoding="utf-8").split())


def rate(values: Iterable[float]) -> str:
    rates = list(values)
    return f"{mean(rates):.2f}" if rates else ""


def means(cells: Collection[dict[str, float]]) -> list[str]:
    """Success rate and return of tasks, as a table shows them."""
    return [rate(cell["success"] for cell in cells), f"{mean(cell['return'] for cell in cells):.0f}"]


def paired(one: dict[str, float], other: dict[str, float], digits: int) -> tuple[str, str]:
    """Mean of the differences and its standard error."""
    assert set(one) == set(other)
    differences = [one[key] - other[key] for key in one]
    error = stdev(differences) / len(differences) ** 0.5
    return f"{mean(differences):.{digits}f}", f"{error:.{digits}f}"


def of_tuning(name: str) -> Any:
    return json.loads((DOCS / "results" / "tuning.json").read_text(encoding="utf-8"))[name]


def tuning(goal: str) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = of_tuning(goal)
    return runs
