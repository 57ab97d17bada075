"""`CosineSchedule`, the learning rate that a checkpoint can name."""

import math
from itertools import pairwise

import pytest

from sb3_llmdpd.common.schedules import CosineSchedule

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
