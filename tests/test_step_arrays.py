"""Cutting flat arrays of steps into episodes: their ends, their contents, and arrays that are refused."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from expect import refused, warned
from hypothesis import given
from hypothesis import strategies as st
from step_files import N, arrays, flags

from sb3_llmdpd.data import step_arrays
from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.step_arrays import StepArrays, Stretch, find_episodes, split_steps


def following(ends: tuple[int, ...] = (), n: int = N) -> np.ndarray:
    """Results of the actions of `arrays`: the next row, but at an end (1000 + t, 0)."""
    steps = np.arange(1, n + 1, dtype=np.float32)
    rows = np.stack([steps, -steps], axis=1)
    for end in (*ends, n - 1):
        rows[end] = (1000 + end, 0)
    return rows


def made(**fields: Any) -> StepArrays:
    return StepArrays(**{"source": "logs", "rewards": None, **arrays(**fields)})


def found(max_episode_steps: int | None = None, **fields: Any) -> list[tuple[int, int, bool]]:
    """Find each episode's first row, the row behind its last, and whether it terminated."""
    return [stretch[:3] for stretch in find_episodes(made(**fields), max_episode_steps)]


def read(max_episode_steps: int | None = None, **fields: Any) -> list[Episode]:
    return [Episode(**record) for record in split_steps(made(**fields), max_episode_steps)]


def test_an_episode_ends_at_a_terminal() -> None:
    assert found(ends=(1, 5)) == [(0, 2, True), (2, 6, True)]


def test_a_time_limit_is_not_a_termination() -> None:
    assert found(timeouts=flags(1), next_observations=following((1,))) == [(0, 2, False), (2, 6, False)]


def test_an_episode_that_was_cut_off_loses_its_last_step_where_nothing_says_what_it_led_to() -> None:
    assert found(timeouts=flags(2)) == [(0, 2, False), (3, 5, False)]


def test_an_episode_that_has_then_no_step_left_is_left_out() -> None:
    assert found(ends=(3,), timeouts=flags(0, 4)) == [(1, 4, True)]


def test_an_episode_ends_where_an_action_led_to_something_else_than_the_next_row() -> None:
    assert found(next_observations=following((2,))) == [(0, 3, False), (3, 6, False)]


def test_rounding_to_a_coarser_kind_of_float_is_no_end() -> None:
    observations = np.random.default_rng(0).normal(size=(N, 2))
    rounded = np.roll(observations, -1, axis=0).astype(np.float32)
    assert found(observations=observations, next_observations=rounded) == [(0, 6, False)]


def test_neighbouring_whole_numbers_are_different_however_large() -> None:
    observations = 10_000_000 + np.arange(N)[:, None]
    jumping = observations + 1
    jumping[2] += 1
    assert found(observations=observations, next_observations=jumping) == [(0, 3, False), (3, 6, False)]


def test_nan_is_left_for_the_episode_to_refuse_and_is_no_end() -> None:
    observations = np.full((N, 1), np.nan)
    steps = made(observations=observations, next_observations=observations)
    assert find_episodes(steps) == [Stretch(0, 6, False, result=5)]
    with refused("logs, episode 0: `observations` holds 7 NaN"):
        Episode(**next(split_steps(steps)))


def test_the_time_limit_is_counted_from_the_start_of_each_episode() -> None:
    stretches = found(3, ends=(0,), next_observations=following((0, 3)))
    assert stretches == [(0, 1, True), (1, 4, False), (4, 6, False)]


def test_a_terminal_at_the_time_limit_is_a_termination() -> None:
    assert found(3, ends=(2, 5)) == [(0, 3, True), (3, 6, True)]


def test_a_step_that_is_terminal_and_timeout_is_a_termination_and_warned_about() -> None:
    with warned("logs: 1 of 2 `timeouts` are `terminals`, too, and are read as terminations"):
        assert found(ends=(1,), timeouts=flags(1, 3)) == [(0, 2, True), (2, 3, False), (4, 5, False)]


def test_a_terminated_episode_repeats_its_last_observation_where_nothing_says_what_it_led_to() -> None:
    first, _ = read(ends=(1, 5))
    np.testing.assert_array_equal(first.observations, [[0, 0], [1, -1], [1, -1]])
    assert first.terminated


