"""`PromptReplayBuffer` with several examples a prompt: how many, which, and that none is learned from."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch as th
from factories import EPISODE, STEP, TASK, make_buffer, traced
from hypothesis import given
from hypothesis import strategies as st
from test_buffer import assert_shares, rows, seeds, several_tasks, traced_tasks
from torch.testing import assert_close

from sb3_llmdpd import Episode
from sb3_llmdpd.type_aliases import PromptReplayBufferSamples

WINDOW = 3
"""Steps of an example in `make_buffer`."""


def windows(batch: PromptReplayBufferSamples) -> th.Tensor:
    """The traced observations of all examples, shown or not: (M, E, L, 3)."""
    assert isinstance(batch.prompts.observations, th.Tensor)
    n_examples = batch.prompts.lengths.shape[1]
    return batch.prompts.observations.unflatten(0, (len(batch.prompts.lengths), n_examples, -1))


def shown(batch: PromptReplayBufferSamples) -> list[list[int]]:
    """Numbers of the episodes that each prompt shows."""
    first = windows(batch)[:, :, 0, EPISODE].long()
    return [row[is_shown].tolist() for row, is_shown in zip(first, batch.prompts.lengths > 0, strict=True)]


numbers = st.tuples(st.integers(1, 6), st.integers(0, 4)).map(lambda pair: (pair[0], sum(pair)))
"""Fewest and most examples of a prompt."""


@given(several_tasks, numbers, st.sampled_from([0.0, 3.0]), seeds)
def test_the_examples_of_a_prompt_are_different_episodes_and_none_of_them_is_learned_from(
    lengths, examples_per_prompt, return_weight, seed
):
    how = dict(examples_per_prompt=examples_per_prompt, return_weight=return_weight, seed=seed)
    batch = make_buffer(traced_tasks(lengths), **how).sample(24)
    fewest, most = examples_per_prompt
    for of_prompt, learned in zip(shown(batch), rows(batch), strict=True):
        n_others = len(lengths[int(learned[0, TASK])]) - 1
        assert min(fewest, n_others) <= len(of_prompt) <= min(most, n_others)
        assert len(set(of_prompt)) == len(of_prompt)
        assert not set(of_prompt) & set(learned[:, EPISODE].tolist())


@given(several_tasks, numbers, seeds)
def test_each_example_is_a_window_of_one_episode_of_the_prompts_task(lengths, examples_per_prompt, seed):
    batch = make_buffer(traced_tasks(lengths), examples_per_prompt=examples_per_prompt, seed=seed).sample(24)
    window, task = windows(batch), rows(batch)[:, 0, TASK]
    assert (window[..., EPISODE] == window[:, :, :1, EPISODE]).all()
    assert (window[..., TASK] == task[:, None, None]).all()
    assert (window[..., STEP].diff(dim=2) >= 0).all()
    actions = batch.prompts.actions.unflatten(1, (-1, WINDOW))
    assert th.equal(actions, window[..., EPISODE:] / 128.0)


def test_the_examples_that_are_shown_stand_before_the_others():
    buffer = make_buffer(traced_tasks([[4] * 6, [4] * 3]), examples_per_prompt=(1, 5))
    for _ in range(20):
        prompts = buffer.sample(40).prompts
        assert set(prompts.lengths.flatten().tolist()) <= {0, WINDOW}
        assert (prompts.lengths.diff(dim=1) <= 0).all()
        assert th.equal(prompts.has_trajectory, prompts.lengths[:, 0] > 0)


def test_every_number_of_examples_is_as_likely_as_any_other():
    buffer = make_buffer(traced_tasks([[3] * 8]), examples_per_prompt=(2, 5), prompts_per_batch=40)
    counts = th.cat([(buffer.sample(40).prompts.lengths > 0).sum(dim=1) for _ in range(40)])
    assert_shares(counts, [0.0, 0.0, 1 / 4, 1 / 4, 1 / 4, 1 / 4], atol=0.045)  # four standard deviations


def test_with_equal_bounds_every_prompt_has_as_many():
    batch = make_buffer(traced_tasks([[3] * 8]), examples_per_prompt=(4, 4)).sample(40)
    assert batch.prompts.lengths.tolist() == [[WINDOW] * 4] * 4


def test_a_small_task_shows_fewer_so_that_an_episode_is_left_to_learn_from():
    batch = make_buffer(traced_tasks([[4] * 3, [4] * 8]), examples_per_prompt=(5, 5)).sample(40)
    expected = {0: 2, 1: 5}
    counts = (batch.prompts.lengths > 0).sum(dim=1).tolist()
    assert counts == [expected[int(task)] for task in rows(batch)[:, 0, TASK]]


def test_every_choice_of_examples_is_as_likely_as_any_other_in_every_order():
    buffer = make_buffer(traced_tasks([[1, 9, 3, 5]]), examples_per_prompt=(2, 2), prompts_per_batch=40)
    pairs = {pair: i for i, pair in enumerate(permutations(range(4), 2))}
    drawn = [pairs[tuple(of_prompt)] for _ in range(60) for of_prompt in shown(buffer.sample(40))]
    assert_shares(th.tensor(drawn), [1 / 12] * 12, atol=0.023)


def test_transitions_are_uniform_over_the_episodes_that_are_not_shown():
    lengths = [2, 5, 9, 4, 3]
    buffer = make_buffer(traced_tasks([lengths]), examples_per_prompt=(2, 3), prompts_per_batch=1)
    drawn: dict[frozenset[int], th.Tensor] = {}
    for _ in range(500):
        batch = buffer.sample(100)
        counts = drawn.setdefault(frozenset(shown(batch)[0]), th.zeros(5))
        counts += rows(batch)[0, :, EPISODE].long().bincount(minlength=5)
    assert len(drawn) == 20  # pairs and triples
    for of_prompt, counts in drawn.items():
        steps = th.tensor([0.0 if i in of_prompt else float(n) for i, n in enumerate(lengths)])
        assert_close(counts / counts.sum(), steps / steps.sum(), rtol=0, atol=0.08)


def test_every_step_of_an_episode_between_two_shown_ones_is_drawn():
    """Steps behind runs that are left out move up by as much as lies before."""
    lengths = [3, 4, 2, 5]
    buffer = make_buffer(traced_tasks([lengths]), examples_per_prompt=(2, 2), prompts_per_batch=20)
    drawn: dict[frozenset[int], set[tuple[int, int]]] = {}
    for _ in range(40):
        batch = buffer.sample(800)
        for of_prompt, learned in zip(shown(batch), rows(batch).long().tolist(), strict=True):
            seen = drawn.setdefault(frozenset(of_prompt), set())
            seen |= {(row[EPISODE], row[STEP]) for row in learned}
    assert len(drawn) == 6
    for of_prompt, seen in drawn.items():
        assert seen == {(i, t) for i, n in enumerate(lengths) if i not in of_prompt for t in range(n)}


def rewarded(returns: Sequence[float]) -> list[Episode]:
    """Traced episodes of four steps, with a constant reward each."""
    return [replace(traced(0, i, 4), rewards=np.full(4, total / 4)) for i, total in enumerate(returns)]


def test_better_episodes_are_drawn_more_often_among_those_that_are_not_shown():
    how = dict(return_weight=1.0, gamma=0.9, prompts_per_batch=1)
    buffer = make_buffer(rewarded([4.0, 4.0, 0.0, 0.0]), examples_per_prompt=(2, 2), **how)
    drawn = th.zeros(4)
    for _ in range(300):
        batch = buffer.sample(40)
        if sorted(shown(batch)[0]) == [0, 2]:
            drawn += rows(batch)[0, :, EPISODE].long().bincount(minlength=4)
    ratio = np.exp(1.0)
    assert_close(drawn / drawn.sum(), th.tensor([0, ratio, 0, 1]).float() / (1 + ratio), rtol=0, atol=0.06)


def test_with_same_goal_all_examples_have_the_goal_of_the_transitions():
    episodes = [traced(0, number, 3, goal=f"goal-{number % 3}") for number in range(15)]
    buffer = make_buffer(episodes, same_goal=True, examples_per_prompt=(2, 6))
    for _ in range(10):
        batch = buffer.sample(16)
        for of_prompt, learned in zip(shown(batch), rows(batch), strict=True):
            goals = {number % 3 for number in (*of_prompt, *learned[:, EPISODE].long().tolist())}
            assert len(goals) == 1
            assert 2 <= len(of_prompt) <= 4


def test_failed_episodes_are_shown_among_several_only_where_fewer_than_two_others_are_known():
    successes = [True, False, True, False, None]
    episodes = [traced(0, number, 4, success=success) for number, success in enumerate(successes)]
    buffer = make_buffer(episodes, examples_per_prompt=(1, 4))
    found = {number for _ in range(30) for of_prompt in shown(buffer.sample(40)) for number in of_prompt}
    assert found == {0, 2, 4}


def test_good_episodes_are_learned_from_although_as_many_are_asked_for_as_there_are():
    """Were all good ones shown at once, the failed ones alone would be cloned."""
    successes = [True, True, False, False]
    episodes = [traced(0, number, 4, success=success) for number, success in enumerate(successes)]
    buffer = make_buffer(episodes, examples_per_prompt=(2, 2))
    learned = {int(number) for _ in range(30) for number in rows(buffer.sample(40))[..., EPISODE].flatten()}
    assert learned == {0, 1, 2, 3}


def test_an_only_episode_shows_one_part_of_itself_whatever_number_is_asked_for():
    with pytest.warns(UserWarning, match="1 episodes have no other episode"):
        buffer = make_buffer(traced_tasks([[5, 5, 5], [8]]), examples_per_prompt=(2, 2))
    for _ in range(20):
        batch = buffer.sample(40)
        alone = rows(batch)[:, 0, TASK] == 1
        assert batch.prompts.lengths[alone].tolist() == [[WINDOW, 0]] * int(alone.sum())
        assert batch.prompts.lengths[~alone].tolist() == [[WINDOW, WINDOW]] * int((~alone).sum())
        for window, learned in zip(windows(batch)[alone, 0], rows(batch)[alone], strict=True):
            assert not set(window[:, STEP].tolist()) & set(learned[:, STEP].tolist())


def test_each_example_has_offsets_of_its_own():
    buffer = make_buffer(traced_tasks([[90] * 3]), examples_per_prompt=(2, 2), prompts_per_batch=40)
    steps = windows(buffer.sample(40))[..., STEP]  # (M, 2, L)
    assert (steps // 30 == th.arange(3)).all()
    assert (steps[:, 0] != steps[:, 1]).float().mean() > 0.9


def test_one_example_is_drawn_as_it_was_before_there_could_be_several():
    """The numbers are those that version 0.1.0 drew: its results can be had again."""
    batch = make_buffer(traced_tasks([[4, 5, 6], [7, 8]]), seed=3).sample(8)
    steps = windows(batch)[:, 0, :, EPISODE:].long().tolist()
    assert steps == [
        [[3, 0], [3, 4], [3, 4]],
        [[0, 0], [0, 2], [0, 3]],
        [[0, 0], [0, 2], [0, 3]],
        [[4, 0], [4, 4], [4, 7]],
    ]
    learned = rows(batch)[..., EPISODE:].long().tolist()
    assert learned == [[[4, 6], [4, 4]], [[1, 0], [1, 1]], [[1, 3], [1, 4]], [[3, 4], [3, 3]]]


@pytest.mark.parametrize(
    ("given_numbers", "error", "message"),
    [
        (1, TypeError, "must be the fewest and the most"),
        ((1,), TypeError, r"got \(1,\)"),
        ((True, 2), TypeError, r"got \(True, 2\)"),
        ((2, 1), ValueError, "1 <= fewest <= most"),
        ((0, 1), ValueError, "1 <= fewest <= most"),
    ],
)
def test_numbers_of_examples_that_cannot_be_are_refused(given_numbers, error, message):
    with pytest.raises(error, match=message):
        make_buffer(traced_tasks([[3, 3]]), examples_per_prompt=given_numbers)


@pytest.mark.parametrize("given_numbers", [[1, 2], (np.int64(1), 2)])
def test_the_numbers_of_examples_may_be_a_list_and_numpys(given_numbers):
    buffer = make_buffer(traced_tasks([[3, 3]]), examples_per_prompt=given_numbers)
    assert buffer.examples_per_prompt == (1, 2)
