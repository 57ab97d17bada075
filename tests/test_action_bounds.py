"""Bounds of actions that no file records, in npz and hdf5 alike: measured, given, or refused; and labels."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from expect import refused, warned
from factories import make_episode
from gymnasium import spaces
from step_files import SOURCES, N, arrays, opened, read, said_by, write_steps

from sb3_llmdpd.data.episode_source import Reading
from sb3_llmdpd.data.loading import load_dataset
from sb3_llmdpd.data.npz import write_npz

Save = Callable[..., Path]
UNIT = spaces.Box(-1.0, 1.0, (1,), np.float32)
WIDE = np.linspace(-3.0, 3.0, N)[:, None]
"""Actions in radians, which no file says."""


def box(low: Any, high: Any) -> spaces.Box:
    return spaces.Box(np.array(low, np.float32), np.array(high, np.float32), dtype=np.float32)


@pytest.fixture(params=SOURCES)
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Save:
    """Write steps with some actions in each format."""

    def write(actions: np.ndarray, stem: str = "logs", **changes: Any) -> Path:
        steps = arrays(**{"n": len(actions), "ends": (len(actions) - 1,), **changes})
        return write_steps(tmp_path / f"{stem}{request.param}", **{**steps, "actions": actions})

    return write


# Measured ---------------------------------------------------------------------


def test_actions_in_the_unit_range_have_the_bounds_of_d4rl_however_small_they_are(save):
    assert opened(save(np.full((N, 1), 0.01))).action_space == UNIT
    assert opened(save(np.linspace(-1, 1, N)[:, None])).action_space == UNIT


def test_actions_that_leave_it_are_measured_entry_by_entry_with_a_warning_that_says_what_was_taken(save):
    path = save(np.concatenate([WIDE, WIDE / 12], axis=1))
    with warned(r"logs.*: no bounds .* recorded.* \[-3.0, -0.25\] and \[3.0, 0.25\]. Say .*`action_low`"):
        (episode,) = read(path)
    assert opened(path).action_space == box([-3, -0.25], [3, 0.25])
    np.testing.assert_array_equal(episode.actions[:, :1], WIDE.astype(np.float32))


def test_an_entry_that_never_moves_has_room_to_either_side(save):
    assert opened(save(np.concatenate([WIDE, np.full((N, 1), 5.0)], axis=1))).action_space == box(
        [-3, 4], [3, 6]
    )


def test_sources_that_are_read_together_span_the_values_of_all(save):
    paths = [save(WIDE, "one"), save(WIDE / 2 + 3, "two"), save(WIDE / 9, "three")]
    datasets: list[Any] = []
    said = said_by(lambda: datasets.append(load_dataset(list(map(str, paths)))))
    assert datasets[0].action_space == box([-3], [4.5])
    assert [one.split(":")[0] for one in said] == [str(path) for path in paths[:2]]


def test_measured_bounds_do_not_widen_those_that_a_file_records(save, tmp_path):
    write_npz(tmp_path / "own.npz", [make_episode(actions=np.zeros((4, 1)))], box([-9] * 3, [9] * 3), UNIT)
    names = [str(tmp_path / "own.npz"), str(save(WIDE, observations=np.zeros((N, 3))))]
    with refused(r"must share their action space: .*own.npz has .*-1.0, 1.0.*, .*logs.* has .*-3.0, 3.0"):
        load_dataset(names)


def with_outside(n_outside: int, value: float = 1.5) -> np.ndarray:
    """Make a hundred actions, some of which leave the unit range."""
    actions = np.full((100, 1), 0.5)
    actions[:n_outside] = value
    return actions


def test_a_few_actions_outside_are_clipped_and_counted(save):
    path = save(with_outside(2))
    expected = (
        r"logs.*: 2 of 100 actions lie outside the action space \[-1, 1\], by up to 0.5, and were clipped"
    )
    with warned(expected):
        (episode,) = read(path)
    assert opened(path).action_space == UNIT
    np.testing.assert_array_equal(episode.actions[:3, 0], [1, 1, 0.5])


def test_more_of_them_are_the_bounds(save):
    path = save(with_outside(3))
    with warned(r"no bounds .* are recorded.*\[0.5\] and \[1.5\]"):
        (episode,) = read(path)
    assert opened(path).action_space == box([0.5], [1.5])
    assert episode.actions.max() == 1.5


def test_what_is_not_finite_is_no_bound_and_refused_when_it_is_read(save):
    actions = WIDE.copy()
    actions[2] = np.inf
    assert opened(save(actions)).action_space == box([-3], [3])
    with warned("no bounds"), refused(r"logs.*, episode 0: `actions` holds 1 NaN or infinite"):
        read(save(actions))


# Given ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high"), [(-4, 4), (-4.0, 4.0), ([-4], [4]), (np.array([-4.0]), np.float64(4)), ((-4,), 4)]
)
def test_given_bounds_are_taken_without_a_warning(save, low, high):
    dataset = load_dataset(str(save(WIDE)), action_low=low, action_high=high)
    assert dataset.action_space == box([-4], [4])
    np.testing.assert_array_equal(dataset.episodes[0].actions, WIDE.astype(np.float32))


def test_each_entry_has_bounds_of_its_own_or_one_number_is_for_all(save):
    path = save(np.concatenate([WIDE, WIDE / 12], axis=1))
    for low, high in (([-3, -0.5], [3, 0.5]), ([-3, -3], 3)):
        expected = box(low, np.broadcast_to(high, 2))
        assert opened(path, reading=Reading(action_low=low, action_high=high)).action_space == expected


def test_a_space_gives_the_bounds_too(save):
    space = spaces.Box(-4.0, 5.0, (1,), np.float64)
    assert load_dataset(str(save(WIDE)), action_space=space).action_space == box([-4], [5])


def test_bounds_that_are_given_are_those_of_all_sources(save):
    names = [str(save(WIDE, "one")), str(save(WIDE / 9, "two"))]
    assert load_dataset(names, action_low=-4, action_high=4).action_space == box([-4], [4])


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (
            ([-4, -4], [4, 4]),
            r"logs.*: an action has the shape \(1,\), and the bounds that were given have \(2,\) and \(2,\)",
        ),
        ((4, -4), r"logs.*: `action_low` must lie below `action_high`, got \[4.\] and \[-4.\]"),
        ((4, [4]), r"logs.*: `action_low` must lie below `action_high`"),
    ],
)
def test_bounds_that_do_not_fit_are_refused(save, bounds, message):
    with refused(message):
        load_dataset(str(save(WIDE)), action_low=bounds[0], action_high=bounds[1])


@pytest.mark.parametrize(
    ("bounds", "error", "message"),
    [
        (dict(action_low=-4), ValueError, "`action_low` and `action_high` bound the actions together"),
        (dict(action_high=4), ValueError, "`action_low` and `action_high` bound the actions together"),
        (dict(action_low=-np.inf, action_high=4), ValueError, "`action_low` must be finite, got -inf"),
        (dict(action_low=-4, action_high=[np.nan]), ValueError, r"`action_high` must be finite, got \[nan\]"),
        (dict(action_low=-4, action_high=1e39), ValueError, "`action_high` must be finite, got 1e\\+39"),
        (dict(action_low="-4", action_high=4), TypeError, "`action_low` must be a number or one .* got '-4'"),
        (dict(action_low=-4, action_high=True), TypeError, "`action_high` must be a number or .*got True"),
        (dict(strict=True, clip=True), ValueError, "`strict` refuses .*, `clip` clips all: give one"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_read(bounds, error, message):
    with refused(message, error):
        Reading(**bounds)


def test_bounds_that_a_file_records_cannot_be_changed(tmp_path):
    path = tmp_path / "logs.npz"
    write_npz(path, [make_episode(actions=np.zeros((4, 1)))], box([-9] * 3, [9] * 3), UNIT)
    assert load_dataset(str(path), action_low=-1, action_high=1).action_space == UNIT
    with refused(
        r"logs.npz: records the bounds of its actions, .*-1.0, 1.0.* said to be .*-2.0, 2.0.*: leave out"
    ):
        load_dataset(str(path), action_low=-2, action_high=2)


# Clipped ----------------------------------------------------------------------


def test_many_actions_outside_the_given_bounds_are_refused_at_the_end_with_the_remedies(save):
    message = (
        "4 of 6 actions lie outside the action space [-1, 1], by up to 2: these are probably other units. Say"
        " the bounds that they have with `action_low` and `action_high`, where the source records none, or"
        " clip them all with `clip`"
    )
    source = opened(save(WIDE, ends=(2, 5)), reading=Reading(action_low=-1, action_high=1))
    episodes = source.episodes()
    assert [len(next(episodes)), len(next(episodes))] == [3, 3]
    with refused(re.escape(message)):
        next(episodes)


def test_they_are_all_clipped_where_that_is_asked_for(save):
    reading = Reading(action_low=-1, action_high=1, clip=True)
    with warned(r"logs.*: 4 of 6 actions lie outside .* were clipped"):
        (episode,) = read(save(WIDE), reading=reading)
    np.testing.assert_array_equal(episode.actions, np.clip(WIDE, -1, 1).astype(np.float32))


def test_strict_reading_refuses_the_first_one(save):
    reading = Reading(action_low=-1, action_high=1, strict=True)
    with refused(r"logs.*, episode 0: 1 of 100 actions lie outside the action space"):
        read(save(with_outside(1)), reading=reading)


# Labels -----------------------------------------------------------------------

ARE_LABELS = "labels of discrete actions, and a policy here acts by continuous ones"
LABELS = {
    "a whole number a step": np.arange(N) % 3,
    "a byte a step": (np.arange(N) % 3).astype(np.uint8),
    "a truth value a step": np.arange(N) % 2 == 1,
    "whole numbers in a column": np.arange(N)[:, None] % 3,
    "truth values in a column": np.arange(N)[:, None] % 2 == 1,
    "floats in a column that are whole": np.arange(N)[:, None] % 3.0,
    "several whole numbers": np.stack([np.arange(N) % 3, np.arange(N) % 2], axis=1),
}


@pytest.mark.parametrize("actions", LABELS.values(), ids=LABELS)
def test_labels_of_discrete_actions_are_refused(save, actions):
    with refused(rf"logs.*: `actions` are .*{ARE_LABELS}"):
        opened(save(actions))


def test_labels_are_refused_with_their_range_and_what_to_say_where_they_are_quantities(save):
    with refused(
        r"`actions` are whole numbers from 0 to 2, of int64: .*say their bounds with `action_low` and"
    ):
        opened(save(np.arange(N)[:, None] % 3))


COLUMNS = {name: actions for name, actions in LABELS.items() if actions.ndim > 1}


@pytest.mark.parametrize("actions", COLUMNS.values(), ids=COLUMNS)
def test_whole_numbers_whose_bounds_are_given_are_quantities(save, actions):
    dataset = load_dataset(str(save(actions)), action_low=0, action_high=4)
    np.testing.assert_array_equal(dataset.episodes[0].actions, actions.astype(np.float32))


@pytest.mark.parametrize("flag", [True, np.array([True]), np.float32(1)])
def test_a_file_that_says_that_its_actions_are_discrete_is_believed(save, flag):
    with refused(rf"logs.*: says by `discrete_action` that its actions are {ARE_LABELS}"):
        opened(save(np.linspace(-1, 1, N)[:, None], discrete_action=flag))


NO_LABELS = {
    "negative numbers": np.arange(N)[:, None] % 3 - 1,
    "nothing but zeros": np.zeros((N, 1), int),
    "several floats that are whole": np.stack([np.arange(N) % 2.0, np.ones(N)], axis=1),
    "a fraction among them": np.append(np.arange(N - 1) % 2.0, 0.5)[:, None],
}


@pytest.mark.parametrize("actions", NO_LABELS.values(), ids=NO_LABELS)
def test_numbers_that_may_be_quantities_are_read(save, actions):
    (episode,) = read(save(actions))
    np.testing.assert_array_equal(episode.actions, actions.astype(np.float32))