def test_the_last_observation_is_what_the_last_action_led_to() -> None:
    first, second = read(ends=(1,), next_observations=following((1,)))
    np.testing.assert_array_equal(first.observations, [[0, 0], [1, -1], [1001, 0]])
    np.testing.assert_array_equal(second.observations, [[2, -2], [3, -3], [4, -4], [5, -5], [1005, 0]])


def test_the_step_that_a_cut_off_episode_loses_gives_its_last_observation() -> None:
    (episode,) = read(n=4)
    np.testing.assert_array_equal(episode.observations, [[0, 0], [1, -1], [2, -2], [3, -3]])
    np.testing.assert_array_equal(episode.rewards, [0, 1, 2])


def test_dict_observations_are_cut_key_by_key() -> None:
    image = np.arange(N, dtype=np.uint8)[:, None]
    first, _ = read(ends=(1, 5), observations={"image": image, "speed": image / 2})
    assert isinstance(first.observations, dict)
    np.testing.assert_array_equal(first.observations["image"], np.array([[0], [1], [1]], np.uint8))
    np.testing.assert_array_equal(first.observations["speed"], [[0], [0.5], [0.5]])
    assert first.observations["image"].dtype == np.uint8


def test_an_end_in_one_entry_of_a_dict_is_an_end() -> None:
    same = np.zeros((N, 1))
    steps = np.arange(N)[:, None]
    jumping = np.array([[1], [2], [9], [4], [5], [6]])
    ends = found(observations={"a": same, "b": steps}, next_observations={"a": same, "b": jumping})
    assert ends == [(0, 3, False), (3, 6, False)]


def test_a_step_that_is_left_out_is_counted_and_its_row_is_what_the_last_action_led_to():
    first, second = find_episodes(made(timeouts=flags(2)))
    assert first == Stretch(0, 2, False, result=2, n_left_out=1)
    assert second == Stretch(3, 5, False, result=5, n_left_out=1)
    assert [record["n_left_out"] for record in split_steps(made(timeouts=flags(2)))] == [1, 1]


def test_no_step_is_left_out_where_its_result_is_recorded_or_of_no_use():
    recorded = find_episodes(made(timeouts=flags(2), next_observations=following((2,))))
    assert recorded == [Stretch(0, 3, False, result=2), Stretch(3, 6, False, result=5)]
    assert find_episodes(made(ends=(2, 5))) == [Stretch(0, 3, True, result=2), Stretch(3, 6, True, result=5)]


def test_a_row_that_is_no_step_is_what_the_last_action_led_to():
    valids = ~flags(2, 5)
    stretches = find_episodes(made(valids=valids))
    assert stretches == [Stretch(0, 2, False, result=2), Stretch(3, 5, False, result=5)]
    first, second = read(valids=valids)
    np.testing.assert_array_equal(first.observations, [[0, 0], [1, -1], [2, -2]])
    np.testing.assert_array_equal(second.actions, np.array([[3], [4]], np.float32) / 100)
    assert (first.n_left_out, second.n_left_out) == (0, 0)


def test_rows_that_are_no_steps_and_follow_each_other_are_no_episodes():
    assert found(valids=flags(0, 3)) == [(0, 1, False), (3, 4, False)]


def test_a_terminal_before_a_row_that_is_no_step_is_a_termination():
    assert found(ends=(1,), valids=~flags(2, 5)) == [(0, 2, True), (3, 5, False)]


@given(st.lists(st.booleans(), min_size=1, max_size=25), st.booleans())
def test_every_valid_step_is_in_one_episode_but_the_last_without_a_result(valid, recorded):
    n, valids = len(valid), np.array(valid)
    more = {"next_observations": following((), n)} if recorded else {}
    stretches = find_episodes(made(n=n, valids=valids, **more))
    rows = [row for stretch in stretches for row in range(stretch.start, stretch.stop)]
    expected = np.flatnonzero(valids).tolist()
    if valids[-1] and not recorded:
        expected.remove(n - 1)
    assert rows == expected
    assert all(valids[stretch.start : stretch.stop].all() for stretch in stretches)


