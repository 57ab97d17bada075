"""The examples do what they say."""

import runpy
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / name))


def test_a_point_walks_where_it_is_told_and_where_it_is_shown() -> None:
    distances = example("own_logs.py")["main"](n_steps=500)
    assert len(distances) == 8
    assert max(distances.values()) < 0.5  # the middle, where it starts, is 1 away


def test_plain_tools_evaluate_what_the_policy_is_told() -> None:
    returns = example("sb3_tools.py")["main"](n_steps=300)
    assert returns["turn up the heat"] > 5
    assert returns["cool the room"] < -5
