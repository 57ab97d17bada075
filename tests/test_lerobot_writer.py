"""Writing LeRobot data sets: read as they were written, whole or not at all, and as LeRobot lays them out."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from expect import refused, warned
from factories import ACTION, OBSERVATION, make_episode
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from killed import leave_behind

from sb3_llmdpd.data.episode_source import Reading
from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.fingerprint import episode_digest
from sb3_llmdpd.data.lerobot import LeRobotSource
from sb3_llmdpd.data.lerobot_writer import write_lerobot
from sb3_llmdpd.data.loading import load_dataset

BOX = spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float32)
ACTIONS = spaces.Box(np.float32([-1.0, -2.0]), np.float32([1.0, 1.5]))
NOTES, INFO, STATS = "meta/sb3_llmdpd.json", "meta/info.json", "meta/stats.json"


def random_episode(n_steps: int = 4, seed: int = 0, **fields: Any) -> Episode:
    rng = np.random.default_rng(seed)
    observations, actions = rng.normal(size=(n_steps + 1, OBSERVATION)), rng.uniform(-1, 1, (n_steps, ACTION))
    values = dict(observations=observations, actions=actions, rewards=rng.normal(size=n_steps))
    return make_episode(**{**values, **fields})


def two() -> list[Episode]:
    """Two episodes of two tasks, the second without a sentence."""
    said = dict(task="drawer", task_texts=("open the drawer", "öffne die Schublade"))
    return [random_episode(3, 1, **said), random_episode(5, 2, task="door")]


def write(folder: Path, episodes: Any, observation_space: spaces.Space[Any] = BOX, **how: Any) -> Path:
    return write_lerobot(folder / "set", episodes, observation_space, ACTIONS, **how)


def assert_comes_back(folder: Path, episodes: list[Episode], space: spaces.Space[Any] = BOX) -> None:
    source = LeRobotSource(write(folder, episodes, space))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*there are no rewards")
        found = list(source.episodes())
    assert list(map(episode_digest, found)) == list(map(episode_digest, episodes))
    assert (source.observation_space, source.action_space) == (space, ACTIONS)


def table(folder: Path, place: str = "data/chunk-000/file-000.parquet") -> dict[str, list[Any]]:
    """Read a file of a data set, by column."""
    return pq.ParquetFile(folder / place).read().to_pydict()


def read_json(folder: Path, place: str) -> Any:
    return json.loads((folder / place).read_text())


def test_the_folder_is_returned(tmp_path):
    assert write(tmp_path, two()) == tmp_path / "set"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"terminated": True},
        {"n_steps": 1},
        {"n_steps": 1, "terminated": True, "success": True, "first_success": 0},
        {"task": " a task ", "task_texts": ("open it", "öffne\u2028sie"), "goal": "left"},
        {"task": " "},
        {"success": True, "first_success": 2},
        {"success": True},
        {"success": False},
        {"first_success": 0},
        {"rewards": np.zeros(4), "rewarded": False},
        {"rewards": np.float32([-0.0, 1e-42, 3e38, 0.1])},
    ],
    ids=str,
)
def test_an_episode_comes_back_bit_for_bit(tmp_path, fields):
    assert_comes_back(tmp_path, [random_episode(**fields)])


MIXED = spaces.Dict(
    {
        "state": spaces.Box(-5, 5, (OBSERVATION,), np.float32),
        "grid": spaces.Box(0, 2**40, (2, 3), np.int64),
        "touch": spaces.Box(0, 255, (1,), np.uint8),
        "arm/left": spaces.Box(-np.inf, np.inf, (1, 2, 2), np.float32),
    }
)


def mixed_observations(n: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "state": rng.uniform(-5, 5, (n, OBSERVATION)),
        "grid": rng.integers(0, 2**40, (n, 2, 3)),
        "touch": rng.integers(0, 256, (n, 1), np.uint8),
        "arm/left": rng.normal(size=(n, 1, 2, 2)),
    }


@st.composite
def episodes_of_a_dataset(draw: st.DrawFn) -> tuple[list[Episode], spaces.Space[Any]]:
    """Draw some episodes that differ in all that an episode may say."""
    is_mixed = draw(st.booleans())
    episodes = []
    for seed in range(draw(st.integers(1, 4))):
        n_steps = draw(st.integers(1, 6))
        success = draw(st.sampled_from([None, False, True]))
        rewarded = draw(st.booleans())
        fields: dict[str, Any] = {
            "success": success,
            "first_success": None if success is False else draw(st.none() | st.integers(0, n_steps - 1)),
            "terminated": draw(st.booleans()),
            "goal": draw(st.sampled_from([None, "left"])),
            "task": draw(st.sampled_from(["drawer", "door"])),
            "task_texts": draw(st.sampled_from([(), ("open it",), ("pull it", "open it")])),
            "rewarded": rewarded,
        }
        if not rewarded:
            fields["rewards"] = np.zeros(n_steps)
        if is_mixed:
            fields["observations"] = mixed_observations(n_steps + 1, seed)
        episodes.append(random_episode(n_steps, seed, **fields))
    return episodes, MIXED if is_mixed else BOX


@settings(max_examples=8)  # of some milliseconds of writing and reading files each
@given(episodes_of_a_dataset())
def test_any_episodes_come_back_equal_with_their_spaces(drawn):
    with TemporaryDirectory() as folder:
        assert_comes_back(Path(folder), *drawn)


def test_a_space_of_doubles_is_written_as_what_episodes_hold(tmp_path):
    write(tmp_path, two(), spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float64))
    assert LeRobotSource(tmp_path / "set").observation_space == BOX


def test_an_episode_has_a_frame_more_than_steps_which_shows_the_last_result(tmp_path):
    episode = random_episode(3, task_texts=("open it",))
    columns = table(write(tmp_path, [episode]))
    np.testing.assert_array_equal(columns["observation.state"], episode.observations)
    np.testing.assert_array_equal(columns["action"], episode.actions[[0, 1, 2, 2]])
    np.testing.assert_array_equal(columns["next.reward"], [*episode.rewards, 0])
    assert columns["next.done"] == [False, False, True, False]


def test_frames_know_their_places_and_times(tmp_path):
    columns = table(write(tmp_path, two(), fps=4))
    assert columns["episode_index"] == [0] * 4 + [1] * 6
    assert columns["frame_index"] == [*range(4), *range(6)]
    assert columns["index"] == list(range(10))
    assert columns["task_index"] == [0] * 4 + [1] * 6
    assert columns["timestamp"][4:8] == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    ("fields", "marks"),
    [
        ({"success": True, "first_success": 1}, [False, True, True, True, True]),
        ({"success": True}, [False, False, False, True, True]),
        ({"success": False}, [False] * 5),
    ],
    ids=str,
)
def test_success_is_marked_from_its_first_step_on(tmp_path, fields, marks):
    assert table(write(tmp_path, [random_episode(4, **fields)]))["next.success"] == marks


@pytest.mark.parametrize("known", [(None, True), (True, None), (None, None)], ids=str)
def test_success_that_is_not_known_of_all_episodes_is_no_feature(tmp_path, known):
    folder = write(tmp_path, [random_episode(success=success) for success in known])
    assert "next.success" not in table(folder)
    assert not {"next.success"} & {*read_json(folder, INFO)["features"], *read_json(folder, STATS)}


@pytest.mark.parametrize(
    ("rewarded", "is_there"), [((True, False), True), ((False, True), True), ((False, False), False)], ids=str
)
def test_rewards_are_a_feature_where_any_episode_has_them(tmp_path, rewarded, is_there):
    episodes = [random_episode(rewards=np.ones(4) * each, rewarded=each) for each in rewarded]
    folder = write(tmp_path, episodes)
    found = [
        "next.reward" in names for names in (table(folder), *(read_json(folder, each) for each in (STATS,)))
    ]
    assert [*found, "next.reward" in read_json(folder, INFO)["features"]] == [is_there] * 3


def test_what_is_left_out_is_left_out_of_all_files(tmp_path, monkeypatch):
    monkeypatch.setattr("sb3_llmdpd.data.lerobot_writer._FILE_MB", 1e-6)
    folder = write(tmp_path, [random_episode(rewarded=False, rewards=np.zeros(4))] * 3)
    paths = sorted((folder / "data").rglob("*"))
    assert [path.name for path in paths] == [
        "chunk-000",
        *(f"file-00{number}.parquet" for number in range(3)),
    ]
    assert not any("next.reward" in table(folder, str(path.relative_to(folder))) for path in paths[1:])


def test_a_full_file_is_followed_by_another_and_a_full_folder_too(tmp_path, monkeypatch):
    monkeypatch.setattr("sb3_llmdpd.data.lerobot_writer._FILE_MB", 1e-6)
    monkeypatch.setattr("sb3_llmdpd.data.lerobot_writer._CHUNK", 2)
    episodes = [random_episode(2 + number, number) for number in range(5)]
    assert_comes_back(tmp_path, episodes)
    columns = table(tmp_path / "set", "meta/episodes/chunk-000/file-000.parquet")
    assert columns["data/chunk_index"] == [0, 0, 1, 1, 2]
    assert columns["data/file_index"] == [0, 1, 0, 1, 0]
    assert (tmp_path / "set/data/chunk-002/file-000.parquet").is_file()


def test_the_table_of_episodes_says_where_their_frames_are(tmp_path):
    columns = table(write(tmp_path, two()), "meta/episodes/chunk-000/file-000.parquet")
    assert columns["episode_index"] == [0, 1]
    assert columns["tasks"] == [["open the drawer"], ["door"]]
    assert columns["length"] == [4, 6]
    assert columns["dataset_from_index"] == [0, 4]
    assert columns["dataset_to_index"] == [4, 10]


def test_the_table_of_contents_counts_and_describes(tmp_path):
    info = read_json(write(tmp_path, two(), fps=2.5), INFO)
    assert (info["codebase_version"], info["fps"]) == ("v3.0", 2.5)
    assert [info[f"total_{what}"] for what in ("episodes", "frames", "tasks")] == [2, 10, 2]
    assert info["splits"] == {"train": "0:2"}
    assert info["features"]["observation.state"] == {"dtype": "float32", "shape": [3], "names": None}
    assert info["features"]["next.done"] == {"dtype": "bool", "shape": [1], "names": None}


def test_the_table_of_tasks_is_indexed_by_their_strings_as_pandas_writes_it(tmp_path):
    pandas = pytest.importorskip("pandas")
    tasks = pandas.read_parquet(write(tmp_path, two()) / "meta/tasks.parquet")
    assert tasks.index.name == "task"
    assert tasks["task_index"].to_dict() == {"open the drawer": 0, "door": 1}


def test_tasks_of_one_sentence_are_one_task_of_lerobot(tmp_path):
    episodes = [random_episode(task=task, task_texts=("open it",)) for task in ("drawer", "door")]
    assert_comes_back(tmp_path, episodes)
    assert table(tmp_path / "set", "meta/tasks.parquet")["task"] == ["open it"]


def test_statistics_are_those_of_all_frames(tmp_path):
    shift = np.float32(1e4)  # far from zero, where sums of squares would lose their digits
    episodes = [
        random_episode(n, n, observations=shift + random_episode(n, n).observations) for n in (2, 5, 9)
    ]
    stats = read_json(write(tmp_path, episodes), STATS)
    rows = np.concatenate([episode.observations for episode in episodes]).astype(np.float64)
    found = stats["observation.state"]
    np.testing.assert_allclose(found["mean"], rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["std"], rows.std(axis=0), rtol=1e-9)
    np.testing.assert_array_equal([found["min"], found["max"]], [rows.min(axis=0), rows.max(axis=0)])
    assert found["count"] == stats["next.done"]["count"] == [19]
    assert stats["next.done"]["mean"] == [pytest.approx(3 / 19)]


def test_statistics_have_the_shapes_of_the_features(tmp_path):
    episode = random_episode(observations=mixed_observations(5, 0))
    stats = read_json(write(tmp_path, [episode], MIXED), STATS)
    assert np.shape(stats["observation.grid"]["std"]) == (2, 3)
    assert np.shape(stats["observation.touch"]["std"]) == (1,)


def test_entries_of_a_dict_are_features_below_observation(tmp_path):
    folder = write(tmp_path, [random_episode(observations=mixed_observations(5, 0))], MIXED)
    names = [name for name in read_json(folder, INFO)["features"] if name.startswith("observation")]
    assert sorted(names) == [f"observation.{key}" for key in ("arm.left", "grid", "state", "touch")]


def without_notes(folder: Path) -> Path:
    (folder / NOTES).unlink()
    return folder


def test_without_the_notes_steps_sentences_and_ends_come_back(tmp_path):
    """A data set of LeRobot's own tools has no such file."""
    said = dict(task_texts=("open it",), success=True, first_success=3, terminated=True)
    episode = random_episode(4, **said)
    (found,) = LeRobotSource(without_notes(write(tmp_path, [episode]))).episodes()
    assert episode_digest(found) == episode_digest(random_episode(4, **said, task="open it"))
    assert found.n_left_out == 0


