"""Ends of episodes under the names that other tools give them, in npz and hdf5 alike."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from expect import refused, warned
from step_files import SOURCES, N, arrays, flags, outcomes, read, write_steps

from sb3_llmdpd.data.step_files import FLAGS

Save = Callable[..., Path]
FIRST_TERMINATES = [(3, True), (2, False)]
"""Episodes of six steps with a termination at step 2 and a time limit at step 5, whose result is unknown."""


@pytest.fixture(params=SOURCES)
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Save:
    """Write steps without `terminals`, but for the arrays that are given, in each format."""

    def write(stem: str = "logs", **changes: Any) -> Path:
        return write_steps(tmp_path / f"{stem}{request.param}", **arrays(**{"terminals": None, **changes}))

    return write


@pytest.mark.parametrize("name", FLAGS["terminals"])
def test_a_termination_has_several_names(save, name):
    assert outcomes(read(save(**{name: flags(2), "timeouts": flags(5)}))) == FIRST_TERMINATES


@pytest.mark.parametrize("name", FLAGS["timeouts"])
def test_a_time_limit_has_several_names(save, name):
    assert outcomes(read(save(**{"terminals": flags(2), name: flags(5)}))) == FIRST_TERMINATES


@pytest.mark.parametrize("name", FLAGS["ends"])
def test_an_end_that_is_no_termination_is_a_time_limit(save, name):
    assert outcomes(read(save(**{"terminals": flags(2), name: flags(2, 5)}))) == FIRST_TERMINATES


@pytest.mark.parametrize("name", FLAGS["ends"])
@pytest.mark.parametrize("column", [False, True], ids=["rows", "a column"])
def test_an_end_that_is_no_time_limit_is_a_termination(save, name, column):
    ends = flags(2, 5)[:, None] if column else flags(2, 5)
    assert outcomes(read(save(**{name: ends, "timeouts": flags(5)}))) == FIRST_TERMINATES


@pytest.mark.parametrize("name", FLAGS["ends"])
def test_ends_without_a_reason_are_read_as_terminations_with_a_warning(save, name):
    with warned("logs.*: says where episodes end, and not why.*Where time limits are among them, add `time"):
        assert outcomes(read(save(**{name: flags(2, 5)}))) == [(3, True), (3, True)]


def test_ends_are_read_without_rewards_and_with_what_the_actions_led_to(save):
    following = np.roll(arrays()["observations"], -1, axis=0)
    following[2] = following[5] = 100
    path = save(terminals=flags(2), dones=flags(2, 5), rewards=None, next_observations=following)
    first, second = read(path)
    assert outcomes([first, second]) == [(3, True), (3, False)]
    np.testing.assert_array_equal(second.observations[-1], [100, 100])


def test_masks_are_0_where_the_task_itself_ended(save):
    assert outcomes(read(save(masks=1.0 - flags(2), timeouts=flags(5)))) == FIRST_TERMINATES


def test_rows_that_are_not_valid_are_no_steps(save):
    path = save(valids=1.0 - flags(2, 5))
    first, second = read(path)
    assert outcomes([first, second]) == [(2, False), (2, False)]
    np.testing.assert_array_equal(first.observations, [[0, 0], [1, -1], [2, -2]])
    np.testing.assert_array_equal(second.rewards, [3, 4])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("name", ["dones", "masks", "terminated", "valids"])
def test_flags_may_be_of_any_kind_of_number(save, name, dtype):
    ends = flags(2, 5) if name == "dones" else flags(2)
    if name in ("masks", "valids"):
        ends = ~ends
    limits = {} if name == "valids" else {"timeouts": flags(5)}
    expected = [(2, False), (2, False)] if name == "valids" else FIRST_TERMINATES
    assert outcomes(read(save(**{name: ends.astype(dtype), **limits}))) == expected


@pytest.mark.parametrize("names", [names[:2] for names in FLAGS.values() if len(names) > 1])
def test_two_names_of_one_meaning_have_to_agree(save, names):
    one, other = names
    with refused(rf"logs.*: `{one}` and `{other}` mean the same and differ; leave one out"):
        read(save(**{one: flags(2), other: flags(3)}))


def test_two_names_that_agree_are_read_as_one(save):
    path = save(terminals=flags(2), terminations=flags(2)[:, None].astype(float), timeouts=flags(5))
    assert outcomes(read(path)) == FIRST_TERMINATES


ALONE = ("terminations", "terminated", "masks")
"""Names of flags that stand without `terminals` here, since they mean the same."""


def beside(name: str) -> dict[str, np.ndarray]:
    return {} if name in ALONE else {"terminals": flags(2)}


@pytest.mark.parametrize("name", ["terminated", "truncated", "dones", "valids", "masks", "success"])
@pytest.mark.parametrize("value", [2, np.nan])
def test_other_values_than_0_and_1_are_refused_by_the_name_that_the_file_has(save, name, value):
    spoilt = flags(5).astype(float)
    spoilt[3] = value
    with refused(rf"logs.*: `{name}` must be 0 or 1 at each step, got {value}.* at step 3"):
        read(save(**{name: spoilt}, **beside(name)))


@pytest.mark.parametrize("name", ["terminations", "truncations", "dones", "valids", "masks", "success"])
def test_flags_of_another_length_are_refused_by_file_and_name(save, name):
    with refused(rf"logs.*: .*`{name}` has 7 and `actions` 6"):
        read(save(**{name: np.zeros(7)}, **beside(name)))


@pytest.mark.parametrize("name", ["terminated", "truncated", "dones", "valids", "masks", "success"])
def test_flags_that_are_no_numbers_are_refused_by_file_and_name(save, name):
    with refused(rf"logs.*: `{name}` must be an array of numbers", TypeError):
        read(save(**{name: np.array([b"a"] * N)}, **beside(name)))


# The layouts of other libraries -----------------------------------------------


def test_a_data_set_of_d3rlpy_1_is_read(save):
    said = dict(episode_terminals=flags(2, 5)[:, None].astype(np.float32), terminals=flags(2)[:, None])
    path = save(**said, discrete_action=np.bool_(False), version=np.bytes_("1.1.1"))
    assert outcomes(read(path)) == FIRST_TERMINATES


def ogbench(**fields: Any) -> dict[str, Any]:
    """Two trajectories of three rows each in OGBench's layout, which records no rewards."""
    return dict(rewards=None, **{name: np.asarray(value, np.float32) for name, value in fields.items()})