def test_without_rewards_these_are_zeros_and_said_to_be_missing():
    (episode,) = read(ends=(5,), rewards=None)
    np.testing.assert_array_equal(episode.rewards, np.zeros(N))
    assert not episode.rewarded
    assert [one.rewarded for one in read(ends=(5,))] == [True]


def test_rewards_can_be_said_to_be_no_recorded_ones():
    assert [episode.rewarded for episode in read(ends=(5,), rewarded=False)] == [False]


def test_where_a_policy_stays_at_the_goal_an_episode_ends_at_its_first_terminal_and_begins_after_a_timeout():
    """Steps 1 to 3 are at the goal, 4 is an episode that does not reach it, 5 is cut off."""
    stretches = found(n=8, ends=(1, 2, 3, 6), timeouts=flags(3, 5, 7, n=8), stays_at_goal=True)
    assert stretches == [(0, 2, True), (4, 5, False), (6, 7, True)]


def test_where_a_policy_stays_at_the_goal_without_timeouts_each_terminal_is_an_end():
    assert found(ends=(1, 2, 5), stays_at_goal=True) == [(0, 2, True), (2, 3, True), (3, 6, True)]


def test_success_is_that_of_the_steps_of_the_episode() -> None:
    episodes = read(ends=(2, 5), successes=flags(1, 2))
    assert [(episode.success, episode.first_success) for episode in episodes] == [(True, 1), (False, None)]
    assert [episode.success for episode in read(ends=(5,))] == [None]


def test_sources_are_numbered() -> None:
    assert [episode.source for episode in read(ends=(2, 5))] == ["logs, episode 0", "logs, episode 1"]


def test_columns_of_one_number_a_step_are_read_like_rows() -> None:
    columns = dict(rewards=np.arange(N)[:, None], terminals=flags(1)[:, None].astype(float))
    assert found(**columns) == [(0, 2, True), (2, 5, False)]
    np.testing.assert_array_equal(made(**columns).rewards, np.arange(N))


