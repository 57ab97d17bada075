"""npz files of flat arrays: episodes come back to the bit, and pickles, damage and misfits are refused."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from expect import refused
from factories import make_episode, traced
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from step_files import N, arrays, write_steps

from sb3_llmdpd.data.episode_source import Reading
from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.fingerprint import episode_digest
from sb3_llmdpd.data.npz import NpzSource, write_npz

OBSERVATIONS = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs.npz"


def save(path: Path, **fields: Any) -> Path:
    """Write steps of two episodes as another tool does."""
    return write_steps(path, **arrays(**{"ends": (2, 5), **fields}))


def write(path: Path, *episodes: Episode) -> None:
    write_npz(path, episodes, OBSERVATIONS, ACTIONS)


def change(path: Path, **arrays: Any) -> None:
    with np.load(path) as file:
        changed = {**file, **arrays}
    np.savez(path, **changed)


def assert_comes_back(
    path: Path,
    episodes: list[Episode],
    space: spaces.Space[Any] = OBSERVATIONS,
    actions: spaces.Box = ACTIONS,
) -> None:
    """Compare every bit and word."""
    write_npz(path, episodes, space, actions)
    source = NpzSource(path)
    assert (source.observation_space, source.action_space) == (space, actions)
    for episode, read in zip(episodes, source.episodes(), strict=True):
        assert (episode_digest(episode), episode.source) == (episode_digest(read), read.source)
        if isinstance(episode.observations, dict):
            assert list(episode.observations) == list(read.observations)


def test_what_is_written_comes_back_with_all_that_episodes_say(path):
    said: dict[str, Any] = dict(task_texts=("open it", "pull it"), success=True, first_success=4, goal="left")
    episodes = [
        traced(0, 1, 5, terminated=True, **said),
        traced(1, 2, 1, success=False),
        traced(0, 3, 1, terminated=True),
        traced(2, 4, 3, task_texts=("öffne sie",)),
    ]
    assert_comes_back(path, episodes)


def test_episodes_that_follow_each_other_without_a_jump_stay_apart(path):
    write(path, make_episode(), make_episode(), make_episode(terminated=True))
    assert [len(episode) for episode in NpzSource(path).episodes()] == [4, 4, 4]


def test_dict_observations_come_back_in_their_dtypes(path):
    camera = spaces.Box(0, 255, (2, 2), np.uint8)
    space = spaces.Dict({"camera/left": camera, "door": spaces.Discrete(3), "arm": OBSERVATIONS})
    rng = np.random.default_rng(0)
    episodes = [
        make_episode(
            observations={
                "camera/left": rng.integers(0, 256, (5, 2, 2), np.uint8),
                "door": rng.integers(0, 3, 5),
                "arm": rng.normal(size=(5, 3)),
            },
            terminated=terminated,
        )
        for terminated in (True, False)
    ]
    assert_comes_back(path, episodes, space)


@st.composite
def any_episodes(draw: st.DrawFn) -> list[Episode]:
    words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
    values, large = st.floats(-1, 1, width=32), st.floats(-(2.0**100), 2.0**100, width=32)

    def rows(n: int, entries: st.SearchStrategy[float]) -> np.ndarray:
        return np.array(draw(st.lists(entries, min_size=n, max_size=n)))

    episodes = []
    for _ in range(draw(st.integers(1, 4))):
        n_steps = draw(st.integers(1, 4))
        success = draw(st.none() | st.booleans())
        episodes.append(
            Episode(
                rows(n_steps + 1, values)[:, None],
                rows(n_steps, values)[:, None],
                rows(n_steps, large),
                task=draw(words),
                task_texts=tuple(draw(st.lists(words.filter(str.strip), max_size=2))),
                terminated=draw(st.booleans()),
                success=success,
                first_success=draw(st.integers(0, n_steps - 1)) if success else None,
                goal=draw(st.none() | words),
                source=draw(words),
            )
        )
    return episodes


@settings(max_examples=20)  # each one writes a file
@given(any_episodes())
def test_any_episodes_come_back_as_they_were(episodes):
    one = spaces.Box(-math.inf, math.inf, (1,), np.float32)
    with TemporaryDirectory() as folder:
        assert_comes_back(Path(folder, "logs.npz"), episodes, one, spaces.Box(-1.0, 1.0, (1,), np.float32))


def test_other_tools_find_the_arrays_of_d4rls_layout(path):
    write(path, traced(0, 1, 2), traced(0, 2, 1, terminated=True))
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["observations"], [[0, 1, 0], [0, 1, 1], [0, 2, 0]])
        np.testing.assert_array_equal(file["next_observations"], [[0, 1, 1], [0, 1, 2], [0, 2, 1]])
        np.testing.assert_array_equal(file["actions"] * 128, [[1, 0], [1, 1], [2, 0]])
        np.testing.assert_array_equal(file["rewards"], np.array([1, 1 + 1 / 256, 2], np.float32))
        np.testing.assert_array_equal(file["terminals"], [False, False, True])
        np.testing.assert_array_equal(file["timeouts"], [False, True, False])
        assert file["metadata"].dtype.kind == "U"


def test_a_time_limit_is_refused_where_the_file_says_where_episodes_end(path):
    write(path, traced(0, 1, 5))
    with refused(r"logs.npz: says itself where its episodes end; leave out `max_episode_steps`, which is 3"):
        NpzSource(path, max_episode_steps=3)


def test_another_task_can_be_given_and_other_sentences(path):
    write(path, traced(0, 1, 5, task_texts=("open it",)))
    (episode,) = NpzSource(path, task="drawer").episodes()
    assert (episode.task, episode.task_texts) == ("drawer", ("open it",))
    (episode,) = NpzSource(path, reading=Reading({"task-0": "pull it"})).episodes()
    assert (episode.task, episode.task_texts) == ("task-0", ("pull it",))


def test_a_pickle_is_refused_without_being_opened(path):
    save(path, rewards=np.array([1.0] * N, object))
    with refused(r"logs.npz: `rewards` is a pickle of Python objects, which could execute anything"):
        NpzSource(path)


def test_a_pickle_that_is_not_read_does_not_matter(path):
    save(path, infos=np.array([{}] * N, object))
    assert len(list(NpzSource(path).episodes())) == 2


def test_observations_are_one_array_or_several(path):
    save(path, **{"observations/a": np.zeros((N, 2))})
    with refused(r"logs.npz: has both `observations` and `observations/a`"):
        NpzSource(path)


@pytest.mark.parametrize("size", [2, 9_000])
def test_an_array_that_is_damaged_is_answered_as_it_is_read(path, size):
    save(path, actions=np.full((N, size), 0.123))
    path.write_bytes(path.read_bytes().replace(np.float64(0.123).tobytes(), np.float64(0.321).tobytes()))
    with refused(r"logs.npz: is not an npz file, or damaged .* Bad CRC-32"):
        list(NpzSource(path).episodes())


@pytest.mark.parametrize(
    ("offset", "reason"), [(6, "NotImplementedError: zip file version"), (8, "RuntimeError: .* encrypted")]
)
def test_damage_that_looks_like_another_kind_of_zip_is_answered_with_the_files_name(path, offset, reason):
    content = bytearray(save(path).read_bytes())
    content[content.index(b"PK\1\2") + offset] = 0x81
    path.write_bytes(content)
    with refused(rf"logs.npz: is not an npz file, or damaged or half-written \({reason}"):
        NpzSource(path)


@pytest.mark.parametrize(
    "metadata",
    ["no json", "[]", json.dumps({"version": 2}), json.dumps({"version": 1, "episodes": [{"task": "a"}]})],
)
def test_metadata_of_another_kind_are_refused(path, metadata):
    save(path, metadata=np.array(metadata))
    with refused(r"logs.npz: its `metadata` is not what write_npz writes .*save it without"):
        NpzSource(path)


def test_sentences_in_metadata_are_lists(path):
    write(path, traced(0, 1, 2, task_texts=("open it",)))
    with np.load(path) as file:
        metadata = str(file["metadata"])
    change(path, metadata=np.array(metadata.replace('["open it"]', '"open it"')))
    with refused(r"logs.npz: its `metadata` .* `task_texts` must be lists of sentences"):
        NpzSource(path)


def test_metadata_that_contradict_the_arrays_are_refused(path):
    write(path, traced(0, 1, 2), traced(0, 2, 2))
    change(path, timeouts=np.array([0, 1, 1, 1]))
    with refused(r"logs.npz: .*it speaks of 2 episodes, and the arrays hold 3"):
        list(NpzSource(path).episodes())


def test_a_file_that_is_refused_leaves_what_was_there(path):
    write(path, traced(0, 1, 5))
    with refused(r"logs.npz, episode 0 \(logs, episode 7\): 4 of 4 actions lie outside"):
        write(path, make_episode(actions=np.full((4, 2), 2.0)))
    assert [len(episode) for episode in NpzSource(path).episodes()] == [5]
    assert list(path.parent.iterdir()) == [path]


def test_episodes_of_several_types_are_written_in_the_type_of_the_space(path):
    mixed = [make_episode(observations=np.full((5, 3), 7, kind)) for kind in (np.uint8, np.int64, float)]
    write_npz(path, mixed, spaces.Box(0, 255, (3,), np.uint8), ACTIONS)
    for episode in NpzSource(path).episodes():
        np.testing.assert_array_equal(episode.observations, np.full((5, 3), 7, np.uint8), strict=True)


def test_only_episodes_that_fit_the_space_are_written(path):
    half = make_episode(observations=np.full((5, 3), 0.5))
    with refused(
        r"logs.npz, episode 1 \(logs, episode 7\): `observations` holds 0.5 .* the space is of uint8"
    ):
        bytes_ = make_episode(observations=np.zeros((5, 3), np.uint8))
        write_npz(path, [bytes_, half], spaces.Box(0, 255, (3,), np.uint8), ACTIONS)
    with refused(r"logs.npz: a data set is made of `Episode`s, got int", TypeError):
        write(path, 3)
    with refused(r"logs.npz: a data set needs at least one episode, got none"):
        write(path)
    with refused(r"`path` must end in .npz, .*; got 'logs.zip'"):
        write(Path("logs.zip"), make_episode())


def test_whether_rewards_were_recorded_comes_back(path):
    write(path, make_episode(rewarded=False), make_episode())
    assert [episode.rewarded for episode in NpzSource(path).episodes()] == [False, True]


def test_a_file_of_before_that_does_not_say_it_has_rewards(path):
    write(path, make_episode(rewarded=False))
    with np.load(path) as file:
        metadata = json.loads(str(file["metadata"]))
    del metadata["episodes"][0]["rewarded"]
    change(path, metadata=np.array(json.dumps(metadata)))
    (episode,) = NpzSource(path).episodes()
    assert episode.rewarded


@pytest.mark.parametrize("value", ["no", None, 2, []])
def test_whether_rewards_were_recorded_is_true_or_false(path, value):
    write(path, make_episode())
    with np.load(path) as file:
        metadata = json.loads(str(file["metadata"]))
    metadata["episodes"][0]["rewarded"] = value
    change(path, metadata=np.array(json.dumps(metadata)))
    with refused(r"logs.npz: its `metadata` is not what write_npz writes \(.*`rewarded`"):
        NpzSource(path)


# Stacked episodes -------------------------------------------------------------


def stacked(lengths: Sequence[int], n_observations: int = 5, padding: float = math.nan) -> dict[str, Any]:
    """Stack episodes of up to four steps, with padding behind them, whose numbers tell episode and step."""
    numbers = np.arange(len(lengths))[:, None, None]
    steps = np.arange(5.0)
    rows = np.stack(np.broadcast_arrays(numbers, steps[:, None]), axis=-1)[:, :, 0]  # (E, 5, 2)
    fields = dict(observations=rows.copy(), actions=rows[:, :4] / 100, rewards=rows[:, :4, 1].copy())
    for number, length in enumerate(lengths):
        fields["observations"][number, length + 1 :] = padding
        fields["actions"][number, length:] = padding
        fields["rewards"][number, length:] = padding
    return {**fields, "observations": fields["observations"][:, :n_observations]}


def terminals_of(lengths: Sequence[int]) -> np.ndarray:
    return np.arange(4) == np.array(lengths)[:, None] - 1


def test_stacked_episodes_are_read_as_far_as_their_lengths_say(path):
    lengths = [4, 1, 3]
    write_steps(path, **stacked(lengths), terminals=terminals_of(lengths), lengths=np.array(lengths))
    episodes = list(NpzSource(path).episodes())
    assert [(len(episode), episode.terminated) for episode in episodes] == [(4, True), (1, True), (3, True)]
    for number, episode in enumerate(episodes):
        steps = np.arange(lengths[number] + 1)
        expected = np.stack(np.broadcast_arrays(number, steps), axis=1)
        np.testing.assert_array_equal(episode.observations, expected)
        np.testing.assert_array_equal(episode.actions, (expected[:-1] / 100).astype(np.float32))
        np.testing.assert_array_equal(episode.rewards, steps[:-1])


def test_stacked_episodes_that_were_cut_off_lose_nothing_where_the_last_observation_is_there(path):
    write_steps(path, **stacked([4, 2]), terminals=np.zeros((2, 4)), lengths=np.array([4, 2]))
    first, second = NpzSource(path).episodes()
    assert [(len(e), e.terminated, e.n_left_out) for e in (first, second)] == [(4, False, 0), (2, False, 0)]
    np.testing.assert_array_equal(second.observations[:, 1], [0, 1, 2])


def test_without_it_their_last_steps_are_left_out(path):
    fields = stacked([4, 2], n_observations=4)
    write_steps(path, **fields, terminals=np.zeros((2, 4)), lengths=np.array([4, 2]))
    first, second = NpzSource(path).episodes()
    assert [(len(e), e.terminated, e.n_left_out) for e in (first, second)] == [(3, False, 1), (1, False, 1)]
    np.testing.assert_array_equal(first.observations[:, 1], [0, 1, 2, 3])


def test_stacked_episodes_without_lengths_are_all_as_long_as_the_arrays(path):
    write_steps(path, **stacked([4, 4]), terminals=terminals_of([4, 4]))
    assert [len(episode) for episode in NpzSource(path).episodes()] == [4, 4]


def test_the_end_of_a_stacked_episode_is_not_one_of_its_task(path):
    write_steps(path, **stacked([4, 4]))
    assert [(len(e), e.terminated) for e in NpzSource(path).episodes()] == [(4, False), (4, False)]


@pytest.mark.parametrize("name", ["terminations", "masks"])
def test_stacked_terminations_may_have_another_name(path, name):
    ends = terminals_of([4, 9])  # the second is cut off
    write_steps(path, **stacked([4, 4]), **{name: 1 - ends if name == "masks" else ends})
    assert [(len(e), e.terminated) for e in NpzSource(path).episodes()] == [(4, True), (4, False)]


def test_stacked_observations_may_have_several_entries(path):
    fields = stacked([4, 2])
    rows = fields.pop("observations")
    parts = {"observations/a": rows[..., :1], "observations/b": rows[..., 1:]}
    write_steps(path, **fields, **parts, terminals=np.zeros((2, 4)), lengths=np.array([4, 2]))
    _, second = NpzSource(path).episodes()
    np.testing.assert_array_equal(second.observations["b"], [[0], [1], [2]])


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([4, 5], r"`lengths` must lie in 1 to 4, got \[4, 5\]"),
        ([4, 0], r"`lengths` must lie in 1 to 4, got \[4, 0\]"),
        ([4], r"`lengths` counts the steps of stacked episodes, .*; got shapes \(1,\) and \(2, 4, 2\)"),
        ([4, 2, 1], r"`lengths` counts the steps of stacked episodes, .*; got shapes \(3,\)"),
        ([4.0, 2.0], r"`lengths` counts the steps of stacked episodes, \(E,\) whole numbers"),
    ],
)
def test_lengths_that_cannot_be_are_refused(path, lengths, message):
    write_steps(path, **stacked([4, 2]), lengths=np.array(lengths))
    with refused(rf"logs.npz: {message}"):
        NpzSource(path)


def test_lengths_beside_flat_arrays_are_refused(path):
    save(path, lengths=np.array([3, 3]))
    with refused(r"logs.npz: `lengths` counts .* got shapes \(2,\) and \(6, 1\)"):
        NpzSource(path)
