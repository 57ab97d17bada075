"""The page on SB3 compatibility names tests that exist, and leaves out no test that it should answer."""

import ast
import re
from pathlib import Path

import pytest

from tools.sb3_suite import page as sb3_page
from tools.sb3_suite.adaptation import DIFFERENT, NOT_APPLICABLE
from tools.sb3_suite.outcomes import DIFFERS, FAILED, KEPT, NOT_APPLIED
from tools.sb3_suite.plugin import rule
from tools.sb3_suite.source import pinned_version

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "reference" / "sb3_compatibility.md").read_text()
NAME = re.compile(r"`(test_\w+)`")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if re.match(r"\| `test_\w+` ", line)
]

RESULTS = sb3_page.read()["results"]
APPLICABLE = sorted({(each["file"], each["test"]) for each in RESULTS if each["outcome"] != NOT_APPLIED})
"""SB3's tests that ask something of an offline algorithm of continuous actions."""


def names_of_tests() -> set[str]:
    trees = [ast.parse(path.read_text()) for path in TESTS.glob("test_*.py")]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def answered(row: list[str]) -> set[str]:
    """List the tests of ours that a row of the page names."""
    return set(NAME.findall(row[2]))


def test_every_test_that_the_page_names_exists():
    named = {name for row in ROWS for name in answered(row)}
    assert len(named) > 80
    assert sorted(named - names_of_tests()) == []


@pytest.mark.parametrize(("file", "test"), APPLICABLE)
def test_a_test_of_sb3_that_concerns_us_is_answered(file, test):
    assert sb3_page.answers()[file][test]["by"]
    assert f"<!-- sb3: {file} -->" in PAGE


def test_a_test_of_sb3_without_an_answer_has_a_reason():
    assert [row[0] for row in ROWS if not answered(row) and not row[-1]] == []


def test_our_answers_to_sb3_are_all_on_the_page():
    trees = [ast.parse(path.read_text()) for path in TESTS.glob("test_sb3_*.py")]
    functions = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    answers = [
        node.name for node in functions if (ast.get_docstring(node) or "").startswith("Answers `test_")
    ]
    assert len(answers) > 80
    assert [name for name in answers if f"`{name}`" not in PAGE] == []


def test_no_test_of_sb3_fails_without_a_reason():
    assert [each for each in RESULTS if each["outcome"] == FAILED] == []
    assert [each for each in RESULTS if each["outcome"] != KEPT and not each["reason"]] == []


def test_the_results_are_of_the_version_that_is_pinned():
    assert sb3_page.read()["stable_baselines3"] == pinned_version()


@pytest.mark.parametrize(("rules", "outcome"), [(DIFFERENT, DIFFERS), (NOT_APPLICABLE, NOT_APPLIED)])
def test_every_rule_of_the_adaptation_was_needed(rules, outcome):
    found = [each for each in RESULTS if each["outcome"] == outcome]
    parts = [(each["file"], each["test"], each["instance"]) for each in found]
    assert [key for key in rules if not any(rule({key: True}, *part) for part in parts)] == []
