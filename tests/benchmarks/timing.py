"""Times variants by turns in one process, and compares them by paired ratios."""

import random
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

ROUNDS = 21
"""Turns of each variant by default."""


class Ratio(NamedTuple):
    """Quartiles, over rounds, of one variant's time divided by that of another in the same round."""

    low: float
    middle: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} [{self.low:.2f}, {self.high:.2f}]"


class Times:
    """Seconds that each variant took.

    :param seconds: (rounds,) for each variant, by its name.
    """

    def __init__(self, seconds: Mapping[str, np.ndarray]) -> None:
        self.seconds = seconds

    def milliseconds(self, variant: str) -> float:
        """Median time of a call."""
        return 1e3 * float(np.median(self.seconds[variant]))

    def ratio(self, variant: str, other: str) -> Ratio:
        """Time of one variant divided by that of another."""
        return Ratio(*np.quantile(self.seconds[variant] / self.seconds[other], [0.25, 0.5, 0.75]).tolist())


def by_turns(
    variants: Mapping[str, Callable[[], object]], rounds: int = ROUNDS, seconds: float = 0.2
) -> Times:
    """Time variants in random order, round after round, so that other load of the machine falls on all.

    :param variants: functions to call, by name.
    :param rounds: number of turns of each.
    :param seconds: length of a turn, whose calls are averaged.
    :return: seconds of a call.
    """
    n_calls = {}
    for name, call in variants.items():
        call()  # allocates, compiles
        start, n = time.perf_counter(), 0
        while n == 0 or time.perf_counter() - start < seconds / 4:
            call()
            n += 1
        n_calls[name] = max(1, round(seconds * n / (time.perf_counter() - start)))
    taken: dict[str, list[float]] = {name: [] for name in variants}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(sorted(variants), len(variants)):
            call, n = variants[name], n_calls[name]
            start = time.perf_counter()
            for _ in range(n):
                call()
            taken[name].append((time.perf_counter() - start) / n)
    return Times({name: np.array(values) for name, values in taken.items()})
