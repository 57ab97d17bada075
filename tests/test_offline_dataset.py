"""`OfflineDataset` and `load_dataset`: episodes that share spaces, from anything called a data set."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch as th
from expect import refused
from factories import ACTION, OBSERVATION, T, make_episode, make_episodes
from gymnasium import spaces

from sb3_llmdpd.data.episodes import Episode, OfflineDataset
from sb3_llmdpd.data.loading import load_dataset
from sb3_llmdpd.data.spaces import scale_actions, unscale_actions


def test_spaces_are_read_off_the_episodes() -> None:
    dataset = OfflineDataset.from_episodes(make_episodes(observation_dim=5, action_dim=2))
    assert dataset.observation_space == spaces.Box(-np.inf, np.inf, (5,), np.float32)
    assert dataset.action_space == spaces.Box(-1.0, 1.0, (2,), np.float32)


def test_bytes_are_read_as_images_and_dicts_as_dict_spaces() -> None:
    rows = {"image": np.zeros((T + 1, 8, 8, 3), np.uint8), "state": np.zeros((T + 1, 2))}
    dataset = OfflineDataset.from_episodes([make_episode(observations=rows)])
    image, state = spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert dataset.observation_space == spaces.Dict({"image": image, "state": state})


def test_given_spaces_are_kept() -> None:
    observation_space, action_space = spaces.Box(-5.0, 5.0, (OBSERVATION,)), spaces.Box(-2.0, 2.0, (ACTION,))
    dataset = OfflineDataset.from_episodes([make_episode()], observation_space, action_space)
    assert dataset.observation_space is observation_space
    assert dataset.action_space is action_space


def test_tasks_stand_in_order_of_appearance_each_once() -> None:
    dataset = OfflineDataset.from_episodes([make_episode(task=task) for task in ("b", "a", "b", "c")])
    assert dataset.tasks == ("b", "a", "c")


def test_steps_are_counted_over_all_episodes() -> None:
    assert OfflineDataset.from_episodes(make_episodes(n_tasks=2, n_episodes=3, length=7)).n_steps == 42


def test_a_data_set_says_how_much_of_it_is_failure() -> None:
    long, short = (make_episodes(n_tasks=1, n_episodes=1, length=length)[0] for length in (30, 10))
    episodes = [replace(long, success=False), replace(short, success=True), replace(short, success=True)]
    dataset = OfflineDataset.from_episodes(episodes)
    failed = "33% of the episodes failed, with 60% of the transitions"
    assert dataset.summary() == f"3 episodes of 1 tasks, 50 transitions; {failed}"
    assert repr(dataset) == f"<OfflineDataset: {dataset.summary()}>"


def test_where_an_episode_does_not_say_whether_it_succeeded_no_share_of_failures_is_told() -> None:
    dataset = OfflineDataset.from_episodes([make_episode(success=False), make_episode()])
    assert dataset.summary() == f"2 episodes of 1 tasks, {2 * T} transitions"


def test_steps_that_were_left_out_are_counted_with_their_episodes():
    episodes = [make_episode(n_left_out=1), make_episode(), make_episode(n_left_out=1)]
    said = "(2 more, the last of 2 episodes, are left out: their results are not recorded)"
    summary = OfflineDataset.from_episodes(episodes).summary()
    assert summary == f"3 episodes of 1 tasks, {3 * T} transitions {said}"


def test_episodes_without_rewards_are_counted():
    episodes = [make_episode(rewarded=False), make_episode(success=True), make_episode(rewarded=False)]
    dataset = OfflineDataset.from_episodes(episodes)
    assert not dataset.rewarded
    assert dataset.only(lambda episode: episode.rewarded).rewarded
    assert (
        dataset.summary()
        == f"3 episodes of 1 tasks, {3 * T} transitions; 2 of the episodes record no rewards"
    )


@pytest.mark.parametrize("order", [1, -1], ids=["whole numbers first", "floats first"])
def test_whole_numbers_and_floats_are_put_together_as_floats(order):
    whole, half = np.full((T + 1, 1), 3), np.full((T + 1, 1), 0.5)
    episodes = [make_episode(observations=rows) for rows in (whole, half)][::order]
    dataset = OfflineDataset.from_episodes(episodes)
    assert dataset.observation_space == spaces.Box(-np.inf, np.inf, (1,), np.float32)
    for one, rows in zip(dataset.episodes, [whole, half][::order], strict=True):
        np.testing.assert_array_equal(one.observations, rows.astype(np.float32), strict=True)


def test_bytes_stay_bytes_and_what_is_none_is_refused_beside_them():
    images = make_episode(observations=np.full((T + 1, 2), 255, np.uint8))
    whole = make_episode(observations=np.full((T + 1, 2), 7))
    first, second = OfflineDataset.from_episodes([images, whole]).episodes
    assert first is images
    np.testing.assert_array_equal(second.observations, np.full((T + 1, 2), 7, np.uint8), strict=True)
    message = (
        "logs, episode 7: `observations` holds 0.5 at step 0, of float32, and the space is of uint8, which"
    )
    with refused(message):
        OfflineDataset.from_episodes([images, make_episode(observations=np.full((T + 1, 2), 0.5))])


def test_whole_numbers_that_a_float_would_round_are_refused():
    rows = np.full((T + 1, 1), 2**24 + 1)
    with refused(
        "logs, episode 7: `observations` holds 16777217 at step 0, of int64, and the space is of float32"
    ):
        OfflineDataset.from_episodes([make_episode(observations=rows)])


def test_a_data_set_without_episodes_is_refused() -> None:
    with refused("at least one episode, got none"):
        OfflineDataset.from_episodes([])
    with refused("at least one episode, got none"):
        OfflineDataset((), spaces.Box(-1.0, 1.0, (1,)), spaces.Box(-1.0, 1.0, (1,)))


def test_a_data_set_is_made_of_episodes() -> None:
    with refused("made of `Episode`s, got ndarray", TypeError):
        OfflineDataset.from_episodes([make_episode(), np.zeros(3)])


def test_actions_outside_the_space_are_refused_with_the_remedy() -> None:
    actions = np.array([[0.0, 0.0], [1.5, -2.0], [1.0, -1.0], [1.01, 0.0]])
    message = (
        "logs, episode 7: 2 of 4 actions lie outside the action space [-1.0, 1.0] (values from -2 to 1.5);"
        " clip them as the environment did, or use the action space that they belong to"
    )
    with refused(re.escape(message)):
        OfflineDataset.from_episodes([make_episode(actions=actions)])


def test_each_entry_of_an_action_has_bounds_of_its_own() -> None:
    space = spaces.Box(np.array([-1.0, -3.0], np.float32), np.array([1.0, 3.0], np.float32))
    OfflineDataset.from_episodes([make_episode(actions=[[1.0, -3.0]] * T)], action_space=space)
    with refused("4 of 4 actions lie outside"):
        OfflineDataset.from_episodes([make_episode(actions=[[-3.0, 1.0]] * T)], action_space=space)


def test_an_action_on_the_bound_is_inside_in_any_precision() -> None:
    """0.1 as float32, which actions are, is larger than 0.1 as float64, which bounds may be."""
    space = spaces.Box(-0.1, 0.1, (ACTION,), np.float64)
    dataset = OfflineDataset.from_episodes([make_episode(actions=[[0.1, -0.1]] * T)], action_space=space)
    assert dataset.n_steps == T


@pytest.mark.parametrize("space", [spaces.Box(-np.inf, np.inf, (ACTION,)), spaces.Discrete(3)])
def test_an_action_space_without_finite_bounds_is_refused(space: Any) -> None:
    with refused("`action_space` must be a Box with finite bounds, got "):
        OfflineDataset.from_episodes([make_episode()], action_space=space)


def test_an_action_space_without_width_is_refused() -> None:
    """Scaling such an entry to [-1, 1] would make it NaN."""
    space = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 0.0], np.float32))
    with refused("every entry of an action must be free to vary"):
        OfflineDataset.from_episodes([make_episode()], action_space=space)


MISFITS = {
    "observations of another size": (
        make_episode(observations=np.zeros((T + 1, 9))),
        "a row of `observations` must have the space's shape (3,), got (9,)",
    ),
    "actions of another size": (
        make_episode(actions=np.zeros((T, 5))),
        "a row of `actions` must have the space's shape (2,), got (5,)",
    ),
    "a dict where an array is due": (
        make_episode(observations={"a": np.zeros((T + 1, OBSERVATION))}),
        "observations are a dict, but the observation space is Box",
    ),
}


@pytest.mark.parametrize(("episode", "message"), MISFITS.values(), ids=MISFITS)
def test_an_episode_that_does_not_fit_the_others_is_refused(episode: Episode, message: str) -> None:
    with refused(re.escape(f"logs, episode 7: {message}")):
        OfflineDataset.from_episodes([make_episode(source="logs, episode 1"), episode])


def test_a_dict_with_other_keys_is_refused_with_the_expected_ones() -> None:
    first = make_episode(observations={"b": np.zeros((T + 1, 1)), "a": np.zeros((T + 1, 1))})
    for other in ({"a": np.zeros((T + 1, 1))}, np.zeros((T + 1, 1))):
        with refused(re.escape("logs, episode 7: observations must be a dict with the keys ['a', 'b']")):
            OfflineDataset.from_episodes([first, make_episode(observations=other)])


def test_an_array_of_a_dict_that_does_not_fit_is_named() -> None:
    first, other = (make_episode(observations={"a": np.zeros((T + 1, size))}) for size in (1, 2))
    message = "a row of `observations['a']` must have the space's shape (1,), got (2,)"
    with refused(re.escape(message)):
        OfflineDataset.from_episodes([first, other])


@pytest.mark.parametrize("kind", [np.float32, th.tensor])
def test_actions_are_scaled_entry_by_entry_and_back(kind: Any) -> None:
    low, high = kind([-2.0, 0.0]), kind([2.0, 10.0])
    actions, scaled = kind([[-2, 10], [0, 5], [1, 0]]), kind([[-1.0, 1.0], [0.0, 0.0], [0.5, -1.0]])
    np.testing.assert_array_equal(scale_actions(actions, low, high), scaled)
    np.testing.assert_array_equal(unscale_actions(scaled, low, high), actions)


# Whatever a user calls a data set ---------------------------------------------


def test_a_data_set_is_handed_back_as_it_is() -> None:
    dataset = OfflineDataset.from_episodes([make_episode()])
    assert load_dataset(dataset) is dataset


@pytest.mark.parametrize("kind", [list, tuple])
def test_episodes_are_a_data_set(kind: type) -> None:
    episodes = make_episodes()
    assert load_dataset(kind(episodes)).episodes == tuple(episodes)


def test_nothing_is_no_data_set() -> None:
    with refused("at least one episode, got none"):
        load_dataset([])


@pytest.mark.parametrize("source", [3, None, np.zeros(3), [make_episode(), "door-open-v0"]])
def test_anything_else_is_answered_with_what_is_accepted(source: Any) -> None:
    with refused(
        "must be a Minari data set id, a list of ids, a list of Episodes, an OfflineDataset", TypeError
    ):
        load_dataset(source)