def spoiled(folder: Path, **changes: Any) -> Path:
    """Change the notes of a data set."""
    (folder / NOTES).write_text(json.dumps(read_json(folder, NOTES) | changes))
    return folder


def notes_of_others(tmp_path: Path, episodes: list[Episode]) -> dict[str, Any]:
    return read_json(write_lerobot(tmp_path / "other", episodes, BOX, ACTIONS), NOTES)


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ([random_episode(3)], "the numbers or lengths of its episodes are not those of meta/episodes"),
        ([two()[0], random_episode(6, task="door")], "lengths of its episodes are not those"),
        (
            [two()[0], random_episode(5, task="window")],
            "it has 'window' for episode 1, and the tables have not",
        ),
        (two()[::-1], "lengths of its episodes are not those"),
    ],
    ids=["fewer", "longer", "another sentence", "another order"],
)
def test_notes_of_other_episodes_are_not_believed(tmp_path, others, reason):
    folder = spoiled(write(tmp_path, two()), **notes_of_others(tmp_path, others))
    with warned(rf"meta.sb3_llmdpd.json does not fit the data set, .* like one of LeRobot's own: .*{reason}"):
        found = list(LeRobotSource(folder).episodes())
    assert [episode.task for episode in found] == ["open the drawer", "door"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 2}, "it is of version 2, and 1 is known here"),
        ({"episodes": None}, "TypeError"),
        ({"features": {}}, "KeyError"),
        ({"features": {"": "observation.stat"}}, "the feature `observation.stat` is not of its space"),
        ({"action_space": {"type": "Discrete", "n": 2, "start": 0}}, "must be a Box with finite bounds"),
        ({"observation_space": {"type": "MultiBinary", "n": 3}}, "`observation.state` is not of its space"),
    ],
)
def test_notes_that_were_changed_are_not_believed(tmp_path, changes, reason):
    source = LeRobotSource(spoiled(write(tmp_path, two()), **changes))
    with warned(f"does not fit the data set, .*{reason}"):
        list(source.episodes())
    assert source.bounds_from_data


