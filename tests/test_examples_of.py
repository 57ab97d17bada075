"""`examples_of`: episodes of one task to prompt with, from any source."""

from dataclasses import replace

import numpy as np
import pytest
from expect import refused
from factories import make_episodes, tiny_model

from sb3_llmdpd import Episode, OfflineDataset, examples_of
from sb3_llmdpd.data.npz import write_npz

ONE_TASK = make_episodes(n_tasks=1)
THREE_TASKS = make_episodes()


def judged(*successes: bool | None) -> list[Episode]:
    return [replace(e, success=success) for e, success in zip(ONE_TASK, successes, strict=True)]


def test_all_episodes_of_an_only_task_are_examples():
    assert examples_of(ONE_TASK) == ONE_TASK


def test_the_first_of_the_source_are_taken():
    assert examples_of(ONE_TASK, n=2) == ONE_TASK[:2]


def test_episodes_may_come_as_a_data_set():
    assert examples_of(OfflineDataset.from_episodes(ONE_TASK), 3) == ONE_TASK[:3]


def test_a_source_is_read_by_its_name(tmp_path):
    dataset = OfflineDataset.from_episodes(ONE_TASK)
    write_npz(tmp_path / "demos.npz", ONE_TASK, dataset.observation_space, dataset.action_space)
    found = examples_of(str(tmp_path / "demos.npz"), n=2)
    assert [len(episode) for episode in found] == [20, 20]
    assert np.array_equal(found[1].observations, ONE_TASK[1].observations)


def test_of_several_tasks_the_named_one_is_read():
    found = examples_of(THREE_TASKS, n=2, task="task-1")
    assert found == THREE_TASKS[4:6]


def test_failed_episodes_are_left_out_and_those_that_nobody_has_judged_are_not():
    episodes = judged(False, True, None, False)
    assert examples_of(episodes) == episodes[1:3]
    assert examples_of(episodes, n=2) == episodes[1:3]


def test_the_failed_ones_of_another_task_do_not_count():
    episodes = [replace(episode, success=episode.task == "task-2") for episode in THREE_TASKS]
    assert examples_of(episodes, n=4, task="task-2") == episodes[8:]


def test_a_model_acts_with_them():
    model, observation = tiny_model(), np.zeros(5)
    examples = examples_of(THREE_TASKS, n=3, task="task-0")
    one = model.predict(observation, deterministic=True, trajectories=examples)[0]
    other = model.predict(observation, deterministic=True, trajectories=THREE_TASKS[:3])[0]
    assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("episodes", "how", "message"),
    [
        (THREE_TASKS, {}, "the source has 3 tasks, and examples are of one: pass `task`, 'task-0', 'task-1'"),
        (THREE_TASKS, dict(task="task-9"), "the source has no task 'task-9'; it has 'task-0', 'task-1', 'ta"),
        (ONE_TASK, dict(n=5), "the source has 4 episodes to show that did not fail, 5 are asked for"),
        (judged(False, True, None, False), dict(n=3), "has 2 episodes to show that did not fail, 3 are"),
        (judged(False, False, False, False), {}, "has 0 episodes to show that did not fail, 1 are asked for"),
        (THREE_TASKS, dict(n=5, task="task-0"), "has 4 episodes to show that did not fail, 5 are asked for"),
        (ONE_TASK, dict(n=0), "`n` must be at least 1, or None for all, got 0"),
        ([], {}, "at least one episode"),
    ],
)
def test_examples_that_there_are_not_are_refused(episodes, how, message):
    with refused(message):
        examples_of(episodes, **how)


def test_of_many_tasks_the_first_ten_are_named():
    with refused(r"has 12 tasks.*'task-11'.*, \.\.\.$"):
        examples_of(make_episodes(n_tasks=12, n_episodes=1))


def test_what_is_no_source_is_refused():
    with refused("must be a Minari data set id", TypeError):
        examples_of(3)
