"""Estimates with 95% intervals: for one cell, for a group of tasks, and for several trainings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # whose parts load when they are first used

CONFIDENCE = 0.95
N_RESAMPLES = 2_000
QUARTER = 0.25
"""Share of the tasks that the interquartile mean leaves out at either end."""


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


def with_interval(estimate: Estimate | None, digits: int = 2) -> str:
    """Write an estimate with its interval, as in ``"0.50 [0.25, 1.00]"``.

    :param estimate: the estimate; None for one that there is not.
    :param digits: digits after the point.
    :return: the text; empty for None.
    """
    if estimate is None:
        return ""
    value, low, high = (rounded(number, digits) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def rounded(number: float, digits: int = 2) -> str:
    """Write a number for a table; what rounds to zero is ``0``, and never ``-0``.

    :param number: the number.
    :param digits: digits after the point.
    """
    return f"{number:z.{digits}f}"


def success_rate(successes: Sequence[bool]) -> Estimate:
    """Estimate a success rate with Wilson's interval, which has a width even where all episodes agree.

    :param successes: (n,), at least one.
    :return: in [0, 1].
    """
    test = scipy.stats.binomtest(int(sum(successes)), len(successes))
    interval = test.proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(float(np.mean(successes)), float(interval.low), float(interval.high))


def mean_over_tasks(values: Sequence[Sequence[float]], seed: int = 0) -> Estimate:
    """Estimate the mean of the tasks' means, every task with the same weight.

    :param values: an entry for each task: (n_episodes,), the tasks may differ in n.
    :param seed: seed of the bootstrap.
    :return: with a bootstrap interval, stratified: episodes are drawn anew within each task. It says how sure
        the number is for these tasks, not for others; where episodes agree, it knows no doubt.
    :raises ValueError: without a task, or with an empty one.
    """
    return _over_tasks(values, lambda means: np.mean(means, axis=0), seed)


def interquartile_mean_over_tasks(values: Sequence[Sequence[float]], seed: int = 0) -> Estimate:
    """Estimate the mean of the middle half of the tasks' means: no hopeless or trivial task moves it.

    :param values: as in `mean_over_tasks`.
    :param seed: seed of the bootstrap.
    :return: with a stratified bootstrap interval.
    :raises ValueError: without a task, or with an empty one.
    """
    return _over_tasks(values, lambda means: scipy.stats.trim_mean(means, QUARTER, axis=0), seed)


def mean_over_seeds(values: Sequence[Sequence[Sequence[float]]], seed: int = 0) -> Estimate:
    """Estimate the mean over trainings of the mean over tasks, all with the same weight.

    :param values: an entry for each training, and in it for each task: (n_episodes,).
    :param seed: seed of the bootstrap.
    :return: with a hierarchical bootstrap interval: trainings are drawn anew, and within each drawn one the
        episodes of each task. With a single training it is one over episodes alone.
    :raises ValueError: without a training, or with one that lacks a task or an episode.
    """
    samples = [[np.asarray(of_task, np.float64) for of_task in of_seed] for of_seed in values]
    counts = [[len(of_task) for of_task in of_seed] for of_seed in samples]
    if not counts or not all(of_seed and all(of_seed) for of_seed in counts):
        raise ValueError(
            f"a mean over seeds needs at least one episode of a task for each of them, got {counts}"
        )
    rng = np.random.default_rng(seed)
    means = np.zeros(N_RESAMPLES)
    for drawn in rng.integers(len(samples), size=(len(samples), N_RESAMPLES)):
        for number, of_seed in enumerate(samples):
            rows = np.flatnonzero(drawn == number)
            means[rows] += np.mean([_resampled_means(of_task, len(rows), rng) for of_task in of_seed], axis=0)
    low, high = np.percentile(means / len(samples), [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    value = np.mean([np.mean([of_task.mean() for of_task in of_seed]) for of_seed in samples])
    return Estimate(float(value), float(low), float(high))


def _resampled_means(sample: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    return sample[rng.integers(len(sample), size=(n, len(sample)))].mean(axis=1)


def _over_tasks(
    values: Sequence[Sequence[float]], combine: Callable[[np.ndarray], Any], seed: int
) -> Estimate:
    samples = [np.asarray(of_task, np.float64) for of_task in values]
    counts = [len(of_task) for of_task in samples]
    if not counts or not all(counts):
        raise ValueError(f"a mean over tasks needs at least one episode of each, got {counts}")

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
