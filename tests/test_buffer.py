"""`PromptReplayBuffer`: each number carries its episode and step, so that a leak between them cannot hide."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch as th
from factories import EPISODE, STEP, TASK, make_buffer, traced
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from sb3_llmdpd.data.episodes import STEPS_AFTER_SUCCESS, Episode, OfflineDataset
from sb3_llmdpd.replay.buffer import PromptReplayBuffer
from sb3_llmdpd.type_aliases import PromptReplayBufferSamples


def traced_tasks(lengths: Sequence[Sequence[int]]) -> list[Episode]:
    """An episode for each length, numbered through; those of task i have the lengths ``lengths[i]``."""
    pairs = [(task, length) for task, of_task in enumerate(lengths) for length in of_task]
    return [traced(task, number, length) for number, (task, length) in enumerate(pairs)]


def rows(batch: PromptReplayBufferSamples) -> th.Tensor:
    """The traced observations of a batch: (M, N, 3)."""
    assert isinstance(batch.observations, th.Tensor)
    return batch.observations.unflatten(0, (len(batch.prompts.actions), -1))


def example_rows(batch: PromptReplayBufferSamples) -> th.Tensor:
    """The traced observations of the prompts: (M, L, 3)."""
    assert isinstance(batch.prompts.observations, th.Tensor)
    return batch.prompts.observations.unflatten(0, batch.prompts.actions.shape[:2])


def examples(buffer: PromptReplayBuffer, batch_size: int, n_batches: int, column: int = EPISODE) -> th.Tensor:
    """A column of the first observation of each example in some batches."""
    batches = [buffer.sample(batch_size) for _ in range(n_batches)]
    return th.cat([example_rows(batch)[:, 0, column] for batch in batches]).long()


def assert_shares(drawn: th.Tensor, shares: Sequence[float], atol: float) -> None:
    """Check how often each whole number was drawn."""
    assert_close(drawn.long().bincount() / len(drawn), th.tensor(shares), rtol=0, atol=atol)


several_tasks = st.lists(st.lists(st.integers(1, 12), min_size=2, max_size=5), min_size=1, max_size=4)
"""Lengths of the episodes of each task, at least two of each."""
seeds = st.integers(0, 2**32 - 1)


@given(several_tasks, seeds)
def test_a_row_is_one_step_of_one_episode(lengths, seed):
    batch = make_buffer(traced_tasks(lengths), seed=seed).sample(32)
    seen = batch.observations
    assert isinstance(seen, th.Tensor)
    one_step_later = seen + th.tensor([0.0, 0.0, 1.0])  # no next observation of another episode
    assert th.equal(batch.next_observations, one_step_later)
    assert th.equal(batch.actions, seen[:, EPISODE:] / 128.0)
    assert th.equal(batch.rewards[:, 0], seen[:, EPISODE] + seen[:, STEP] / 256.0)


@given(several_tasks)
def test_every_step_of_every_episode_is_drawn_and_no_other(lengths):
    episodes = traced_tasks(lengths)
    buffer = make_buffer(episodes, prompts_per_batch=100)
    drawn = th.cat([rows(buffer.sample(1_000)).flatten(0, 1) for _ in range(3)])
    expected = {(number, step) for number, episode in enumerate(episodes) for step in range(len(episode))}
    assert {(int(row[EPISODE]), int(row[STEP])) for row in drawn} == expected


def test_a_batch_has_the_shapes_that_its_docstring_says():
    batch = make_buffer(traced_tasks([[5, 6], [7, 8]])).sample(20)
    observations, actions, next_observations, dones, rewards = (tuple(value.shape) for value in batch[:5])
    assert observations == next_observations == (20, 3)
    assert (actions, dones, rewards) == ((20, 2), (20, 1), (20, 1))
    shapes = {name: tuple(value.shape) for name, value in batch.prompts._asdict().items()}
    assert (shapes.pop("has_text"), shapes.pop("has_trajectory")) == ((4,), (4,))
    assert shapes == dict(text_vectors=(4, 0), observations=(12, 3), actions=(4, 3, 2), lengths=(4, 1))


def test_only_the_last_step_of_a_terminated_episode_is_done():
    ends = enumerate([(4, True), (4, False), (2, True)])
    episodes = [traced(0, number, length, terminated=terminated) for number, (length, terminated) in ends]
    batch = make_buffer(episodes).sample(400)
    done = rows(batch).flatten(0, 1)[batch.dones[:, 0] == 1.0]
    assert {(int(row[EPISODE]), int(row[STEP])) for row in done} == {(0, 3), (2, 1)}
    assert set(batch.dones.flatten().tolist()) == {0.0, 1.0}


def test_a_buffer_knows_whether_rewards_were_recorded():
    with_rewards, without = traced(0, 0, 4), traced(0, 1, 4, rewarded=False)
    assert make_buffer([with_rewards, with_rewards]).rewarded is True
    assert make_buffer([with_rewards, without]).rewarded is False


def test_actions_are_scaled_from_the_action_space_to_one():
    space = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))
    actions = np.array([[-2.0, 0.0], [0.0, 5.0], [2.0, 10.0], [1.0, 2.5]])
    episodes = [Episode(np.zeros((5, 1)), actions, np.arange(4)) for _ in range(2)]
    dataset = OfflineDataset.from_episodes(episodes, action_space=space)
    batch = PromptReplayBuffer(dataset, "cpu", 1, 4, reward_scale="none").sample(50)
    expected = th.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0], [0.5, -0.5]])
    assert_close(batch.actions, expected[batch.rewards[:, 0].long()])
    assert_close(batch.prompts.actions[0], expected)


@given(several_tasks, seeds)
def test_the_rows_of_a_prompt_are_of_its_task(lengths, seed):
    batch = make_buffer(traced_tasks(lengths), seed=seed).sample(24)
    task = example_rows(batch)[:, :1, TASK]  # (M, 1)
    assert (rows(batch)[..., TASK] == task).all()


def test_tasks_are_drawn_alike_whatever_their_share_of_the_data():
    buffer = make_buffer(traced_tasks([[60] * 9, [1, 1], [5, 5, 5]]), prompts_per_batch=1)
    tasks = th.cat([rows(buffer.sample(1))[0, :, TASK] for _ in range(1_500)])
    assert_shares(tasks, [1 / 3] * 3, atol=0.05)  # four standard deviations


def test_no_task_comes_twice_while_there_are_enough():
    buffer = make_buffer(traced_tasks([[3, 3]] * 6), prompts_per_batch=4)
    assert all(len(examples(buffer, 4, 1, TASK).unique()) == 4 for _ in range(50))


def test_with_more_prompts_than_tasks_each_task_comes_as_often_as_any_other_give_or_take_one():
    buffer = make_buffer(traced_tasks([[3, 3]] * 3), prompts_per_batch=8)
    for _ in range(50):
        assert sorted(examples(buffer, 8, 1, TASK).bincount().tolist()) == [2, 3, 3]


def test_the_odd_prompt_out_is_of_any_task():
    buffer = make_buffer(traced_tasks([[3, 3]] * 3), prompts_per_batch=4)
    doubled = th.stack([examples(buffer, 4, 1, TASK).bincount().argmax() for _ in range(600)])
    assert_shares(doubled, [1 / 3] * 3, atol=0.08)


def test_a_batch_smaller_than_the_number_of_prompts_has_fewer():
    assert len(make_buffer(traced_tasks([[3, 3]] * 6), prompts_per_batch=4).sample(2).prompts.actions) == 2


def test_transitions_are_uniform_over_the_other_episodes():
    """Given the example, each step outside it is as likely as any other, whatever episode it belongs to."""
    buffer = make_buffer(traced_tasks([[2, 5, 9, 4]]), prompts_per_batch=1, prompt_window=1)
    drawn = th.zeros(4, 4)  # by example and episode
    for _ in range(200):
        batch = buffer.sample(100)
        example = int(example_rows(batch)[0, 0, EPISODE])
        drawn[example] += rows(batch)[0, :, EPISODE].long().bincount(minlength=4)
    others = th.tensor([2.0, 5.0, 9.0, 4.0]) * (1 - th.eye(4))
    shares = [counts / counts.sum(dim=1, keepdim=True) for counts in (drawn, others)]
    assert_close(*shares, rtol=0, atol=0.03)


def test_steps_within_an_episode_are_uniform():
    buffer = make_buffer(traced_tasks([[8, 1]]), prompts_per_batch=1)
    steps: list[th.Tensor] = []
    while len(steps) < 40:
        batch = buffer.sample(100)
        if example_rows(batch)[0, 0, EPISODE] == 1:
            steps.append(rows(batch)[0, :, STEP])
    assert_shares(th.cat(steps), [1 / 8] * 8, atol=0.025)


@pytest.mark.parametrize("batch_size", [5, 6, 7, 9])
def test_a_batch_that_its_prompts_do_not_divide_is_refused(batch_size):
    message = rf"must be a multiple of `prompts_per_batch`.*got {batch_size} and 4$"
    with pytest.raises(ValueError, match=message):
        make_buffer(traced_tasks([[3, 3]])).sample(batch_size)


@given(several_tasks, seeds)
def test_the_example_is_another_episode(lengths, seed):
    buffer = make_buffer(traced_tasks(lengths), seed=seed)
    for _ in range(3):
        batch = buffer.sample(24)
        example = example_rows(batch)[..., EPISODE]  # (M, L)
        assert (example == example[:, :1]).all()
        assert (rows(batch)[..., EPISODE] != example[:, :1]).all()
        assert batch.prompts.has_trajectory.all()


@given(several_tasks, seeds)
def test_the_actions_of_an_example_are_those_of_its_states(lengths, seed):
    batch = make_buffer(traced_tasks(lengths), seed=seed).sample(4)
    assert th.equal(batch.prompts.actions, example_rows(batch)[..., EPISODE:] / 128.0)


def test_every_episode_is_an_example_as_often_as_any_other():
    buffer = make_buffer(traced_tasks([[1, 30, 3, 8]]), prompts_per_batch=40)
    assert_shares(examples(buffer, 40, 50), [1 / 4] * 4, atol=0.04)


@given(st.integers(1, 60), st.integers(0, 59), st.integers(1, 20))
def test_an_example_ends_shortly_after_its_first_success(length, success, window):
    success = min(success, length - 1)
    episodes = [traced(0, number, length, first_success=success) for number in range(2)]
    buffer = make_buffer(episodes, prompt_window=window, prompts_per_batch=64)
    steps = example_rows(buffer.sample(64))[..., STEP]
    assert steps.max() < min(length, success + 1 + STEPS_AFTER_SUCCESS)
    assert (steps.diff(dim=1) >= 0).all()


def test_any_step_before_the_end_of_an_example_may_be_shown():
    episodes = [traced(0, number, 40, first_success=4) for number in range(2)]
    buffer = make_buffer(episodes, prompt_window=4, prompts_per_batch=64)
    steps = th.cat([example_rows(buffer.sample(64))[..., STEP] for _ in range(20)])
    assert set(steps.flatten().tolist()) == set(range(4 + 1 + STEPS_AFTER_SUCCESS))


def test_a_window_spreads_over_the_whole_example():
    buffer = make_buffer(traced_tasks([[40, 40]]), prompt_window=4, prompts_per_batch=64)
    steps = example_rows(buffer.sample(64))[..., STEP]
    assert th.equal((steps // 10).long(), th.arange(4).expand(64, 4))


def test_steps_after_a_success_are_trained_on_although_no_example_shows_them():
    buffer = make_buffer([traced(0, number, 40, first_success=4) for number in range(2)])
    assert rows(buffer.sample(400))[..., STEP].max() == 39


@pytest.mark.parametrize(
    ("successes", "shown"),
    [
        ((True, False, None, False), [0, 2]),
        ((False, False, False), [0, 1, 2]),
        ((True, False, False), [0, 1, 2]),  # a single good one would be every example, and never trained on
    ],
)
def test_failed_episodes_are_examples_only_where_fewer_than_two_others_are_known(successes, shown):
    buffer = make_buffer([traced(0, number, 5, success=success) for number, success in enumerate(successes)])
    assert examples(buffer, 40, 30).unique().tolist() == shown
    drawn = th.cat([rows(buffer.sample(40))[..., EPISODE] for _ in range(30)])
    assert drawn.unique().tolist() == list(range(len(successes)))


def test_failures_are_counted_for_each_task_apart():
    first = [traced(0, number, 5, success=number != 0) for number in range(3)]
    second = [traced(1, 3 + number, 5, success=False) for number in range(2)]
    assert examples(make_buffer(first + second), 40, 50).unique().tolist() == [1, 2, 3, 4]


def test_an_only_episode_is_prompted_with_another_part_of_itself_and_a_warning_says_so():
    message = r"1 episodes have no other episode of their task .*a part of themselves.*episode 2"
    with pytest.warns(UserWarning, match=message):
        buffer = make_buffer(traced_tasks([[5, 5], [7]]))
    drawn, shown = set(), set()
    for _ in range(30):
        batch = buffer.sample(40)
        assert batch.prompts.has_trajectory.all()
        alone = rows(batch)[:, 0, TASK] == 1
        for learned, example in zip(rows(batch)[alone], example_rows(batch)[alone], strict=True):
            assert example[:, EPISODE].unique().tolist() == [2]
            assert not set(example[:, STEP].tolist()) & set(learned[:, STEP].tolist())
            drawn |= set(learned[:, STEP].tolist())
            shown |= set(example[:, STEP].tolist())
    assert drawn == shown == set(range(7))  # each step has its turn at both


def test_an_only_episode_of_a_single_step_is_trained_on_without_an_example():
    with pytest.warns(UserWarning, match="1 episodes have no other episode"):
        buffer = make_buffer(traced_tasks([[5, 5], [1]]))
    batch = buffer.sample(40)
    assert th.equal(batch.prompts.has_trajectory, rows(batch)[:, 0, TASK] == 0)


def test_the_idle_tail_of_an_only_episode_is_not_shown():
    episode = traced(0, 0, 40, success=True, first_success=3)
    with pytest.warns(UserWarning, match="1 episodes have no other episode"):
        buffer = make_buffer([episode])
    shown = th.cat([example_rows(buffer.sample(4))[..., STEP].flatten() for _ in range(60)])
    assert shown.max() == 3 + STEPS_AFTER_SUCCESS


@given(st.lists(st.lists(st.integers(2, 4), min_size=1, max_size=4), min_size=1, max_size=3), seeds)
def test_with_same_goal_the_example_is_another_episode_of_the_goal(counts, seed):
    """``counts[task][goal]`` episodes; goals of different tasks share their names."""
    pairs = [[task, goal] for task, ns in enumerate(counts) for goal, n in enumerate(ns) for _ in range(n)]
    pool_of = np.random.default_rng(seed).permutation(pairs)  # pools need not be together in the data
    episodes = [traced(task, i, 3, goal=f"goal-{goal}") for i, (task, goal) in enumerate(pool_of)]
    pool_of = th.tensor(pool_of)  # (n_episodes, 2)
    batch = make_buffer(episodes, same_goal=True, seed=seed).sample(16)
    example = example_rows(batch)[:, :1, EPISODE].long()  # (M, 1)
    drawn = rows(batch)[..., EPISODE].long()  # (M, N)
    assert (drawn != example).all()
    assert (pool_of[drawn] == pool_of[example]).all()


def test_goals_of_a_task_are_drawn_alike():
    goal_of = th.tensor([0, 0, 1, 1, 1, 2, 2])
    episodes = [traced(0, i, 3, goal=f"goal-{goal}") for i, goal in enumerate(goal_of)]
    buffer = make_buffer(episodes, same_goal=True, prompts_per_batch=40)
    assert_shares(goal_of[examples(buffer, 40, 50)], [1 / 3] * 3, atol=0.045)


def test_without_same_goal_goals_do_not_matter():
    buffer = make_buffer([traced(0, number, 3, goal=f"goal-{number}") for number in range(3)])
    assert buffer.sample(40).prompts.has_trajectory.all()


def test_an_only_episode_of_a_goal_is_its_own_example():
    goals = ("near", "near", "far")
    with pytest.warns(UserWarning, match=r"1 episodes have no other episode of their task and goal"):
        buffer = make_buffer([traced(0, i, 3, goal=goal) for i, goal in enumerate(goals)], same_goal=True)
    batch = buffer.sample(200)
    far = rows(batch)[:, 0, EPISODE] == 2
    assert th.equal(far, example_rows(batch)[:, 0, EPISODE] == 2)


def test_same_goal_needs_the_goal_of_every_episode():
    with pytest.raises(ValueError, match="task-0, episode 1: `same_goal` needs the goal of every episode"):
        make_buffer([traced(0, 0, 3, goal="near"), traced(0, 1, 3)], same_goal=True)