def test_the_last_row_of_a_raw_trajectory_of_ogbench_is_an_observation_alone(tmp_path):
    fields = ogbench(terminals=flags(2, 5), qpos=np.zeros((N, 4)), qvel=np.zeros((N, 4)))
    first, second = read(write_steps(tmp_path / "logs.npz", **arrays(**fields)))
    assert outcomes([first, second]) == [(2, False), (2, False)]
    np.testing.assert_array_equal(first.observations, [[0, 0], [1, -1], [2, -2]])
    np.testing.assert_array_equal(second.actions, np.array([[3], [4]], np.float32) / 100)
    assert (first.rewarded, first.n_left_out, second.n_left_out) == (False, 0, 0)


def test_a_compact_file_of_ogbench_ends_where_a_row_is_not_valid(save):
    """Its terminals mark the last step of a trajectory, and the row after that, too."""
    fields = ogbench(valids=~flags(2, 5), terminals=flags(1, 2, 4, 5))
    assert [(len(e), e.terminated, e.n_left_out) for e in read(save(**fields))] == [(2, False, 0)] * 2


def test_a_single_task_of_ogbench_terminates_where_its_masks_are_0(save):
    fields = ogbench(valids=~flags(2, 5), terminals=flags(1, 2, 4, 5), masks=~flags(4))
    first, second = read(save(**fields | {"rewards": -1.0 + flags(4)}))
    assert outcomes([first, second]) == [(2, False), (2, True)]
    np.testing.assert_array_equal(second.rewards, [-1, 0])


def test_where_masks_say_what_a_termination_is_terminals_are_any_end(save):
    """OGBench's layout with next observations, where `terminals` end trajectories and `masks` the task."""
    following = np.roll(arrays()["observations"], -1, axis=0)
    following[2] = following[5] = 100
    path = save(terminals=flags(2, 5), masks=1.0 - flags(5), next_observations=following)
    assert outcomes(read(path)) == [(3, False), (3, True)]


# What is not read -------------------------------------------------------------


@pytest.mark.parametrize("dtype", [bool, np.float64])
def test_flags_under_an_unknown_name_are_named_in_a_warning(save, dtype):
    path = save(terminals=flags(5), solved=flags(2).astype(dtype))
    with warned(r"logs.*: `solved` holds 0 or 1 at each step, and is not read. .*named `terminals`"):
        assert outcomes(read(path)) == [(6, True)]


def test_several_flags_under_unknown_names_are_named_in_one_warning(save):
    path = save(terminals=flags(5), solved=flags(2), won=flags(2)[:, None])
    with warned(r"logs.*: `solved`, `won` hold 0 or 1 at each step, and (is|are) not read"):
        read(path)


@pytest.mark.parametrize(
    "other", [np.arange(N), np.zeros(N - 1), np.zeros((N, 2)), np.float32(0), np.array([b"0"] * N)]
)
def test_other_arrays_under_unknown_names_are_nobodys_business(save, other):
    assert outcomes(read(save(terminals=flags(5), other=other))) == [(6, True)]


# Steps that stay at a goal ----------------------------------------------------


def test_many_episodes_of_one_step_are_warned_about(save):
    n = 22
    path = save(n=n, terminals=flags(*range(8, n), n=n))
    with warned(r"logs.*: 13 of 14 episodes have a single step. Where each step at a goal is marked as an"):
        assert outcomes(read(path)) == [(9, True)] + [(1, True)] * 13


@pytest.mark.parametrize("ends", [range(13, 22), [*range(0, 22, 2)], range(22)], ids=["few", "half", "all"])
def test_few_short_episodes_or_nothing_else_are_no_cause_for_a_warning(save, ends):
    assert len(read(save(n=22, terminals=flags(*ends, n=22)))) >= 9