def test_broken_notes_are_not_believed(tmp_path):
    folder = write(tmp_path, two())
    (folder / NOTES).write_text('{"version": 1, ')
    with warned("does not fit the data set"):
        assert len(list(LeRobotSource(folder).episodes())) == 2


def test_notes_are_among_the_files_whose_change_is_noticed(tmp_path):
    folder = write(tmp_path, two())
    assert sorted(LeRobotSource(folder).files()) == sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name != "stats.json"
    )


def test_bounds_that_were_written_are_not_measured_and_cannot_be_others(tmp_path):
    folder = write(tmp_path, two())
    assert not LeRobotSource(folder).bounds_from_data
    with refused("records the bounds of its actions"):
        LeRobotSource(folder, reading=Reading(action_low=-5, action_high=5))


def test_features_that_a_user_names_are_read_as_in_any_data_set(tmp_path):
    observations = mixed_observations(5, 0)
    folder = write(tmp_path, [random_episode(observations=observations, task="drawer", goal="left")], MIXED)
    source = LeRobotSource(folder, observation_key=["observation.touch", "observation.state"])
    (episode,) = source.episodes()
    expected = np.hstack([observations["touch"], observations["state"]]).astype(np.float32)
    np.testing.assert_array_equal(episode.observations, expected)
    assert (episode.task, episode.goal, source.action_space) == ("drawer", "left", ACTIONS)


