"""Learning-rate schedules that a checkpoint can name, instead of pickled functions."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CosineSchedule:
    """Half a cosine from ``initial`` down to ``final`` over the run.

    :param initial: rate at the start, > 0.
    :param final: rate at the end, >= 0.
    :param warmup: share of the run, in [0, 1), over which the rate first rises linearly from 0.
    :raises ValueError: when a rate is negative, or ``warmup`` is not in [0, 1).
    """

    initial: float
    final: float = 0.0
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if self.initial <= 0 or self.final < 0 or not 0 <= self.warmup < 1:
            raise ValueError(
                "a cosine schedule needs initial > 0, final >= 0 and 0 <= warmup < 1,"
                f" got initial={self.initial}, final={self.final}, warmup={self.warmup}"
            )

    def __call__(self, progress_remaining: float) -> float:
        """Compute the learning rate at a point of the run.

        :param progress_remaining: 1 at the start, 0 at the end.
        :return: the learning rate.
        """
        progress = 1.0 - progress_remaining
        if progress < self.warmup:
            return self.initial * progress / self.warmup
        share = (progress - self.warmup) / (1.0 - self.warmup)
        return self.final + 0.5 * (self.initial - self.final) * (1.0 + math.cos(math.pi * share))


@dataclass(frozen=True)
class LineToZero:
    """A straight line from ``initial`` down to 0 over the run, as ``lin_0.001`` in the zoo.

    :param initial: rate at the start, >= 0.
    :raises ValueError: when it is negative.
    """

    initial: float

    def __post_init__(self) -> None:
        if not self.initial >= 0:
            raise ValueError(f"a line to zero needs initial >= 0, got {self.initial}")

    def __call__(self, progress_remaining: float) -> float:
        """Compute the learning rate at a point of the run.

        :param progress_remaining: 1 at the start, 0 at the end.
        :return: the learning rate.
        """
        return progress_remaining * self.initial
