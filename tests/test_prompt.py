"""The prompt of a user: every form of an example, the window cut from it, and a sentence beside it."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from factories import make_episodes, traced
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from sb3_llmdpd.prompts.prompt import Prompt, Trajectory, take, window_steps

OBSERVATIONS, ACTIONS = np.arange(15.0).reshape(5, 3), np.arange(8.0).reshape(4, 2)
"""One observation more than actions."""


def test_an_episode_is_an_example():
    episode = traced(0, 1, 6)
    trajectory = Trajectory.of(episode)
    assert_array_equal(trajectory.observations, episode.observations[:6])
    assert_array_equal(trajectory.actions, episode.actions)


def test_the_idle_tail_behind_a_success_is_cut():
    trajectory = Trajectory.of(traced(0, 1, 40, first_success=3))
    assert len(trajectory) == 14
    assert_array_equal(trajectory.observations[:, 2], np.arange(14))
    assert_array_equal(trajectory.actions[:, 1] * 128, np.arange(14))


def test_a_trajectory_is_its_own_example():
    trajectory = Trajectory(OBSERVATIONS, ACTIONS)
    assert Trajectory.of(trajectory) is trajectory


@pytest.mark.parametrize(
    "pair", [(OBSERVATIONS, ACTIONS), (OBSERVATIONS[:4], ACTIONS), [OBSERVATIONS.tolist(), ACTIONS.tolist()]]
)
def test_a_pair_is_an_example_with_or_without_the_last_observation(pair):
    trajectory = Trajectory.of(pair)
    assert_array_equal(trajectory.observations, OBSERVATIONS[:4])
    assert_array_equal(trajectory.actions, ACTIONS)
    assert trajectory.actions.dtype == np.float32


def test_the_arrays_of_a_dict_example_are_completed_each_for_itself():
    trajectory = Trajectory.of(({"a": OBSERVATIONS, "b": OBSERVATIONS[:4, :1]}, ACTIONS))
    assert isinstance(trajectory.observations, dict)
    assert_array_equal(trajectory.observations["a"], OBSERVATIONS[:4])
    assert_array_equal(trajectory.observations["b"], OBSERVATIONS[:4, :1])


def test_images_of_an_example_stay_bytes():
    trajectory = Trajectory.of((np.full((4, 2, 2), 255, np.uint8), ACTIONS))
    assert trajectory.observations.dtype == np.uint8


def test_an_example_is_a_copy():
    observations, actions = OBSERVATIONS.astype(np.float32), ACTIONS.astype(np.float32)
    trajectory = Trajectory.of((observations, actions))
    observations += 1.0
    actions += 1.0
    assert_array_equal(trajectory.observations, OBSERVATIONS[:4])
    assert_array_equal(trajectory.actions, ACTIONS)


@pytest.mark.parametrize(
    "example", [OBSERVATIONS, "open the door", 3, (OBSERVATIONS,), (OBSERVATIONS, ACTIONS, ACTIONS)]
)
def test_other_examples_are_answered_with_the_accepted_forms(example):
    forms = "`trajectory` must be an Episode, a Trajectory, or a pair (observations, actions)"
    with pytest.raises(TypeError, match=re.escape(f"{forms}, got {type(example).__name__}")):
        Trajectory.of(example)


def test_two_episodes_are_no_pair_of_observations_and_actions():
    pair = tuple(make_episodes(n_tasks=1, n_episodes=2))
    with pytest.raises(TypeError, match="`trajectory`: `actions` must be an array of numbers, got dtype obj"):
        Trajectory.of(pair)


ROWS, ROWS_OF_B = "`observations` must hold T + 1 = 5 rows", "`observations['b']` must hold T + 1 = 5 rows"
WITH_NAN = np.where(OBSERVATIONS == 7.0, np.nan, OBSERVATIONS)
BAD_EXAMPLES = {
    "too few observations": (OBSERVATIONS[:3], ACTIONS, ROWS),
    "too many observations": (np.zeros((6, 3)), ACTIONS, ROWS),
    "a dict with a short array": ({"a": OBSERVATIONS, "b": OBSERVATIONS[:2]}, ACTIONS, ROWS_OF_B),
    "a dict with a long array": ({"a": OBSERVATIONS[:4], "b": np.zeros((9, 1))}, ACTIONS, ROWS_OF_B),
    "an empty dict": ({}, ACTIONS, "`observations` is an empty dict"),
    "flat actions": (
        OBSERVATIONS,
        ACTIONS[:, 0],
        "`actions` must be (T, *action_shape), (T, 1) for a single",
    ),
    "a number for actions": (OBSERVATIONS, 0.5, "`actions` must be an array over steps, got a single number"),
    "no step": (np.zeros((0, 3)), np.zeros((0, 2)), "an episode needs at least one step"),
    "NaN": (WITH_NAN, ACTIONS, "`observations` holds 1 NaN or infinite values"),
}


@pytest.mark.parametrize(("observations", "actions", "message"), BAD_EXAMPLES.values(), ids=BAD_EXAMPLES)
@pytest.mark.parametrize("form", [Trajectory, lambda *pair: Trajectory.of(pair)], ids=["trajectory", "pair"])
def test_a_malformed_example_is_refused(observations, actions, message, form):
    with pytest.raises(ValueError, match=re.escape(f"`trajectory`: {message}")):
        form(observations, actions)


lengths_and_windows = st.tuples(st.lists(st.integers(1, 600), min_size=1, max_size=5), st.integers(1, 40))
largest_below_one = float(np.nextafter(1.0, 0.0))


@given(lengths_and_windows, st.floats(0.0, largest_below_one))
def test_a_window_stays_inside_and_never_goes_back(sizes, offset):
    lengths, window = np.array(sizes[0]), sizes[1]
    steps = window_steps(lengths, window, np.full((len(lengths), window), offset))
    assert (steps.shape, steps.dtype) == ((len(lengths), window), np.int64)
    assert ((steps >= 0) & (steps < lengths[:, None])).all()
    assert (np.diff(steps, axis=1) >= 0).all()


@given(lengths_and_windows, st.integers(0, 2**32 - 1))
def test_a_window_takes_one_step_of_each_part(sizes, seed):
    lengths, window = np.array(sizes[0]), sizes[1]
    steps = window_steps(lengths, window, np.random.default_rng(seed).random((len(lengths), window)))
    begins = lengths[:, None] * np.arange(window) / window
    ends = lengths[:, None] * np.arange(1, window + 1) / window
    assert (steps + 1 > begins).all()  # a step covers [step, step + 1)
    assert (steps < ends).all()


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_window_of_the_examples_length_or_longer_shows_each_step(length, more):
    assert_array_equal(window_steps(np.array([length]), length)[0], np.arange(length))
    steps = window_steps(np.array([length]), length + more)[0]
    assert_array_equal(np.unique(steps), np.arange(length))
    assert np.bincount(steps).max() - np.bincount(steps).min() <= 1


def test_without_offsets_a_window_takes_the_middle_of_each_part():
    assert_array_equal(window_steps(np.array([100, 8, 1]), 4), [[12, 37, 62, 87], [1, 3, 5, 7], [0, 0, 0, 0]])


def test_an_offset_just_below_one_stays_in_the_example():
    """15 + 0.99..9 rounds to 16: without care the window would show the step after the last."""
    assert_array_equal(window_steps(np.array([100, 1]), 16, largest_below_one)[:, -1], [99, 0])


def test_a_sentence_is_kept_without_the_white_space_around_it():
    assert Prompt(text=" open the door\n").text == "open the door"


VECTOR = "`text_vector` must be "
FORMS = "`trajectory` must be an Episode, a Trajectory, or a pair"
PAIR, BAD_PAIR = (OBSERVATIONS, ACTIONS.copy()), (OBSERVATIONS, ACTIONS[:, 0])
BAD_PROMPTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    (dict(text=""), ValueError, "`task_text`: a task text is empty"),
    (dict(text="  \n"), ValueError, "`task_text`: a task text is empty"),
    (dict(text=3), TypeError, "`task_text` must be a string, got int"),
    (dict(text=["open the door"]), TypeError, "`task_text` must be a string, got list"),
    (dict(trajectory=(OBSERVATIONS, ACTIONS[:, 0])), ValueError, "`trajectory`: `actions` must be"),
    (dict(trajectory="open the door"), TypeError, "`trajectory` must be an Episode"),
    (dict(text_vector=np.ones((1, 3))), ValueError, f"{VECTOR}(text_dim,) finite numbers, got shape (1, 3)"),
    (dict(text_vector=1.0), ValueError, "got shape ()"),
    (dict(text_vector=[1.0, np.nan]), ValueError, "got NaN or infinity"),
    (dict(text_vector=[1.0, np.inf]), ValueError, "got NaN or infinity"),
    (dict(text_vector="open the door"), TypeError, f"{VECTOR}an array of numbers, got dtype"),
    (dict(text="go", text_vector=np.ones(3)), ValueError, "either as `text` or as `text_vector`, not both"),
    (dict(trajectories=[PAIR, "open"]), TypeError, FORMS),
    (dict(trajectories=PAIR), TypeError, FORMS),
    (dict(trajectories=[PAIR, BAD_PAIR]), ValueError, "`trajectory`: `actions` must be"),
    (dict(trajectories=traced(0, 1, 3)), TypeError, "a list of examples, got Episode: pass one example"),
    (dict(trajectories=None), TypeError, "`trajectories` must be a list of examples, got NoneType"),
    (dict(trajectory=PAIR, trajectories=[list(PAIR)]), ValueError, "either one example as `trajectory`, or"),
]


@pytest.mark.parametrize(("parts", "error", "message"), BAD_PROMPTS)
def test_a_bad_part_of_a_prompt_is_refused_when_it_is_given(parts, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Prompt(**parts)


def test_a_prompt_keeps_an_episode_and_reads_a_pair():
    (episode,) = make_episodes(n_tasks=1, n_episodes=1)
    assert Prompt(trajectory=episode).trajectory is episode
    assert isinstance(Prompt(trajectory=(OBSERVATIONS, ACTIONS)).trajectory, Trajectory)


def test_an_empty_prompt_has_neither():
    assert Prompt().text is None
    assert Prompt().trajectory is None
    assert Prompt().trajectories == ()
    assert not Prompt().has_text


def test_a_prompt_keeps_several_examples_in_their_order():
    episode, other = make_episodes(n_tasks=1, n_episodes=2)
    prompt = Prompt(trajectories=[episode, (OBSERVATIONS, ACTIONS), other])
    assert prompt.trajectories[::2] == (episode, other)
    assert prompt.trajectory is episode
    pair = prompt.trajectories[1]
    assert isinstance(pair, Trajectory)
    assert_array_equal(pair.actions, ACTIONS)


def test_one_example_is_the_only_one_of_several():
    (episode,) = make_episodes(n_tasks=1, n_episodes=1)
    for prompt in (Prompt("go", episode), Prompt("go", trajectories=[episode])):
        assert prompt.trajectories == (episode,)
        assert prompt.trajectory is episode


def test_a_list_of_examples_that_is_changed_later_changes_no_prompt():
    episodes = make_episodes(n_tasks=1, n_episodes=2)
    given_list = episodes[:1]
    prompt = Prompt(trajectories=given_list)
    given_list += episodes[1:]
    assert prompt.trajectories == (episodes[0],)


def test_a_prompt_with_another_sentence_keeps_its_examples():
    episodes = make_episodes(n_tasks=1, n_episodes=2)
    changed = replace(Prompt("go", trajectories=episodes), text="stop")
    assert (changed.text, changed.trajectories) == ("stop", tuple(episodes))


def test_prompts_are_the_same_with_the_same_sentence_and_the_very_same_example():
    episode, other = make_episodes(n_tasks=1, n_episodes=2)
    assert Prompt("go", episode).is_same(Prompt("go ", episode))
    assert Prompt().is_same(Prompt())
    assert not Prompt("go", episode).is_same(Prompt("stop", episode))
    assert not Prompt("go", episode).is_same(Prompt("go", other))
    assert not Prompt("go", episode).is_same(Prompt("go"))
    assert not Prompt("go").is_same(Prompt())


def test_prompts_of_several_examples_are_the_same_with_the_same_ones_in_the_same_order():
    one, two = make_episodes(n_tasks=1, n_episodes=2)
    both = Prompt(trajectories=[one, two])
    assert both.is_same(Prompt(trajectories=(one, two)))
    others = [[two, one], [one], [one, two, two], [one, one]]
    assert not any(both.is_same(Prompt(trajectories=other)) for other in others)


def test_pairs_of_equal_arrays_are_the_same_example_and_equal_episodes_are_not_known_to_be():
    pair = (OBSERVATIONS, ACTIONS)
    assert Prompt(trajectory=pair).is_same(Prompt(trajectory=pair))
    assert not Prompt(trajectory=pair).is_same(Prompt(trajectory=(OBSERVATIONS, -ACTIONS)))
    one, other = (make_episodes(n_tasks=1, n_episodes=1)[0] for _ in range(2))
    assert not Prompt(trajectory=one).is_same(Prompt(trajectory=other))


def test_a_sentence_may_come_as_its_vector():
    prompt = Prompt(text_vector=[1, 2.5])
    assert prompt.has_text
    assert prompt.text_vector is not None
    assert prompt.text_vector.dtype == np.float32
    assert_array_equal(prompt.text_vector, [1.0, 2.5])
    assert Prompt("go").has_text


def test_a_sentences_vector_is_a_copy_that_nobody_changes():
    vector = np.ones(3, np.float32)
    prompt = Prompt(text_vector=vector)
    vector += 1.0
    assert_array_equal(prompt.text_vector, [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="read-only"):
        prompt.text_vector[0] = 2.0


def test_equal_vectors_are_the_same_sentence():
    ones, others = Prompt(text_vector=np.ones(3)), [np.zeros(3), np.ones(4), None]
    assert ones.is_same(Prompt(text_vector=np.ones(3)))
    assert not any(ones.is_same(Prompt(text_vector=other)) for other in others)
    assert not Prompt().is_same(ones)
    assert not ones.is_same(Prompt("go"))


def test_rows_are_taken_from_arrays_and_dicts_alike():
    assert_array_equal(take(OBSERVATIONS, [3, 1]), OBSERVATIONS[[3, 1]])
    taken = take({"a": OBSERVATIONS, "b": ACTIONS}, slice(0, 2))
    assert isinstance(taken, dict)
    assert_array_equal(taken["a"], OBSERVATIONS[:2])
    assert_array_equal(taken["b"], ACTIONS[:2])