def test_what_is_read_as_written_and_the_same_features_by_name_are_different_data(tmp_path):
    folder = write(tmp_path, [random_episode(observations=mixed_observations(5, 0))], MIXED)
    as_written = LeRobotSource(folder).options()
    by_name = LeRobotSource(folder, observation_key=["observation.state"], action_key="action").options()
    assert as_written == {"observation_key": None, "action_key": None}
    assert by_name == {"observation_key": ["observation.state"], "action_key": ["action"]}


def test_an_action_that_a_user_names_has_bounds_of_the_data(tmp_path):
    source = LeRobotSource(write(tmp_path, two()), action_key="action")
    actions = np.concatenate([episode.actions for episode in two()])
    assert source.action_space == spaces.Box(actions.min(axis=0), actions.max(axis=0))
    assert source.bounds_from_data


def test_two_written_data_sets_of_the_same_space_are_read_together(tmp_path):
    folders = [write_lerobot(tmp_path / name, two(), BOX, ACTIONS) for name in "ab"]
    assert load_dataset([f"lerobot:{folder}" for folder in folders]).action_space == ACTIONS


def test_episodes_are_stored_as_they_come(tmp_path):
    """The file holds what came before, when the next is asked for: an iterable may be larger than memory."""
    sizes: list[int] = []

    def many() -> Iterator[Episode]:
        for number in range(4):
            sizes.append(sum(path.stat().st_size for path in tmp_path.rglob("*.parquet")))
            yield random_episode(2_000, number)

    write(tmp_path, many())
    one = 2_000 * (OBSERVATION + ACTION + 1) * 4
    assert sizes[3] - sizes[1] > one


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_is_interrupted_leaves_nothing(tmp_path, error):
    def interrupted() -> Iterator[Episode]:
        yield random_episode()
        raise error

    with pytest.raises(error):
        write(tmp_path, interrupted())
    assert not list(tmp_path.iterdir())


