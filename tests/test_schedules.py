"""Learning rates that a model file can name: half a cosine, and the zoo's line to zero."""

import math
from itertools import pairwise

import pytest
from factories import tiny_model

from sb3_llmdpd.common.schedules import CosineSchedule, LineToZero

AT_A_QUARTER = 0.5 + 0.5 * math.cos(math.pi / 4)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (CosineSchedule(1.0), {0.0: 1.0, 0.25: AT_A_QUARTER, 0.5: 0.5, 1.0: 0.0}),
        (CosineSchedule(3e-4, final=3e-5), {0.0: 3e-4, 0.5: 1.65e-4, 1.0: 3e-5}),
        (CosineSchedule(1.0, warmup=0.2), {0.0: 0.0, 0.1: 0.5, 0.2: 1.0, 0.6: 0.5, 1.0: 0.0}),
    ],
    ids=["to zero", "to a final rate", "after a linear warmup"],
)
def test_the_rate_follows_half_a_cosine(schedule: CosineSchedule, rates: dict[float, float]) -> None:
    found = {progress: schedule(1.0 - progress) for progress in rates}
    assert found == pytest.approx(rates, abs=1e-12)


def test_the_rate_never_rises_again_after_the_warmup() -> None:
    schedule = CosineSchedule(1.0, final=0.1, warmup=0.1)
    rates = [schedule(1.0 - step / 100) for step in range(10, 101)]
    assert all(earlier >= later for earlier, later in pairwise(rates))


@pytest.mark.parametrize("bad", [dict(initial=0.0), dict(final=-1.0), dict(warmup=1.0), dict(warmup=-0.1)])
def test_impossible_schedules_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"initial > 0, final >= 0 and 0 <= warmup < 1, got initial="):
        CosineSchedule(**{"initial": 1.0, **bad})


def test_a_line_falls_to_zero_over_the_run():
    assert [LineToZero(0.5)(progress) for progress in (1.0, 0.5, 0.25, 0.0)] == [0.5, 0.25, 0.125, 0.0]


def test_a_line_below_zero_is_refused():
    with pytest.raises(ValueError, match=r"initial >= 0, got -0.1"):
        LineToZero(-0.1)


@pytest.mark.parametrize(
    ("words", "rate"), [("lin_0.001", 0.001), ("lin_1e-3", 0.001), ("lin_3E-4", 0.0003), ("lin_2", 2.0)]
)
def test_a_schedule_may_be_said_in_the_words_of_the_zoo(words, rate):
    model = tiny_model(learning_rate=words, critic_learning_rate=words)
    assert (model.learning_rate, model.critic_learning_rate) == (LineToZero(rate), LineToZero(rate))


@pytest.mark.parametrize("words", ["lin_", "lin_x", "lin_-1", "line_1", "cos_0.1"])
def test_other_words_are_no_schedule(words):
    with pytest.raises(TypeError, match=f"`learning_rate` must be a number, got '{words}'"):
        tiny_model(learning_rate=words)
