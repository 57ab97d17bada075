"""Estimates with 95% intervals: of one cell, and of a group of tasks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # whose parts load when they are first used

CONFIDENCE = 0.95
N_RESAMPLES = 2_000
QUARTER = 0.25
"""What the interquartile mean leaves out at either end."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval.

    :param value: the estimate.
    :param low: lower end of the interval.
    :param high: upper end.
    """

    value: float
    low: float
    high: float


def success_rate(successes: Sequence[bool]) -> Estimate:
    """Share of successes with Wilson's interval, which has a width even where all episodes agree.

    :param successes: (n,), at least one.
    :return: in [0, 1].
    """
    interval = scipy.stats.binomtest(int(sum(successes)), len(successes)).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(float(np.mean(successes)), float(interval.low), float(interval.high))


def mean_over_tasks(values: Sequence[Sequence[float]], seed: int = 0) -> Estimate:
    """Mean of the tasks' means, every task with the same weight.

    :param values: an entry for each task: (n_episodes,), the tasks may differ in n.
    :param seed: of the bootstrap.
    :return: with a bootstrap interval, stratified: episodes are drawn anew within each task. It says how sure the number is
        for these tasks, not for others; where all episodes of a task agree, it knows of no doubt.
    :raises ValueError: without a task, or with an empty one.
    """
    return _over_tasks(values, lambda means: np.mean(means, axis=0), seed)


def interquartile_mean_over_tasks(values: Sequence[Sequence[float]], seed: int = 0) -> Estimate:
    """Mean of the middle half of the tasks' means: neither a hopeless task nor a trivial one moves it.

    :param values: as in `mean_over_tasks`.
    :param seed: of the bootstrap.
    :return: with a stratified bootstrap interval.
    :raises ValueError: without a task, or with an empty one.
    """
    return _over_tasks(values, lambda means: scipy.stats.trim_mean(means, QUARTER, axis=0), seed)


def _over_tasks(values: Sequence[Sequence[float]], combine: Callable[[np.ndarray], Any], seed: int) -> Estimate:
    samples = [np.asarray(of_task, np.float64) for of_task in values]
    if not samples or any(len(of_task) == 0 for of_task in samples):
        raise ValueError(f"a mean over tasks needs at least one episode of each, got {[len(of_task) for of_task in samples]}")

    def statistic(*resampled: np.ndarray, axis: int = -1) -> Any:
        return combine(np.stack([np.mean(of_task, axis=axis) for of_task in resampled]))

    # scipy refuses a sample of one. Twice the same episode gives the same resamples: that one, always.
    resampled = [of_task if len(of_task) > 1 else of_task.repeat(2) for of_task in samples]
    interval = scipy.stats.bootstrap(
        resampled,
        statistic,
        n_resamples=N_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",  # the corrected method has no answer where all episodes agree
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(float(statistic(*samples)), float(interval.low), float(interval.high))
