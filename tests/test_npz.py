"""npz files of flat arrays: what is written comes back to the bit, other tools' files are read, and what is refused."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_llmdpd.data.episode_source import Reading
from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.loading import load_dataset, open_source
from sb3_llmdpd.data.npz import NpzSource, write_npz
from tests.factories import make_episode, traced

OBSERVATIONS = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)
N = 6


def arrays(**fields: Any) -> dict[str, Any]:
    """Steps of two episodes as another tool writes them; None leaves an array out."""
    steps = np.arange(N, dtype=np.float32)
    values = {
        "observations": np.stack([steps, -steps, steps / 2], axis=1),
        "actions": np.stack([steps, -steps], axis=1) / 100,
        "rewards": steps,
        "terminals": np.array([0, 0, 1, 0, 0, 1], np.float32),
    }
    return {name: value for name, value in {**values, **fields}.items() if value is not None}


def save(path: Path, **fields: Any) -> Path:
    np.savez(path, **arrays(**fields))
    return path


def again(
    path: Path,
    episodes: Sequence[Episode],
    observation_space: spaces.Space[Any] = OBSERVATIONS,
    action_space: spaces.Box = ACTIONS,
) -> list[Episode]:
    """The episodes after they were written and read."""
    write_npz(path, episodes, observation_space, action_space)
    source = NpzSource(path)
    assert source.observation_space == observation_space
    assert source.action_space == action_space
    return list(source.episodes())


def parts_of(episode: Episode) -> dict[str, np.ndarray]:
    observations = episode.observations
    return observations if isinstance(observations, dict) else {"": observations}


def assert_equal(one: Episode, other: Episode) -> None:
    """Equal in every bit and word."""
    ours, theirs = parts_of(one), parts_of(other)
    assert list(ours) == list(theirs)
    pairs = [
        *((ours[key], theirs[key]) for key in ours),
        (one.actions, other.actions),
        (one.rewards, other.rewards),
    ]
    for a, b in pairs:
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    for name in ("task", "task_texts", "terminated", "success", "first_success", "goal", "source"):
        assert getattr(one, name) == getattr(other, name)


def test_what_is_written_comes_back_with_all_that_episodes_say(tmp_path: Path) -> None:
    episodes = [
        traced(
            0,
            1,
            5,
            task_texts=("open it", "pull it"),
            terminated=True,
            success=True,
            first_success=4,
            goal="left",
        ),
        traced(1, 2, 1, success=False),
        traced(0, 3, 1, terminated=True),
        traced(2, 4, 3, task_texts=("öffne sie",)),
    ]
    for episode, read in zip(episodes, again(tmp_path / "logs.npz", episodes), strict=True):
        assert_equal(episode, read)


def test_episodes_that_follow_each_other_without_a_jump_stay_apart(tmp_path: Path) -> None:
    still = [make_episode(), make_episode(), make_episode(terminated=True)]
    assert [len(episode) for episode in again(tmp_path / "logs.npz", still)] == [4, 4, 4]


def test_dict_observations_come_back_in_their_dtypes(tmp_path: Path) -> None:
    space = spaces.Dict(
        {"camera/left": spaces.Box(0, 255, (2, 2), np.uint8), "door": spaces.Discrete(3), "arm": OBSERVATIONS}
    )
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
    for episode, read in zip(episodes, again(tmp_path / "logs.npz", episodes, space), strict=True):
        assert_equal(episode, read)


@st.composite
def any_episodes(draw: st.DrawFn) -> list[Episode]:
    words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
    values = st.floats(-1, 1, width=32)
    episodes = []
    for _ in range(draw(st.integers(1, 4))):
        n_steps = draw(st.integers(1, 4))
        success = draw(st.none() | st.booleans())
        episodes.append(
            Episode(
                np.array(draw(st.lists(values, min_size=n_steps + 1, max_size=n_steps + 1)))[:, None],
                np.array(draw(st.lists(values, min_size=n_steps, max_size=n_steps)))[:, None],
                np.array(
                    draw(
                        st.lists(
                            st.floats(-(2.0**100), 2.0**100, width=32), min_size=n_steps, max_size=n_steps
                        )
                    )
                ),
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
def test_any_episodes_come_back_as_they_were(episodes: list[Episode]) -> None:
    one = spaces.Box(-math.inf, math.inf, (1,), np.float32)
    with TemporaryDirectory() as folder:
        read = again(Path(folder, "logs.npz"), episodes, one, spaces.Box(-1.0, 1.0, (1,), np.float32))
    for episode, other in zip(episodes, read, strict=True):
        assert_equal(episode, other)


def test_other_tools_find_the_arrays_of_d4rls_layout(tmp_path: Path) -> None:
    write_npz(
        tmp_path / "logs.npz", [traced(0, 1, 2), traced(0, 2, 1, terminated=True)], OBSERVATIONS, ACTIONS
    )
    with np.load(tmp_path / "logs.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["observations"], [[0, 1, 0], [0, 1, 1], [0, 2, 0]])
        np.testing.assert_array_equal(file["next_observations"], [[0, 1, 1], [0, 1, 2], [0, 2, 1]])
        np.testing.assert_array_equal(file["actions"] * 128, [[1, 0], [1, 1], [2, 0]])
        np.testing.assert_array_equal(file["rewards"], np.array([1, 1 + 1 / 256, 2], np.float32))
        np.testing.assert_array_equal(file["terminals"], [False, False, True])
        np.testing.assert_array_equal(file["timeouts"], [False, True, False])
        assert file["metadata"].dtype.kind == "U"


def test_a_file_of_another_tool_is_one_task_named_by_its_stem(tmp_path: Path) -> None:
    source = NpzSource(save(tmp_path / "cheetah.npz"))
    first, second = source.episodes()
    np.testing.assert_array_equal(
        first.observations, np.array([[0, 0, 0], [1, -1, 0.5], [2, -2, 1], [2, -2, 1]], np.float32)
    )
    np.testing.assert_array_equal(second.rewards, [3, 4, 5])
    assert (first.task, first.task_texts, first.terminated, first.success) == ("cheetah", (), True, None)
    assert (source.observation_space, source.action_space) == (OBSERVATIONS, ACTIONS)
    assert first.source == f"{tmp_path / 'cheetah.npz'}, episode 0"


def test_dict_observations_of_another_tool_have_an_entry_for_each_key(tmp_path: Path) -> None:
    rows = {"observations/a": np.zeros((N, 2)), "observations/b": np.zeros((N, 4), np.uint8)}
    source = NpzSource(save(tmp_path / "logs.npz", observations=None, **rows))
    assert source.observation_space == spaces.Dict(
        {"a": spaces.Box(-np.inf, np.inf, (2,), np.float32), "b": spaces.Box(0, 255, (4,), np.uint8)}
    )
    assert [len(episode) for episode in source.episodes()] == [3, 3]


def test_a_time_limit_can_be_given_where_the_file_has_none(tmp_path: Path) -> None:
    path = save(tmp_path / "logs.npz", terminals=np.zeros(N))
    assert [len(episode) for episode in NpzSource(path, max_episode_steps=3).episodes()] == [2, 2]
    write_npz(path, [traced(0, 1, 5)], OBSERVATIONS, ACTIONS)
    with pytest.raises(
        ValueError, match=r"logs.npz: says itself where its episodes end; leave out `max_episode_steps`"
    ):
        NpzSource(path, max_episode_steps=3)


def test_a_task_can_be_given_and_sentences_for_it(tmp_path: Path) -> None:
    write_npz(tmp_path / "logs.npz", [traced(0, 1, 5, task_texts=("open it",))], OBSERVATIONS, ACTIONS)
    (episode,) = NpzSource(tmp_path / "logs.npz", task="drawer").episodes()
    assert (episode.task, episode.task_texts) == ("drawer", ("open it",))
    (episode,) = NpzSource(tmp_path / "logs.npz", reading=Reading({"task-0": "pull it"})).episodes()
    assert (episode.task, episode.task_texts) == ("task-0", ("pull it",))


def test_it_says_what_it_reads(tmp_path: Path) -> None:
    path = save(tmp_path / "logs.npz")
    source = NpzSource(path, task="run")
    assert (source.name, list(source.files())) == (str(path), [path])
    assert source.options() == {"task": "run", "max_episode_steps": None}


def test_a_large_array_that_is_damaged_is_answered_as_it_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "logs.npz", actions=np.full((N, 9_000), 0.123))
    content = path.read_bytes()
    path.write_bytes(content.replace(np.full(100, 0.123).tobytes(), np.full(100, 0.321).tobytes()))
    source = NpzSource(path)
    with pytest.raises(ValueError, match=r"logs.npz: is not an npz file, or damaged .* Bad CRC-32"):
        list(source.episodes())


def test_a_file_is_known_by_its_suffix_or_its_format(tmp_path: Path) -> None:
    path = save(tmp_path / "logs.npz")
    assert isinstance(open_source(str(path)), NpzSource)
    assert len(load_dataset(f"npz:{path}").episodes) == 2


def test_a_file_without_any_flags_is_read_with_a_warning(tmp_path: Path) -> None:
    path = save(tmp_path / "logs.npz", terminals=None, dones=np.zeros(N))
    with pytest.warns(
        UserWarning, match="has neither `terminals` nor `timeouts`, but holds `actions`, `dones`, `obs"
    ):
        (episode,) = NpzSource(path).episodes()
    assert not episode.terminated


def test_a_pickle_is_refused_without_being_opened(tmp_path: Path) -> None:
    path = save(tmp_path / "logs.npz", rewards=np.array([1.0] * N, object))
    with pytest.raises(
        ValueError, match=r"logs.npz: `rewards` is a pickle of Python objects, which could execute anything"
    ):
        NpzSource(path)


def test_a_pickle_that_is_not_read_does_not_matter(tmp_path: Path) -> None:
    path = save(tmp_path / "logs.npz", infos=np.array([{}] * N, object))
    assert len(list(NpzSource(path).episodes())) == 2


def test_a_missing_array_is_answered_with_its_name_and_what_is_there(tmp_path: Path) -> None:
    path = save(tmp_path / "logs.npz", observations=None, rewards=None, obs=np.zeros(N))
    with pytest.raises(
        ValueError, match=r"logs.npz: has no `observations` and no `rewards`, but holds `actions`, `obs`"
    ):
        NpzSource(path)


def test_observations_are_one_array_or_several(tmp_path: Path) -> None:
    path = save(tmp_path / "logs.npz", **{"observations/a": np.zeros((N, 2))})
    with pytest.raises(ValueError, match=r"logs.npz: has both `observations` and `observations/a`"):
        NpzSource(path)


def test_what_is_no_npz_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "logs.npz"
    path.write_bytes(b"not this")
    with pytest.raises(
        ValueError, match=r"logs.npz: is not an npz file, or damaged or half-written \(BadZipFile"
    ):
        NpzSource(path)


def test_an_array_that_is_damaged_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "logs.npz", actions=np.full((N, 2), 0.123))
    content = path.read_bytes()
    path.write_bytes(content.replace(np.float64(0.123).tobytes(), np.float64(0.321).tobytes()))
    with pytest.raises(ValueError, match=r"logs.npz: is not an npz file, or damaged .* Bad CRC-32"):
        list(NpzSource(path).episodes())


@pytest.mark.parametrize(
    ("offset", "reason"), [(6, "NotImplementedError: zip file version"), (8, "RuntimeError: .* encrypted")]
)
def test_damage_that_looks_like_another_kind_of_zip_is_answered_with_the_files_name(
    tmp_path: Path, offset: int, reason: str
) -> None:
    path = save(tmp_path / "logs.npz")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + offset] = 0x81
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"logs.npz: is not an npz file, or damaged or half-written \({reason}"
    ):
        NpzSource(path)


@pytest.mark.parametrize(
    "metadata",
    ["no json", "[]", json.dumps({"version": 2}), json.dumps({"version": 1, "episodes": [{"task": "a"}]})],
)
def test_metadata_of_another_kind_are_refused(tmp_path: Path, metadata: str) -> None:
    path = save(tmp_path / "logs.npz", metadata=np.array(metadata))
    with pytest.raises(
        ValueError, match=r"logs.npz: its `metadata` is not what write_npz writes .*save it without"
    ):
        NpzSource(path)


def test_sentences_in_metadata_are_lists(tmp_path: Path) -> None:
    path = tmp_path / "logs.npz"
    write_npz(path, [traced(0, 1, 2, task_texts=("open it",))], OBSERVATIONS, ACTIONS)
    with np.load(path) as file:
        changed = {**file, "metadata": np.array(str(file["metadata"]).replace('["open it"]', '"open it"'))}
    np.savez(path, **changed)
    with pytest.raises(
        ValueError, match=r"logs.npz: its `metadata` .* `task_texts` must be lists of sentences"
    ):
        NpzSource(path)


def test_metadata_that_contradict_the_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "logs.npz"
    write_npz(path, [traced(0, 1, 2), traced(0, 2, 2)], OBSERVATIONS, ACTIONS)
    with np.load(path) as file:
        changed = {**file, "timeouts": np.array([0, 1, 1, 1])}
    np.savez(path, **changed)
    with pytest.raises(ValueError, match=r"logs.npz: .*it speaks of 2 episodes, and the arrays hold 3"):
        list(NpzSource(path).episodes())


def test_a_file_that_is_refused_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "logs.npz"
    write_npz(path, [traced(0, 1, 5)], OBSERVATIONS, ACTIONS)
    with pytest.raises(
        ValueError, match=r"logs.npz, episode 0 \(logs, episode 7\): 8 of 8 actions lie outside"
    ):
        write_npz(
            path,
            [make_episode(actions=np.full((8, 2), 2.0), rewards=np.zeros(8), observations=np.zeros((9, 3)))],
            OBSERVATIONS,
            ACTIONS,
        )
    assert [len(episode) for episode in NpzSource(path).episodes()] == [5]
    assert [other.name for other in tmp_path.iterdir()] == ["logs.npz"]


def test_only_episodes_of_one_dtype_are_written(tmp_path: Path) -> None:
    space = spaces.Box(0, 255, (3,), np.uint8)
    mixed = [make_episode(observations=np.zeros((5, 3), np.uint8)), make_episode()]
    with pytest.raises(
        ValueError, match=r"episode 1 .*: `observations` is float32, and uint8 in the first episode"
    ):
        write_npz(tmp_path / "logs.npz", mixed, space, ACTIONS)
    with pytest.raises(TypeError, match=r"logs.npz: a data set is made of `Episode`s, got int"):
        write_npz(tmp_path / "logs.npz", [3], OBSERVATIONS, ACTIONS)  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"logs.npz: a data set needs at least one episode, got none"):
        write_npz(tmp_path / "logs.npz", [], OBSERVATIONS, ACTIONS)
    with pytest.raises(ValueError, match=r"`path` must end in .npz, .*; got 'logs.zip'"):
        write_npz("logs.zip", [make_episode()], OBSERVATIONS, ACTIONS)
