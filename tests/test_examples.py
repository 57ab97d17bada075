"""The examples do what they say."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from sb3_llmdpd.data.minari import load_minari

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def beside_the_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let them import what they share, as a script does by itself."""
    monkeypatch.syspath_prepend(EXAMPLES)


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


def test_what_sac_was_recorded_doing_is_learned_better_than_it_was_done_on_average() -> None:
    returns = example("record_sb3.py")["main"](n_steps=300, sac_steps=800)
    assert returns["data, trained"] > returns["data, untrained"] + 10
    assert returns["LLMDPD"] > returns["data"] + 5  # with other seeds, 9 and more


def test_a_learning_policy_is_recorded_with_its_sentence(tmp_path: Path) -> None:
    example("record_locomotion.py")["main"](n_steps=60, root=tmp_path)
    data = load_minari("recorded/hopper/medium-replay-v0", root=tmp_path)
    assert data.n_steps == 60
    assert data.episodes[0].task_texts == ("make the one-legged hopper hop forward as fast as it can",)