def test_no_one_sees_a_data_set_before_it_is_complete(tmp_path):
    seen: list[bool] = []

    def watched() -> Iterator[Episode]:
        for episode in two():
            seen.append((tmp_path / "set").exists())
            yield episode

    write(tmp_path, watched())
    assert seen == [False, False]


@pytest.mark.parametrize("content", [None, "meta"])
def test_an_existing_folder_is_never_overwritten(tmp_path, content):
    (tmp_path / "set" / (content or "")).mkdir(parents=True)
    with refused("set is there already, and a data set is never overwritten: delete it, or give another"):
        write(tmp_path, two())
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_missing_folders_above_are_made_and_home_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_lerobot("~/lab/set", two(), BOX, ACTIONS)
    assert len(load_dataset("lerobot:~/lab/set").episodes) == 2


@pytest.mark.parametrize(
    ("minutes_since", "is_kept"), [(5, True), (120, False)], ids=["of a running writer", "of a killed one"]
)
def test_leftovers_are_removed_when_they_are_old(tmp_path, minutes_since, is_kept):
    file = tmp_path / ".sb3_llmdpd-writing-x/set/data.parquet"
    leave_behind(file, tmp_path, minutes_since)
    write(tmp_path, two())
    assert file.exists() is is_kept


def test_a_data_set_without_episodes_is_refused(tmp_path):
    with refused("set: a data set needs at least one episode, got none"):
        write(tmp_path, [])
    assert not list(tmp_path.iterdir())


def test_what_is_no_episode_is_refused(tmp_path):
    with refused("set: a data set is made of `Episode`s, got dict", TypeError):
        write(tmp_path, [{"observations": np.zeros((5, 3))}])


def test_an_episode_that_does_not_fit_is_refused_by_its_number_and_leaves_nothing(tmp_path):
    with refused(r"set, episode 1 \(logs, episode 7\): 4 of 4 actions lie outside the action space"):
        write(tmp_path, [random_episode(), random_episode(actions=np.full((4, ACTION), 9.0))])
    assert not list(tmp_path.iterdir())


IMAGE = spaces.Box(0, 255, (4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (IMAGE, r"observations are Box.*, an image, and images are not written for LeRobot.* or write npz"),
        (spaces.Dict({"top": IMAGE}), "the observation 'top' is Box.*, an image"),
        (spaces.Discrete(3), r"observations are Discrete\(3\), and only Boxes of numbers are written"),
        (
            spaces.Dict({"heading": spaces.MultiBinary(2)}),
            "the observation 'heading' is MultiBinary.*, and only",
        ),
        (spaces.Box(0, 1, (1,) * 6), "observations are Box.* have 1 to 5 axes, none of them empty: reshape"),
        (spaces.Box(0, 1, (0,)), "observations are Box.* have 1 to 5 axes, none of them empty"),
        (
            spaces.Dict({"a/b": BOX, "a.b": BOX}),
            r"the observations \['a.b', 'a/b'\] would both be the feature 'observation.a.b'",
        ),
        (spaces.Text(9), "observations must be one array or a flat Dict of arrays, got Text"),
    ],
    ids=str,
)
def test_observations_that_lerobots_files_cannot_hold_are_refused(tmp_path, space, message):
    with refused(f"set: {message}"):
        write(tmp_path, two(), space)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("space", [spaces.Discrete(2), spaces.Box(-np.inf, np.inf, (ACTION,))])
def test_actions_must_be_of_a_bounded_box(tmp_path, space):
    with refused("set: `action_space` must be a Box with finite bounds, got"):
        write_lerobot(tmp_path / "set", two(), BOX, space)


@pytest.mark.parametrize(
    ("fps", "error", "message"),
    [
        (0, ValueError, "`fps` must be a finite number of frames a second above 0, got 0"),
        (np.nan, ValueError, "above 0, got nan"),
        (np.inf, ValueError, "above 0, got inf"),
        ("10", TypeError, "`fps` must be a number of frames a second, got '10'"),
        (True, TypeError, "got True"),
    ],
)
def test_a_rate_of_frames_that_is_none_is_refused(tmp_path, fps, error, message):
    with refused(message, error):
        write(tmp_path, two(), fps=fps)
