"""The border where logged data enter: what an `Episode` accepts, keeps and refuses."""

import re
from typing import Any

import numpy as np
import pytest
from expect import refused
from factories import ACTION, OBSERVATION, T, make_episode

from sb3_llmdpd.data.episodes import STEPS_AFTER_SUCCESS, Episode


def with_value(shape: tuple[int, ...], index: tuple[int, ...], value: float) -> np.ndarray:
    array = np.zeros(shape)
    array[index] = value
    return array


# What is refused --------------------------------------------------------------

T_PLUS_1_ROWS = "must hold T + 1 = 5 rows, one before each of the 4 actions and one after the last"
OF_A_STEP = "`first_success` must be the index of one of the 4 steps, got"
NOT_FINITE = "NaN or infinite values, the first at step"
BAD_VALUES = {
    "actions of no steps": (dict(actions=0.5), "`actions` must be an array over steps, got a single number"),
    "flat actions": (
        dict(actions=np.zeros(T)),
        "`actions` must be (T, *action_shape), (T, 1) for a single number, got",
    ),
    "no step at all": (
        dict(actions=np.zeros((0, ACTION)), rewards=np.zeros(0), observations=np.zeros((1, OBSERVATION))),
        "an episode needs at least one step, got `actions` of shape (0, 2)",
    ),
    "a reward too many": (
        dict(rewards=np.zeros(T + 1)),
        "`rewards` must be (T,) = (4,), one for each action, got shape (5,)",
    ),
    "rewards in a column": (
        dict(rewards=np.zeros((T, 1))),
        "`rewards` must be (T,) = (4,), one for each action, got shape (4, 1)",
    ),
    "no observation after the last action": (
        dict(observations=np.zeros((T, OBSERVATION))),
        f"`observations` {T_PLUS_1_ROWS}, got 4",
    ),
    "an array of a dict that is too long": (
        dict(observations={"a": np.zeros((T + 1, 1)), "b": np.zeros((T + 2, 1))}),
        f"`observations['b']` {T_PLUS_1_ROWS}, got 6",
    ),
    "an empty dict": (dict(observations={}), "`observations` is an empty dict"),
    "NaN in the observations": (
        dict(observations=with_value((T + 1, OBSERVATION), (3, 1), np.nan)),
        f"`observations` holds 1 {NOT_FINITE} 3; repair or leave out the episode",
    ),
    "NaN after the last action": (
        dict(observations=with_value((T + 1, OBSERVATION), (4, 0), np.nan)),
        f"`observations` holds 1 {NOT_FINITE} 4",
    ),
    "NaN in an array of a dict": (
        dict(observations={"a": with_value((T + 1, 2), (2, 1), np.inf)}),
        f"`observations['a']` holds 1 {NOT_FINITE} 2",
    ),
    "infinite actions": (
        dict(actions=with_value((T, ACTION), (1, 0), -np.inf)),
        f"`actions` holds 1 {NOT_FINITE} 1",
    ),
    "NaN in the rewards": (
        dict(rewards=np.array([0.0, 1.0, np.nan, np.nan])),
        f"`rewards` holds 2 {NOT_FINITE} 2",
    ),
    "an empty sentence": (
        dict(task_texts=("open the door", "  ")),
        "a task text is empty; write a sentence that says what the task is, or give none",
    ),
    "an empty task": (dict(task=""), "`task` must be a non-empty string, got ''"),
    "a task that is no string": (dict(task=3), "`task` must be a non-empty string, got 3"),
    "a success after the end": (dict(first_success=T), f"{OF_A_STEP} 4"),
    "a success before the start": (dict(first_success=-1), f"{OF_A_STEP} -1"),
}