def test_a_file_is_read_a_slice_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_arrays, "_CHUNK_BYTES", 24)  # three rows
    slices: list[int] = []

    class Watched:
        def __init__(self, dataset: h5py.Dataset) -> None:
            self.dataset, self.shape, self.dtype = dataset, dataset.shape, dataset.dtype

        def __getitem__(self, rows: slice) -> Any:
            slices.append(rows.stop - rows.start)
            return self.dataset[rows]

    n = 30
    ends = tuple(range(4, n, 5))
    fields = arrays(n=n, ends=ends, next_observations=following(ends, n))
    with h5py.File(tmp_path / "steps.hdf5", "w") as file:
        for name in ("observations", "next_observations", "actions"):
            file[name] = fields[name]
        lazy = {name: Watched(file[name]) for name in file}
        records = list(split_steps(StepArrays(**{**fields, **lazy})))
    for record, expected in zip(records, split_steps(StepArrays(**fields)), strict=True):
        np.testing.assert_array_equal(record["observations"], expected["observations"])
        np.testing.assert_array_equal(record["actions"], expected["actions"])
    assert max(slices) == 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"actions": np.zeros((5, 1))}, ".* but `rewards` has 6 and `actions` 5; leave out"),
        ({"terminals": np.zeros(7)}, ".* but `terminals` has 7 and `actions` 6"),
        ({"observations": {"a": np.zeros((2, 1))}}, r".* but `observations\['a'\]` has 2 and `actions` 6"),
        (
            {"terminals": np.full(N, 0.5)},
            "`terminals` must be 0 or 1 at each step, got 0.5 at step 0, the first of 6 other",
        ),
        (
            {"timeouts": np.array([0, 1, 2, 0, 0, 3])},
            "`timeouts` must be 0 or 1 at each step, got 2 at step 2, the first of 2 other",
        ),
        (
            {"rewards": np.zeros((N, 2))},
            r"`rewards` must be \(N,\), one number for each step, got shape \(6, 2\)",
        ),
        ({"rewards": 1.0}, "`rewards` must be an array over steps, got a single number"),
        (
            {"actions": np.zeros(N)},
            r"`actions` must be \(N, \*action_shape\), \(N, 1\) for a single number, got shape \(6,\)",
        ),
        ({"actions": np.zeros(N, int)}, "`actions` are one whole number a step.* labels of discrete actions"),
        ({"observations": {}}, "`observations` is empty"),
        (
            {"next_observations": np.zeros((N, 3))},
            r"`next_.*` must be like `observations`, float32 of shape \(6, 2\), got float64 of .*\(6, 3\)",
        ),
        ({"next_observations": np.zeros((N, 2), int)}, "`next.* like `observations`, float32 .*, got int64"),
        (
            {"next_observations": {"a": np.zeros((N, 2))}},
            "`next_observations` must have the entries of `observations`",
        ),
        ({"n": 0}, "holds no step"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with refused(f"^logs: {message}"):
        made(**fields)


def test_what_is_no_number_is_refused_by_name() -> None:
    with refused("logs: `actions` must be an array of numbers, got dtype <U1", TypeError):
        made(actions=np.full((N, 1), "a"))


@pytest.mark.parametrize("limit", [0, -1, 2.5, True])
def test_a_time_limit_is_a_positive_whole_number(limit: Any) -> None:
    with refused("`max_episode_steps` must be a whole number, at least 1, or None; got"):
        found(limit)


KINDS = ("terminal", "timeout", "jump")
Case = tuple[dict[str, Any], int | None]


@st.composite
def random_ends(draw: st.DrawFn) -> Case:
    """Steps with ends of all kinds, and a time limit."""
    kinds = draw(st.lists(st.sampled_from(["", "", "", *KINDS]), min_size=1, max_size=25))
    n = len(kinds)
    at = {kind: tuple(i for i in range(n) if kinds[i] == kind) for kind in KINDS}
    fields = arrays(n=n, ends=at["terminal"], timeouts=flags(*at["timeout"], n=n))
    if draw(st.booleans()):
        fields["next_observations"] = following(sum(at.values(), ()), n)
    return fields, draw(st.none() | st.integers(1, 8))


@given(random_ends())
def test_every_step_is_in_one_episode_or_left_out_for_what_it_led_to(case: Case) -> None:
    fields, limit = case
    stretches = find_episodes(StepArrays(**fields), limit)
    rows = [row for stretch in stretches for row in range(stretch.start, stretch.stop)]
    assert rows == sorted(set(rows))
    left_out = set(range(len(fields["rewards"]))) - set(rows)
    if "next_observations" in fields:
        assert left_out == set()
    assert not fields["terminals"][list(left_out)].any()
    starts, stops = {stretch.start for stretch in stretches}, {stretch.stop for stretch in stretches}
    n = len(fields["rewards"])
    for row in left_out:  # the last step of an episode that was cut off
        cut_off = (
            fields["timeouts"][row]
            or row == n - 1
            or (limit is not None and (row + 1 in starts or row + 1 in left_out))
        )
        assert cut_off
        assert row in stops or row == 0 or fields["terminals"][row - 1] or row - 1 in left_out


@given(random_ends())
def test_transitions_of_episodes_are_rows_of_the_arrays(case: Case) -> None:
    fields, limit = case
    steps = StepArrays(**fields)
    for stretch, record in zip(find_episodes(steps, limit), split_steps(steps, limit), strict=True):
        rows = slice(stretch.start, stretch.stop)
        observations = record["observations"]
        np.testing.assert_array_equal(observations[:-1], fields["observations"][rows])
        np.testing.assert_array_equal(record["actions"], fields["actions"][rows])
        np.testing.assert_array_equal(record["rewards"], fields["rewards"][rows])
        assert record["terminated"] == fields["terminals"][stretch.stop - 1]
        assert not fields["terminals"][rows][:-1].any()
        assert not fields["timeouts"][rows][:-1].any()
        if "next_observations" in fields:
            np.testing.assert_array_equal(observations[1:], fields["next_observations"][rows])
        elif not record["terminated"]:
            led_to = fields["observations"][stretch.start + 1 : stretch.stop + 1]
            np.testing.assert_array_equal(observations[1:], led_to)
        assert limit is None or len(record["rewards"]) <= limit
