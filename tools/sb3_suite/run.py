"""Runs SB3's tests as they are adapted, and says of each instance what became of it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.sb3_suite.adaptation import CHANGES, DIFFERENT, NOT_APPLICABLE
from tools.sb3_suite.changes import algorithm_tests, changed
from tools.sb3_suite.outcomes import DIFFERS, FAILED, KEPT, NOT_APPLIED, SKIPPED
from tools.sb3_suite.plugin import rule
from tools.sb3_suite.source import ROOT

_OPTIONS = ["-p", "tools.sb3_suite.plugin", "-p", "no:cacheprovider", "-q", "--tb=no"]
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

Result = dict[str, str]
"""``file``, ``test`` and ``instance`` (its parameters but the algorithm), ``outcome``, and ``reason``."""


def run(tests: Path, scratch: Path, only: Sequence[str] = ()) -> list[Result]:
    """Run the tests in which an algorithm takes part.

    :param tests: folder of SB3's tests
    :param scratch: empty folder for the adapted files
    :param only: files, or tests as in ``"test_run.py::test_dqn"``; none for all
    :return: the results, in the order of files and tests
    :raises ValueError: when there is no such file, or no such test in which an algorithm takes part
    """
    paths = {path.name: path for path in sorted(tests.glob("test_*.py"))}
    names_of = {name: algorithm_tests(path.read_text()) for name, path in paths.items()}
    known = [*paths, *(f"{file}::{name}" for file, names in names_of.items() for name in names)]
    if unknown := [each for each in only if each not in known]:
        raise ValueError(f"SB3 has no tests {unknown[0]!r}; known files: {', '.join(paths)}")
    results: list[Result] = []
    for path in paths.values():
        source = path.read_text()
        names = [name for name in names_of[path.name] if is_chosen(path.name, name, only)]
        if path.name in NOT_APPLICABLE:
            reason = NOT_APPLICABLE[path.name]
            results += [_result(path.name, name, "", NOT_APPLIED, reason) for name in names]
        elif names:
            (scratch / path.name).write_text(changed(source, path.name, CHANGES))
            found = _outcomes(scratch, path.name, names)
            results += sorted((judged(each) for each in found), key=lambda each: names.index(each["test"]))
    return results


def is_chosen(file: str, test: str, only: Sequence[str]) -> bool:
    """Tell whether a test is among those that `run` was told."""
    return not only or file in only or f"{file}::{test}" in only


def _outcomes(folder: Path, file: str, names: list[str]) -> list[Result]:
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = expensive\n")
    written = folder / "outcomes.json"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    env = {**os.environ, "PYTHONPATH": paths, "SB3_LLMDPD_CACHE": str(folder / "cache"), **_ENVIRONMENT}
    chosen = [f"{file}::{name}" for name in names]
    command = [sys.executable, "-m", "pytest", *_OPTIONS, f"--outcomes={written}", *chosen]
    subprocess.run(command, cwd=folder, env=env, check=False)  # the outcomes say what has failed
    found: list[Result] = json.loads(written.read_text())
    written.unlink()
    lost = [name for name in names if name not in {each["test"] for each in found}]
    where = {"file": file, "instance": "", "outcome": "failed", "why": "pytest could not collect it"}
    return found + [{**where, "test": name} for name in lost]


def judged(outcome: Result) -> Result:
    """Judge what became of an instance: what has to fail has to do so with the right error.

    :param outcome: entry that the plugin wrote: ``outcome`` of pytest, and ``why``
    :return: the result
    """
    file, test, instance, why = (outcome[name] for name in ("file", "test", "instance", "why"))
    expected = rule(DIFFERENT, file, test, instance)
    if outcome["outcome"] == NOT_APPLIED:
        return _result(file, test, instance, NOT_APPLIED, why)
    if outcome["outcome"] == "skipped":
        return _result(file, test, instance, SKIPPED, why.removeprefix("Skipped: "))
    if outcome["outcome"] == "passed":
        if expected is None:
            return _result(file, test, instance, KEPT, "")
        return _result(file, test, instance, FAILED, "it passes, and is said to be different")
    if expected is not None and re.search(expected[0], why):
        return _result(file, test, instance, DIFFERS, expected[1])
    return _result(file, test, instance, FAILED, why.splitlines()[0])


def _result(file: str, test: str, instance: str, outcome: str, reason: str) -> Result:
    return {"file": file, "test": test, "instance": instance, "outcome": outcome, "reason": reason}
