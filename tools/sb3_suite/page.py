"""Makes the tables of docs/reference/sb3_compatibility.md: results, and our own tests that answer SB3's."""

import json
import tomllib
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from tools.sb3_suite.adaptation import CHANGES, CONTINUOUS, NOT_APPLICABLE
from tools.sb3_suite.outcomes import DIFFERS, FAILED, KEPT, NOT_APPLIED, SKIPPED

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "sb3_suite.json"
ANSWERS = Path(__file__).with_name("answers.toml")


def read() -> dict[str, Any]:
    """Read the last run: ``stable_baselines3``, the version, and ``results``, a list of `run.Result`."""
    return json.loads(RESULTS.read_text())


@cache
def answers() -> dict[str, dict[str, dict[str, Any]]]:
    """Read by file and test: ``by``, tests of ours that answer it, and a ``note`` that no run shows."""
    return tomllib.loads(ANSWERS.read_text())


def block(what: str) -> str:
    """Make the block of a page, in Markdown.

    :param what: file of SB3's tests; ``summary``; or ``not applicable``, the files that are not run at all
    """
    results = read()["results"]
    if what == "summary":
        return _summary(results)
    if what == "not applicable":
        return _table(["SB3's tests", "reason"], [(f"`{name}`", why) for name, why in _files_not_run()])
    rows = [
        (f"`{test}`", *cells)
        for test, cells in _rows(what, [each for each in results if each["file"] == what])
    ]
    return _table(["SB3's test", "passes", "asked anew by", "difference"], rows)


def _summary(results: list[dict[str, str]]) -> str:
    counts = Counter(each["outcome"] for each in results)
    run = counts[KEPT] + counts[DIFFERS] + counts[FAILED]
    own = sum(bool(_own_reasons(each["file"], each["test"])) for each in results if each["outcome"] == KEPT)
    rows = [
        ("apply and were run", run),
        ("pass", counts[KEPT]),
        ("of these, in a test with changes of its own", own),
        ("differ by design", counts[DIFFERS]),
        ("fail otherwise", counts[FAILED]),
        ("need what the machine does not have", counts[SKIPPED]),
    ]
    head = f"instances of SB3 {read()['stable_baselines3']}"
    return _table([head, "number"], [(words, str(number)) for words, number in rows])


def _files_not_run() -> list[tuple[str, str]]:
    return [(name, why) for name, why in NOT_APPLICABLE.items() if name.endswith(".py")]


def _rows(file: str, results: list[dict[str, str]]) -> Iterable[tuple[str, tuple[str, str, str]]]:
    known = answers().get(file, {})
    tests = dict.fromkeys([*(each["test"] for each in results), *known])
    for test in tests:
        of_test = [each for each in results if each["test"] == test]
        answer = known.get(test, {"by": []})
        reasons = [*_own_reasons(file, test), *_reasons_of_instances(of_test), answer.get("note", "")]
        told = dict.fromkeys(reason for reason in reasons if reason)
        yield test, (_passes(of_test), ", ".join(f"`{name}`" for name in answer["by"]), "; ".join(told))


def _own_reasons(file: str, test: str) -> list[str]:
    """List the reasons of the changes that are made for a test alone; other spaces are no difference."""
    own = [change.reason for change in CHANGES if change.where == f"{file}::{test}"]
    return [reason for reason in own if reason != CONTINUOUS]


def _reasons_of_instances(results: list[dict[str, str]]) -> list[str]:
    """List the reasons of instances that do not pass, with their number where it is not that of all."""
    counts = Counter(each["reason"] for each in results)
    n = len(results)
    return [
        reason and (reason if count == n else f"{reason} ({count} of {n})")
        for reason, count in counts.items()
    ]


def _passes(results: list[dict[str, str]]) -> str:
    """Say how many of the instances that were run pass; nothing where none was."""
    counts = Counter(each["outcome"] for each in results if each["outcome"] not in (NOT_APPLIED, SKIPPED))
    return f"{counts[KEPT]} of {counts.total()}" if counts else ""


def _table(head: list[str], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
