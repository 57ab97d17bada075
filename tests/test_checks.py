"""Success is read from whatever data write it in, and long lists are cut in messages."""

import numpy as np
import pytest

from sb3_llmdpd.data.checks import MOST_NAMED, listed, truth_of

YES = [
    True,
    1,
    0.5,
    1.0,
    np.True_,
    np.uint8(255),
    np.float32(1),
    "true",
    " Yes\n",
    "1",
    b"TRUE",
    np.str_("yes"),
    np.bytes_(b"true"),
    np.array([True]),
    np.array([[1.0]]),
    np.array(["yes"]),
    np.array(b"1"),
    [1],
]
NO = [
    False,
    0,
    0.0,
    -0.0,
    np.False_,
    np.int64(0),
    "false",
    "No",
    "0",
    b"no",
    np.array([0.0]),
    np.array(["no"]),
]
NOTHING = [
    None,
    float("nan"),
    -1,
    -0.5,
    "",
    "perhaps",
    "1.0",
    b"\xff",
    [],
    [1, 1],
    np.array([True, True]),
    np.array(["yes", "yes"]),
    np.array([None]),
    np.array([-1]),
    1j,
    {"success": True},
]


@pytest.mark.parametrize("value", YES, ids=repr)
def test_a_success_is_true_in_whatever_it_is_written(value):
    assert truth_of(value) is True


@pytest.mark.parametrize("value", NO, ids=repr)
def test_a_failure_is_false_in_whatever_it_is_written(value):
    assert truth_of(value) is False


@pytest.mark.parametrize("value", NOTHING, ids=repr)
def test_what_says_nothing_is_unknown(value):
    assert truth_of(value) is None


def test_few_names_are_all_listed():
    assert listed(["b", 2, "a"]) == "b, 2, a"
    assert listed(map(str, range(MOST_NAMED))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"


def test_of_many_names_the_first_are_listed_and_the_others_counted():
    assert listed(range(1_213)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 1,201 more"
    assert listed("abc", most=1) == "a and 2 more"


def test_no_names_are_said_to_be_none():
    assert listed([]) == "none"
