"""Estimates and intervals against values known from elsewhere."""

import numpy as np
import pytest

from sb3_llmdpd.evaluation.statistics import (
    Estimate,
    interquartile_mean_over_tasks,
    mean_over_seeds,
    mean_over_tasks,
    success_rate,
)


@pytest.mark.parametrize(
    ("n_successes", "n", "low", "high"),
    # Wilson's interval, from its formula with z = 1.959964
    [(5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (0, 10, 0.0, 0.2775), (45, 50, 0.7864, 0.9565)],
)
def test_a_cells_interval_is_wilsons(n_successes: int, n: int, low: float, high: float) -> None:
    estimate = success_rate([True] * n_successes + [False] * (n - n_successes))
    assert estimate.value == n_successes / n
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=5e-5)


def test_every_task_weighs_the_same_whatever_its_number_of_episodes() -> None:
    assert mean_over_tasks([[1.0] * 9, [0.0]]).value == 0.5


def test_the_bootstrap_interval_of_many_episodes_is_the_normal_one() -> None:
    rng = np.random.default_rng(0)
    tasks = [rng.normal(size=400) for _ in range(4)]
    estimate = mean_over_tasks(tasks)
    half = 1.96 * np.sqrt(sum(task.var() / 400 for task in tasks)) / 4
    ends = (estimate.value - half, estimate.value + half)
    assert (estimate.low, estimate.high) == pytest.approx(ends, abs=0.1 * half)


def test_episodes_are_drawn_anew_within_each_task_alone() -> None:
    # Drawn over all tasks together, these would have a wide interval.
    assert mean_over_tasks([[1.0, 1.0], [0.0, 0.0]]) == Estimate(0.5, 0.5, 0.5)


def test_the_interquartile_mean_leaves_out_the_quarters_of_tasks_at_either_end() -> None:
    tasks = [[rate] * 2 for rate in (0.0, 0.2, 0.4, 1.0)]
    assert interquartile_mean_over_tasks(tasks).value == pytest.approx(0.3)


def test_a_single_episode_has_no_spread_of_its_own() -> None:
    assert mean_over_tasks([[0.25], [0.75]]) == Estimate(0.5, 0.5, 0.5)


def test_the_same_seed_gives_the_same_interval() -> None:
    tasks = [[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]]
    assert mean_over_tasks(tasks, seed=3) == mean_over_tasks(tasks, seed=3)


def test_a_task_without_episodes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least one episode of each, got \[2, 0\]"):
        mean_over_tasks([[1.0, 0.0], []])


def test_seeds_that_differ_and_episodes_that_agree_leave_the_doubt_of_the_seeds() -> None:
    # Two trainings drawn from {0, 1} with replacement have the means 0, 1/2, 1 with chances 1/4, 1/2, 1/4.
    assert mean_over_seeds([[[0.0] * 5], [[1.0] * 5]]) == Estimate(0.5, 0.0, 1.0)


def test_a_rare_seed_is_within_the_interval_as_often_as_it_is_drawn() -> None:
    # Of three trainings one is 1: k of 3 draws hit it with chances 8/27, 12/27, 6/27, 1/27; 1/27 > 2.5%.
    assert mean_over_seeds([[[1.0]], [[0.0]], [[0.0]]]) == Estimate(pytest.approx(1 / 3), 0.0, 1.0)


def test_seeds_and_episodes_both_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    seeds = [[rng.normal(loc=level, size=50) for _ in range(2)] for level in rng.normal(scale=0.3, size=40)]
    estimate = mean_over_seeds(seeds)
    means = np.array([np.mean([task.mean() for task in of_seed]) for of_seed in seeds])
    within = np.mean([sum(task.var() / 50 for task in of_seed) / 4 for of_seed in seeds])
    half = 1.96 * np.sqrt((means.var() + within) / 40)
    ends = (estimate.value - half, estimate.value + half)
    assert (estimate.low, estimate.high) == pytest.approx(ends, abs=0.1 * half)


def test_one_seed_has_the_interval_of_its_episodes() -> None:
    rng = np.random.default_rng(0)
    tasks = [rng.normal(size=100) for _ in range(5)]
    one, other = mean_over_seeds([tasks]), mean_over_tasks(tasks)
    assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), abs=0.01)


def test_tasks_weigh_the_same_within_a_seed_and_seeds_among_each_other() -> None:
    assert mean_over_seeds([[[1.0] * 9, [0.0]], [[1.0], [1.0]]]).value == 0.75


@pytest.mark.parametrize(
    ("values", "counts"), [([], r"\[\]"), ([[[1.0]], []], r"\[\[1\], \[\]\]"), ([[[]]], r"\[\[0\]\]")]
)
def test_a_seed_without_episodes_is_refused(values: list[list[list[float]]], counts: str) -> None:
    with pytest.raises(ValueError, match=f"at least one episode of a task for each of them, got {counts}"):
        mean_over_seeds(values)
