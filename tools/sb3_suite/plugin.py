"""Part of pytest while it runs SB3's tests: chooses the instances, and writes what became of each."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.sb3_suite.adaptation import NOT_APPLICABLE
from tools.sb3_suite.changes import ALGORITHMS
from tools.sb3_suite.outcomes import NOT_APPLIED

_RESULTS = pytest.StashKey[list[dict[str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the file of the results."""
    parser.addoption("--outcomes", type=Path, help="JSON file to write what became of each instance to")


def pytest_configure(config: pytest.Config) -> None:
    """Begin the list of results."""
    config.stash[_RESULTS] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what applies, and of instances that differ by their algorithm alone the one most like LLMDPD."""
    chosen: dict[tuple[str, str, str], pytest.Item] = {}
    for item in sorted(items, key=_rank):
        chosen.setdefault((item.path.name, _name(item), instance_of(item)), item)
    kept = [item for item in items if item in chosen.values()]
    found = config.stash[_RESULTS]
    for item in kept:
        reason = rule(NOT_APPLICABLE, item.path.name, _name(item), instance_of(item))
        if reason is not None:
            found.append(_result(item, NOT_APPLIED, reason))
    left_out = {(each["file"], each["test"], each["instance"]) for each in found}
    items[:] = [item for item in kept if (item.path.name, _name(item), instance_of(item)) not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Note what became of an instance, once."""
    report: Any = yield
    if report.when == "call" or (report.when == "setup" and not report.passed):
        why = "" if call.excinfo is None else call.excinfo.exconly()
        item.config.stash[_RESULTS].append(_result(item, report.outcome, why))
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the results."""
    session.config.option.outcomes.write_text(json.dumps(session.config.stash[_RESULTS]))


def rule(rules: dict[str, Any], file: str, test: str, instance: str) -> Any:
    """Look a test up in rules by file, by test, and by test with a parameter of the instance in brackets."""
    parameters = [f"{file}::{test}[{parameter}]" for parameter in _parameters(instance)]
    return next((rules[key] for key in (*parameters, f"{file}::{test}", file) if key in rules), None)


def _parameters(instance: str) -> list[str]:
    """List the ways in which a rule may name an instance: by a parameter, or by neighbours with dashes."""
    parts = instance.split("-")
    return [
        "-".join(parts[first:end]) for first in range(len(parts)) for end in range(first + 1, len(parts) + 1)
    ]


def _result(item: pytest.Item, outcome: str, why: str) -> dict[str, str]:
    where = {"file": item.path.name, "test": _name(item), "instance": instance_of(item)}
    return {**where, "outcome": outcome, "why": why}


def _name(item: pytest.Item) -> str:
    return item.name.partition("[")[0]


def instance_of(item: pytest.Item) -> str:
    """Name the parameters of an instance but its algorithm."""
    parts = item.name.partition("[")[2].removesuffix("]").split("-")
    return "-".join(part for part in parts if part.upper() not in ALGORITHMS)


def _rank(item: pytest.Item) -> int:
    parts = item.name.partition("[")[2].removesuffix("]").upper().split("-")
    return next((ALGORITHMS.index(part) for part in parts if part in ALGORITHMS), 0)
