"""The tool that runs SB3's tests on LLMDPD, on made-up tests: what it changes, chooses and reports."""

import pytest
from expect import refused

from tools.sb3_suite import run as suite
from tools.sb3_suite.changes import Change, algorithm_tests, changed
from tools.sb3_suite.plugin import rule
from tools.sb3_suite.source import VERSION_FILE, find_tests, pinned_version

FILE = "test_made_up.py"
SOURCE = """\
import pytest

TD3, PPO = "TD3", "PPO"
MODELS = {"one": TD3}


def helper():
    return PPO


@pytest.mark.parametrize("name", ["old", "kept"])
def test_one(name):
    value = "old"
    with pytest.raises(AssertionError):
        assert value == "new"
    if name == "old":
        assert value == "older"
    assert MODELS["one"] == "TD3"


def test_other():
    assert "old" == helper()


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("model_class", [PPO, TD3])
def test_of_both(model_class, size):
    assert model_class == "TD3"


def test_of_none():
    assert "old"
"""


def in_test_one(old: str, new: str | None) -> str:
    return changed(SOURCE, FILE, [Change(f"{FILE}::test_one", old, new, "a reason")])


def test_a_substitution_is_made_in_the_test_that_it_names_and_in_its_decorators_alone():
    made = in_test_one(r"\bold\b", "fresh")
    assert made.count("fresh") == SOURCE[: SOURCE.index("def test_other")].count('"old"')
    assert made[made.index("def test_other") :] == SOURCE[SOURCE.index("def test_other") :]


def test_a_substitution_without_a_test_is_made_in_the_whole_file():
    assert changed(SOURCE, FILE, [Change(FILE, '"old"', '"fresh"', "")]) == SOURCE.replace('"old"', '"fresh"')


def test_a_substitution_of_another_file_is_left_alone():
    assert changed(SOURCE, FILE, [Change("test_other.py::test_one", "old", "new", "")]) == SOURCE


def test_a_statement_can_be_left_out_and_what_is_around_it_stays():
    assert in_test_one("older", None) == SOURCE.replace('assert value == "older"', "pass")


def test_with_its_only_statement_a_with_block_is_left_out():
    block = 'with pytest.raises(AssertionError):\n        assert value == "new"'
    assert in_test_one('== "new"', None) == SOURCE.replace(block, "pass")


@pytest.mark.parametrize(
    ("where", "message"),
    [(f"{FILE}::test_one", "has no 'absent'"), (f"{FILE}::test_gone", "there is no test_gone")],
)
def test_a_substitution_that_finds_nothing_is_refused(where, message):
    with refused(message):
        changed(SOURCE, FILE, [Change(where, "absent", "", "")])


def test_an_algorithm_takes_part_in_a_test_by_what_it_uses_too():
    assert algorithm_tests(SOURCE) == ["test_one", "test_other", "test_of_both"]


@pytest.mark.parametrize(
    ("instance", "found"),
    [("a-b", "of b"), ("b", "of b"), ("a", "of all"), ("b-c-d", "of c-d"), ("", "of all")],
)
def test_a_rule_goes_for_a_parameter_first_and_then_for_a_test(instance, found):
    rules = {
        f"{FILE}::test_one[c-d]": "of c-d",
        f"{FILE}::test_one": "of all",
        f"{FILE}::test_one[b]": "of b",
    }
    if instance == "b-c-d":
        del rules[f"{FILE}::test_one[b]"]
    assert rule(rules, FILE, "test_one", instance) == found
    assert rule(rules, "another.py", "test_one", instance) is None


@pytest.mark.slow
def test_of_instances_that_differ_by_their_algorithm_the_one_most_like_ours_is_run(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / FILE).write_text(SOURCE)
    found = suite.run(tmp_path / "tests", tmp_path)
    outcomes = {(each["test"], each["instance"]): each["outcome"] for each in found}
    assert outcomes == {
        ("test_one", "old"): "failed",
        ("test_one", "kept"): "kept",
        ("test_other", ""): "failed",
        ("test_of_both", "1"): "kept",
        ("test_of_both", "2"): "kept",
    }
    assert (
        next(each["reason"] for each in found if each["test"] == "test_other")
        == "AssertionError: assert 'old' == 'PPO'"
    )


@pytest.mark.slow
def test_a_test_that_cannot_be_collected_has_failed(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / FILE).write_text(f"import not_there\n{SOURCE}")
    found = suite.run(tmp_path / "tests", tmp_path)
    assert {each["outcome"] for each in found} == {"failed"}
    assert {each["test"] for each in found} == {"test_one", "test_other", "test_of_both"}


@pytest.mark.parametrize("asked", ["test_x.py", f"{FILE}::test_of_none"])
def test_tests_that_sb3_does_not_have_are_answered_with_the_files_it_has(tmp_path, asked):
    (tmp_path / FILE).write_text(SOURCE)
    with refused(f"no tests '{asked}'; known files: {FILE}"):
        suite.run(tmp_path, tmp_path, only=[asked])


@pytest.mark.parametrize(
    ("outcome", "why", "judged"),
    [
        ("failed", "ValueError: refused, as it is said", ("different", "a reason")),
        ("failed", "KeyError: something else", ("failed", "KeyError: something else")),
        ("passed", "", ("failed", "it passes, and is said to be different")),
        ("skipped", "Skipped: no GPU", ("skipped", "no GPU")),
    ],
)
def test_what_is_said_to_be_different_has_to_fail_with_its_own_error(monkeypatch, outcome, why, judged):
    monkeypatch.setattr(suite, "DIFFERENT", {f"{FILE}::test_one": ("ValueError: refused", "a reason")})
    result = suite.judged(dict(file=FILE, test="test_one", instance="", outcome=outcome, why=why))
    assert (result["outcome"], result["reason"]) == judged


def test_the_tests_of_another_version_are_refused(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / VERSION_FILE).parent.mkdir()
    (tmp_path / VERSION_FILE).write_text("1.0.0\n")
    with refused(f"is version 1.0.0 .* constraints.txt pins {pinned_version()}"):
        find_tests(tmp_path, tmp_path)
    (tmp_path / VERSION_FILE).write_text(pinned_version())
    assert find_tests(tmp_path, tmp_path) == tmp_path / "tests"


def test_a_folder_without_sb3_is_refused(tmp_path):
    with refused("is no source of Stable-Baselines3"):
        find_tests(tmp_path, tmp_path)