@pytest.mark.parametrize(("changes", "message"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_an_episode_says_where_it_comes_from_and_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with refused(re.escape(f"logs, episode 7: {message}")):
        make_episode(**changes)


NO_NUMBERS = "must be an array of numbers, got dtype"
BAD_TYPES = {
    "texts as actions": (dict(actions=[["left", "up"]] * T), f"`actions` {NO_NUMBERS} <U4"),
    "objects as observations": (
        dict(observations=np.full((T + 1, 1), None)),
        f"`observations` {NO_NUMBERS} object",
    ),
    "complex rewards": (dict(rewards=np.zeros(T, complex)), f"`rewards` {NO_NUMBERS} complex128"),
    "a number as a sentence": (dict(task_texts=(3,)), "a task text must be a string, got int"),
}


@pytest.mark.parametrize(("changes", "message"), BAD_TYPES.values(), ids=BAD_TYPES)
def test_what_is_no_number_or_no_sentence_is_a_type_error(changes: dict[str, Any], message: str) -> None:
    with refused(re.escape(f"logs, episode 7: {message}"), TypeError):
        make_episode(**changes)


# What is kept -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_callers_arrays_stay_writable_and_apart(dtype: type) -> None:
    """Also where nothing had to be converted: a view would let later changes into the data."""
    arrays = [np.zeros(shape, dtype) for shape in ((T + 1, OBSERVATION), (T, ACTION), T)]
    episode = Episode(*arrays)
    for array in arrays:
        array += 1.0
    for kept in (episode.observations, episode.actions, episode.rewards):
        assert not np.any(kept)


def test_images_of_the_caller_stay_writable_and_apart() -> None:
    images = np.zeros((T + 1, 2, 2), np.uint8)
    episode = make_episode(observations=images)
    images += 1
    assert not np.any(episode.observations)


@pytest.mark.parametrize("name", ["observations", "actions", "rewards"])
def test_an_episodes_arrays_cannot_be_written(name: str) -> None:
    with refused("read-only"):
        getattr(make_episode(), name)[0] = 1.0


def test_the_arrays_of_a_dict_cannot_be_written() -> None:
    episode = make_episode(observations={"a": np.zeros((T + 1, 1))})
    with refused("read-only"):
        episode.observations["a"][0] = 1.0


def test_floats_become_float32_and_whole_numbers_stay() -> None:
    dtypes = {
        dtype: make_episode(observations=np.zeros((T + 1, 1), dtype)).observations.dtype
        for dtype in ("float16", "float64", "uint8", "int64")
    }
    assert dtypes == {"float16": np.float32, "float64": np.float32, "uint8": np.uint8, "int64": np.int64}


def test_actions_and_rewards_are_float32_whatever_they_came_as() -> None:
    episode = make_episode(actions=np.ones((T, ACTION), int), rewards=[True, False, True, False])
    assert episode.actions.dtype == episode.rewards.dtype == np.float32
    assert episode.rewards.tolist() == [1.0, 0.0, 1.0, 0.0]


def test_an_episode_is_as_long_as_its_actions() -> None:
    assert len(make_episode()) == T


def test_one_sentence_is_one_phrasing() -> None:
    assert make_episode(task_texts="open the door").task_texts == ("open the door",)


def test_white_space_around_a_sentence_means_nothing() -> None:
    assert make_episode(task_texts=["open the door\n", " open it"]).task_texts == ("open the door", "open it")


@pytest.mark.parametrize(
    ("given", "kept"), [(np.False_, False), (np.True_, True), (1, True), (0.0, False), (None, None)]
)
def test_success_is_a_bool_or_unknown(given: Any, kept: bool | None) -> None:
    """``np.False_ is not False``: kept as it came, it would pass for a success."""
    assert make_episode(success=given).success is kept


@pytest.mark.parametrize(
    ("length", "first_success", "shown"),
    [(100, None, 100), (100, 0, 11), (100, 40, 51), (100, 89, 100), (100, 95, 100), (5, 4, 5)],
)
def test_an_example_ends_shortly_after_its_first_success(length: int, first_success: int, shown: int) -> None:
    assert STEPS_AFTER_SUCCESS == 10
    arrays = np.zeros((length + 1, 1)), np.zeros((length, 1)), np.zeros(length)
    assert Episode(*arrays, first_success=first_success).prompt_length == shown


def test_an_episode_introduces_itself_without_its_arrays() -> None:
    episode = make_episode(rewards=np.array([1.0, 2.0, 0.5, 0.0]), task="door-open", success=True)
    said = "task='door-open', steps=4, return=3.5, success=True, source='logs, episode 7'"
    assert repr(episode) == f"Episode({said})"
