"""LeRobot data sets of both versions: frames, ends of episodes, tasks, bounds, and what is refused."""

import json
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from expect import refused, warned
from gymnasium import spaces

from sb3_llmdpd.data.episode_source import Reading
from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.fingerprint import episode_digest
from sb3_llmdpd.data.lerobot import LeRobotSource
from sb3_llmdpd.data.loading import load_dataset, open_source
from sb3_llmdpd.data.npz import write_npz

Columns = dict[str, Any]
Save = Callable[..., Path]

VERSIONS = ["v2.1", "v3.0"]
TASKS = ["push the block", "lift it"]
FULL_NAMES = {"state": "observation.state", **{key: f"next.{key}" for key in ("reward", "done", "success")}}
STEPS = np.arange(4)
LAST, NEVER = STEPS == 3, STEPS < 0


def frames(n: int = 4, seed: int = 0, task: int = 0, **columns: Any) -> Columns:
    """Make an episode of n frames, states of three numbers and actions of two; None leaves a column out."""
    rng = np.random.default_rng(seed)
    values = {
        "state": rng.normal(size=(n, 3)).astype(np.float32),
        "action": rng.uniform(-90, 90, (n, 2)).astype(np.float32),
        "reward": np.arange(1, n + 1, dtype=np.float32),
        "task_index": np.full(n, task),
    } | columns
    return {FULL_NAMES.get(key, key): value for key, value in values.items() if value is not None}


def several() -> list[Columns]:
    """Five episodes of two tasks and of different lengths."""
    return [frames(3 + seed, seed, task=seed % 2) for seed in range(5)]


def arrow(value: Any, fixed: bool = False) -> pa.Array:
    if isinstance(value, pa.Array) or value.ndim == 1:
        return value if isinstance(value, pa.Array) else pa.array(value)
    if fixed:
        return pa.FixedSizeListArray.from_arrays(pa.array(value.ravel()), value.shape[1])
    return pa.array(value.tolist(), nested(pa.from_numpy_dtype(value.dtype), value.ndim - 1))


def nested(kind: pa.DataType, depth: int) -> pa.DataType:
    return nested(pa.list_(kind), depth - 1) if depth else kind


def table(episodes: list[Columns], first: int, fixed: bool = False) -> pa.Table:
    tables = []
    for index, columns in enumerate(episodes, first):
        n = len(columns["task_index"])
        arrays = {key: arrow(value, fixed) for key, value in columns.items()}
        places = {"frame_index": arrow(np.arange(n)), "episode_index": arrow(np.full(n, index))}
        tables.append(pa.table(places | arrays))
    return pa.concat_tables(tables)


def write_info(
    folder: Path,
    version: str,
    data_path: str,
    episodes: list[Columns],
    images: dict[str, str] | None = None,
    **changes: Any,
) -> None:
    """Write the table of contents, with images of the kinds given by their names."""
    features: dict[str, Any] = {
        key: {"dtype": kind, "shape": [96, 96, 3], "names": None} for key, kind in (images or {}).items()
    }
    for key, value in episodes[0].items():
        features[key] = {"dtype": str(value.dtype), "shape": list(value.shape[1:] or [1])}
    info = {
        "codebase_version": version,
        "fps": 10,
        "total_episodes": len(episodes),
        "total_tasks": len(TASKS),
        "chunks_size": 2,
        "data_path": data_path,
        "features": features,
    }
    (folder / "meta").mkdir(parents=True, exist_ok=True)
    (folder / "meta/info.json").write_text(json.dumps({**info, **changes}))


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_v21(
    folder: Path, episodes: list[Columns], tasks: list[str], fixed: bool = False, **changes: Any
) -> None:
    """Write one file an episode, two in a chunk."""
    data_path = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    write_info(folder, "v2.1", data_path, episodes, **changes)
    lengths = [len(columns["task_index"]) for columns in episodes]
    rows = [{"episode_index": i, "tasks": [], "length": length} for i, length in enumerate(lengths)]
    write_lines(folder / "meta/episodes.jsonl", rows)
    named = [{"task_index": i, "task": task} for i, task in enumerate(tasks)]
    write_lines(folder / "meta/tasks.jsonl", named)
    for index, columns in enumerate(episodes):
        path = folder / f"data/chunk-{index // 2:03d}/episode_{index:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table([columns], index, fixed), path)


def write_v30(
    folder: Path, episodes: list[Columns], tasks: list[str], fixed: bool = False, **changes: Any
) -> None:
    """Write two episodes a file, two files in a chunk, of the tables of episodes, too."""
    data_path = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    write_info(folder, "v3.0", data_path, episodes, **changes)
    named = pa.table({"task_index": list(range(len(tasks))), "task": tasks})
    pandas = {"pandas": json.dumps({"index_columns": ["task"], "columns": []})}
    pq.write_table(named.replace_schema_metadata(pandas), folder / "meta/tasks.parquet")
    n_before = 0
    for number, first in enumerate(range(0, len(episodes), 2)):
        some = episodes[first : first + 2]
        chunk, file = divmod(number, 2)
        name = f"chunk-{chunk:03d}/file-{file:03d}.parquet"
        for part in ("data", "meta/episodes"):
            (folder / part / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table(some, first, fixed), folder / "data" / name)
        rows = []
        for index, columns in enumerate(some, first):
            n = len(columns["task_index"])
            place = {"data/chunk_index": chunk, "data/file_index": file}
            place |= {"dataset_from_index": n_before, "dataset_to_index": n_before + n}
            place |= {"stats/action/min": [0.0, 0.0]}
            rows.append({"episode_index": index, "tasks": [""], "length": n, **place})
            n_before += n
        pq.write_table(pa.Table.from_pylist(rows), folder / "meta/episodes" / name)


WRITERS = {"v2.1": write_v21, "v3.0": write_v30}


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> Iterator[str]:
    return request.param


def write(folder: Path, version: str, episodes: list[Columns], tasks: list[str] = TASKS, **how: Any) -> Path:
    WRITERS[version](folder, episodes, tasks, **how)
    return folder


@pytest.fixture
def save(tmp_path: Path, version: str) -> Save:
    return partial(write, tmp_path, version)


def read(folder: Path, **how: Any) -> list[Episode]:
    return list(LeRobotSource(folder, **how).episodes())


def ended(n: int, at: int, **columns: Any) -> Columns:
    """Make an episode of n frames that are marked as ended from a frame on."""
    return frames(n, done=np.arange(n) >= at, **columns)


def test_a_frame_is_an_observation_and_the_action_after_it(save):
    written = frames(4)
    (episode,) = read(save([written]))
    np.testing.assert_array_equal(episode.observations, written["observation.state"])
    np.testing.assert_array_equal(episode.actions, written["action"][:3])
    np.testing.assert_array_equal(episode.rewards, [1, 2, 3])


def test_episodes_of_several_files_and_chunks_come_in_their_order(save, tmp_path):
    written = several()
    episodes = read(save(written))
    assert [episode.source for episode in episodes] == [f"{tmp_path}, episode {index}" for index in range(5)]
    assert [len(episode) for episode in episodes] == [2, 3, 4, 5, 6]
    for episode, columns in zip(episodes, written, strict=True):
        np.testing.assert_array_equal(episode.actions, columns["action"][:-1])


def test_more_than_ten_episodes_are_in_the_order_of_their_numbers_not_of_their_lines(tmp_path):
    write(tmp_path, "v2.1", [frames(2 + index) for index in range(12)])
    path = tmp_path / "meta/episodes.jsonl"
    path.write_text("\n".join(reversed(path.read_text().splitlines())))
    assert [len(episode) for episode in read(tmp_path)] == list(range(1, 13))


def test_both_versions_of_a_data_set_give_equal_episodes(tmp_path):
    one, other = (read(write(tmp_path / version, version, several())) for version in VERSIONS)
    assert [episode_digest(episode) for episode in one] == [episode_digest(episode) for episode in other]


def test_an_episode_longer_than_a_decoded_batch_is_whole(save, monkeypatch):
    monkeypatch.setattr("sb3_llmdpd.data.lerobot_files._BATCH", 2)
    written = several()
    episodes = read(save(written))
    np.testing.assert_array_equal(episodes[4].observations, written[4]["observation.state"])
    assert len(episodes) == 5


def test_lists_of_a_fixed_size_are_read_like_lists(save):
    written = several()
    episodes = read(save(written, fixed=True))
    np.testing.assert_array_equal(episodes[3].observations, written[3]["observation.state"])


def test_double_precision_becomes_float32(save):
    state = np.random.default_rng(0).normal(size=(4, 3))
    (episode,) = read(save([frames(4, state=state)]))
    np.testing.assert_array_equal(episode.observations, state.astype(np.float32))


@pytest.mark.parametrize("axis", [(), (1,)])
def test_a_feature_of_one_number_may_be_a_scalar_or_a_list_of_one(save, axis):
    value = np.arange(4, dtype=np.float32).reshape(4, *axis)
    (episode,) = read(save([frames(4, state=value, action=value, reward=value)]))
    np.testing.assert_array_equal(episode.observations, [[0], [1], [2], [3]])
    np.testing.assert_array_equal(episode.actions, [[0], [1], [2]])
    np.testing.assert_array_equal(episode.rewards, [0, 1, 2])


def test_actions_keep_their_shape_and_observations_are_vectors(save):
    grid = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    (episode,) = read(save([frames(4, state=grid, action=grid)]))
    np.testing.assert_array_equal(episode.actions, grid[:3])
    np.testing.assert_array_equal(episode.observations, grid.reshape(4, 6))


def test_arrays_of_an_extension_of_arrow_are_read_as_what_they_store(save, tmp_path):
    grid = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    columns = frames(4, state=grid)
    save([columns])
    (path,) = (tmp_path / "data").rglob("*.parquet")
    extension = pa.FixedShapeTensorArray.from_numpy_ndarray(grid)
    pq.write_table(table([{**columns, "observation.state": extension}], 0), path)
    (episode,) = read(tmp_path)
    np.testing.assert_array_equal(episode.observations, grid.reshape(4, 6))


def test_several_keys_stand_side_by_side_in_the_order_given(save):
    place = np.arange(4).reshape(4, 1)  # of integers
    written = frames(4, **{"observation.environment_state": place})
    keys = ["observation.environment_state", "observation.state"]
    source = LeRobotSource(save([written]), observation_key=keys)
    (episode,) = source.episodes()
    np.testing.assert_array_equal(episode.observations, np.hstack([place, written["observation.state"]]))
    assert source.observation_space == spaces.Box(-np.inf, np.inf, (4,), np.float32)
    assert source.options() == {"observation_key": keys, "action_key": ["action"]}


def test_the_task_string_is_the_task_and_its_sentence(save):
    episodes = read(save(several(), ["push the block", " öffne die Tür\u2028"]))
    assert [episode.task for episode in episodes[:3]] == ["push the block", "öffne die Tür", "push the block"]
    assert [episode.task_texts for episode in episodes[:2]] == [("push the block",), ("öffne die Tür",)]


def test_an_empty_task_string_is_no_sentence_and_its_task_is_the_data_set(save, tmp_path):
    (episode,) = read(save([frames()], [" "]))
    assert (episode.task, episode.task_texts) == (str(tmp_path), ())


def test_sentences_can_be_given_by_task_string(save):
    reading = Reading({"lift it": ["raise it", "pick it up"]})
    episodes = read(save(several()), reading=reading)
    texts = [episode.task_texts for episode in episodes[:2]]
    assert texts == [("push the block",), ("raise it", "pick it up")]


def test_the_first_frame_says_the_task_of_an_episode_of_several(save):
    folder = save([frames(4, task_index=np.array([1, 1, 0, 0])), frames()])
    with warned(r"1 of 2 episodes have several tasks, of which that of their first frame was taken"):
        episodes = read(folder)
    assert [episode.task for episode in episodes] == ["lift it", "push the block"]


def test_pandas_may_have_left_the_index_of_the_tasks_without_a_name(tmp_path):
    write(tmp_path, "v3.0", [frames()])
    nameless = pa.table({"task_index": [0], "__index_level_0__": ["close it"]})
    pq.write_table(nameless, tmp_path / "meta/tasks.parquet")
    assert read(tmp_path)[0].task == "close it"


def test_an_unknown_task_is_answered_with_the_episode_and_the_known_ones(save):
    folder = save([frames(), frames(task=7)])
    with refused(r"episode 1: `task_index` is 7, and the table of the tasks has \[0, 1\]"):
        read(folder)


def test_without_rewards_they_are_zero_and_a_warning_says_that_there_is_only_cloning(save):
    folder = save([frames(4, reward=None)])
    zero = "all are read as zero: only cloning can be learned, eta=0"
    with warned(rf"there are no rewards \(`next.reward`\), and {zero}") as caught:
        (episode,) = read(folder)
    np.testing.assert_array_equal(episode.rewards, [0, 0, 0])
    assert len(caught) == 1


ENDS = {
    "an end is not a termination": (ended(4, at=3), (3, False, None, None)),
    "an end without success is a time limit": (ended(4, at=3, success=NEVER), (3, False, False, None)),
    "an end after a lasting success is a time limit": (
        ended(4, at=3, success=STEPS >= 1),
        (3, False, True, 1),
    ),
    "the only reward of an episode at its end is the end of the task": (
        ended(4, at=3, reward=LAST.astype(np.float32)),
        (4, True, None, None),
    ),
    "success at an action that is left out has no step": (frames(4, success=LAST), (3, False, True, None)),
    "success on the way is known by its step": (frames(4, success=STEPS == 1), (3, False, True, 1)),
}


@pytest.mark.parametrize(("written", "expected"), ENDS.values(), ids=ENDS)
def test_length_termination_and_success_follow_from_the_marks_of_an_end(save, written, expected):
    (episode,) = read(save([written]))
    assert (len(episode), episode.terminated, episode.success, episode.first_success) == expected
    np.testing.assert_array_equal(episode.rewards, written["next.reward"][: len(episode)])


def test_an_end_with_success_is_a_termination_and_keeps_its_action_and_reward(save):
    written = ended(4, at=3, success=LAST, reward=LAST.astype(np.float32))
    (episode,) = read(save([written]))
    state = written["observation.state"]
    assert (episode.terminated, episode.success, episode.first_success) == (True, True, 3)
    np.testing.assert_array_equal(episode.actions, written["action"])
    np.testing.assert_array_equal(episode.rewards, [0, 0, 0, 1])
    np.testing.assert_array_equal(episode.observations, [*state, state[-1]])


def test_where_success_is_recorded_a_reward_at_the_end_is_none(save):
    folder = save([ended(4, at=3, reward=LAST.astype(np.float32), success=NEVER)])
    with warned(r"no reward but that of their last action"):
        (episode,) = read(folder)
    assert not episode.terminated


@pytest.mark.parametrize("success", [False, True])
def test_a_frame_after_the_end_only_shows_what_it_led_to(save, success):
    written = ended(4, at=2, success=np.array([False, False, success, success]))
    (episode,) = read(save([written]))
    assert (len(episode), episode.terminated, episode.success) == (3, success, success)
    assert episode.first_success == (2 if success else None)
    np.testing.assert_array_equal(episode.observations, written["observation.state"])


def test_a_reward_that_is_lost_with_the_last_action_is_told(save):
    folder = save([frames(4, reward=LAST.astype(np.float32)), frames(4)])
    with warned(r"1 of 2 episodes have no reward but that of their last action, which is left out"):
        episodes = read(folder)
    np.testing.assert_array_equal(episodes[0].rewards, [0, 0, 0])


def test_an_episode_of_a_single_frame_is_left_out_and_counted(save, tmp_path):
    save([frames(1), frames(4), frames(1)])
    with warned(r"2 of 3 episodes have a single frame, which is no step, and were left out"):
        episodes = read(tmp_path)
    assert [episode.source for episode in episodes] == [f"{tmp_path}, episode 1"]


def test_the_action_space_spans_what_is_recorded_in_all_files(save):
    written = several()
    actions = np.concatenate([columns["action"] for columns in written])
    source = LeRobotSource(save(written))
    assert source.action_space == spaces.Box(actions.min(axis=0), actions.max(axis=0), dtype=np.float32)


def test_the_action_space_of_several_data_sets_spans_the_values_of_all(tmp_path, version):
    actions = np.array([[[0, 1], [2, 3], [0, 1]], [[1, -4], [5, 2], [1, 0]]], np.float32)
    folders = [
        write(tmp_path / name, version, [frames(3, action=value)])
        for name, value in zip("ab", actions, strict=True)
    ]
    together = load_dataset([f"lerobot:{folder}" for folder in folders])
    assert together.action_space == spaces.Box(np.float32([0, -4]), np.float32([5, 3]))
    np.testing.assert_array_equal([episode.actions for episode in together.episodes], actions[:, :2])


def test_beside_a_source_that_records_its_bounds_they_must_be_the_same(tmp_path, version):
    folder = write(tmp_path / "robot", version, several())
    data = load_dataset(f"lerobot:{folder}")
    wider = spaces.Box(-100, 100, data.action_space.shape)
    write_npz(tmp_path / "logs.npz", data.episodes, data.observation_space, wider)
    with refused("must share their action space"):
        load_dataset([f"npz:{tmp_path}/logs.npz", f"lerobot:{folder}"])


def test_nothing_is_clipped(save):
    actions = np.random.default_rng(0).normal(size=(4, 2))  # in double precision, whose float32 may be larger
    (episode,) = read(save([frames(4, action=actions)]), reading=Reading(strict=True))
    np.testing.assert_array_equal(episode.actions, actions[:3].astype(np.float32))


def test_an_entry_that_never_moves_has_room_of_one_on_both_sides(save):
    actions = np.array([[0, 90, 2**25], [1, 90, 2**25], [2, 90, 2**25]], np.float32)
    space = LeRobotSource(save([frames(3, action=actions)])).action_space
    np.testing.assert_array_equal(space.low, [0, 89, 2**25 - 4])
    np.testing.assert_array_equal(space.high, [2, 91, 2**25 + 4])


def test_nan_is_answered_with_data_set_episode_and_field(save):
    actions = np.full((4, 2), np.nan, np.float32)
    folder = save([frames(4, action=actions)])
    with refused(r", episode 0: `actions` holds 6 NaN or infinite values, the first at step 0"):
        read(folder)


def test_one_file_is_read_after_the_other_was_consumed(save, tmp_path):
    source = LeRobotSource(save(several()))
    data = [path for path in source.files() if "data" in path.relative_to(tmp_path).parts]
    records = source.records()
    assert next(records)["source"] == f"{tmp_path}, episode 0"
    data[1].unlink()
    with refused(rf"{data[1].name} is missing; download the whole data set"):
        list(records)


def test_it_can_be_read_again_from_the_start(save):
    source = LeRobotSource(save(several()))
    next(source.records())
    digests = [[episode_digest(episode) for episode in source.episodes()] for _ in range(2)]
    assert digests[0] == digests[1]


def test_all_that_is_read_is_among_the_files(save, tmp_path):
    source = LeRobotSource(save(several()))
    assert sorted(source.files()) == sorted(path for path in tmp_path.rglob("*") if path.is_file())


def test_a_folder_is_known_without_its_format_and_from_home(tmp_path, version, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "pusht", version, several())
    assert load_dataset(str(tmp_path / "pusht")).tasks == tuple(TASKS)
    assert open_source("lerobot:~/pusht").name == "~/pusht"


@pytest.mark.parametrize("other", ["v2.0", "v3.1", None])
def test_another_version_is_answered_with_those_read_and_the_conversion(tmp_path, other):
    write(tmp_path, "v2.1", [frames()], codebase_version=other)
    known = "v2.1 and v3.0 are read.*convert_dataset_v20_to_v21"
    with refused(rf"version {other}, and {known}.*What is newer needs a newer sb3_llmdpd"):
        LeRobotSource(tmp_path)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("observation.images.top", "'observation.images.top' is no observation of numbers, but video"),
        ("observation.stat", "there is no feature 'observation.stat'"),
        ("next.reward", "'next.reward' is no observation"),
        (["observation.state", "action"], "'action' is no observation"),
    ],
)
def test_a_wrong_key_is_answered_with_the_keys_of_observations(tmp_path, key, reason):
    write(tmp_path, "v3.0", [frames()], images={"observation.images.top": "video"})
    with refused(rf"{reason}.*; `observation_key` may name 'observation.state'$"):
        LeRobotSource(tmp_path, observation_key=key)


def test_a_key_given_twice_is_refused(tmp_path):
    write(tmp_path, "v3.0", [frames()])
    with refused("`observation_key` names a feature twice"):
        LeRobotSource(tmp_path, observation_key=["observation.state", "observation.state"])


@pytest.mark.parametrize("key", [[], 5, [5]])
def test_a_key_must_be_a_name(tmp_path, key):
    write(tmp_path, "v3.0", [frames()])
    with refused(r"`observation_key` must be a name or several, of 'observation.state'; got", TypeError):
        LeRobotSource(tmp_path, observation_key=key)


def test_a_data_set_without_actions_is_refused(save):
    folder = save([frames()], features={"observation.state": {"dtype": "float32", "shape": [3]}})
    with refused("there is no feature `action` of numbers"):
        LeRobotSource(folder)


def test_a_missing_folder_is_answered_with_what_it_should_hold(tmp_path):
    with refused(r"nowhere: there is no such folder; give the one that holds meta.info\.json"):
        LeRobotSource(tmp_path / "nowhere")


def test_each_missing_file_is_answered_with_its_name(save, tmp_path):
    files = LeRobotSource(save(several())).files()
    for path in files:
        content = path.read_bytes()
        path.unlink()
        with refused(rf"{path.name} is missing|speaks of 5 episodes, and meta/episodes of [1-4]"):
            LeRobotSource(tmp_path)
        path.write_bytes(content)


@pytest.mark.parametrize("keep", [0, 30])
def test_each_file_cut_short_is_answered_with_its_name(save, tmp_path, keep):
    files = LeRobotSource(save(several())).files()
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[:keep])
        with refused(rf"{path.name} is damaged or half-written|and meta/episodes of 0"):
            LeRobotSource(tmp_path)
        path.write_bytes(content)


def test_a_table_of_episodes_that_is_short_of_some_is_refused(save):
    folder = save(several(), total_episodes=6)
    with refused(r"info\.json speaks of 6 episodes, and meta/episodes of 5; download or record"):
        LeRobotSource(folder)


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        ([4, 3], "episode 1: has 3 frames, and meta/episodes says 4"),
        ([4], "episode 1: has 0 frames, and meta/episodes says 4"),
        ([4, 5], "episode 1: has more frames than the 4 of meta/episodes"),
        ([4, 4, 4], "episode 2: .*file-000.parquet holds it, and meta/episodes does not"),
    ],
)
def test_a_file_that_contradicts_the_table_is_refused(tmp_path, held, reason):
    write(tmp_path, "v3.0", [frames(4), frames(4)])
    pq.write_table(table(list(map(frames, held)), 0), tmp_path / "data/chunk-000/file-000.parquet")
    with refused(rf"{reason}; download or record the data set again"):
        LeRobotSource(tmp_path)


@pytest.mark.parametrize(
    ("state", "error", "reason"),
    [
        (pa.array([[1.0], [1.0, 2.0], [1.0], [1.0]]), ValueError, "rows of {} must be of one size, got"),
        (pa.array([[1.0], None, [1.0]]), ValueError, r"rows of {} must be of one size, got \[1, None\]"),
        (pa.array([1.0, None, 1.0]), ValueError, "{} lacks 1 values; repair or leave out the episode"),
        (pa.array([[1.0, 2.0]] * 3), ValueError, r"a row of {} must be of shape \(1,\), got 2 values"),
        (pa.array(["a"] * 3), TypeError, "{} must be numbers, got string"),
    ],
)
def test_rows_that_are_no_vectors_are_answered_with_episode_and_field(save, tmp_path, state, error, reason):
    good = frames(len(state), state=np.zeros(len(state), np.float32))
    save([good])
    (path,) = (tmp_path / "data").rglob("*.parquet")
    pq.write_table(table([{**good, "observation.state": state}], 0), path)
    with refused(rf"{tmp_path}, episode 0: {reason.format('`observation.state`')}", error):
        read(tmp_path)


def test_a_file_that_lacks_a_feature_is_answered_with_it(save, tmp_path):
    save([frames(), frames()])
    path = sorted((tmp_path / "data").rglob("*.parquet"))[-1]
    pq.write_table(pq.ParquetFile(path).read().drop_columns(["task_index"]), path)
    with refused(r"it lacks the columns \['task_index'\]"):
        read(tmp_path)


def test_a_sound_data_set_gives_no_warning(save):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(read(save(several()))) == 5
    assert not caught


def named(**columns: Any) -> Columns:
    """Make an episode of four frames whose state and action are features of other names."""
    return frames(4, state=None, action=None) | columns


STATE, OTHER = np.arange(12, dtype=np.float32).reshape(4, 3), np.arange(4, dtype=np.float32)[:, None]


@pytest.mark.parametrize(
    ("columns", "observed", "acted"),
    [
        ({"state": STATE, "actions": OTHER}, ["state"], ["actions"]),
        ({"observation": STATE, "state": OTHER, "action": OTHER}, ["state"], ["action"]),
        ({"observations": STATE, "action": OTHER}, ["observations"], ["action"]),
        (
            {"observation.state.b": STATE, "observation.state.a": OTHER, "action": OTHER},
            ["observation.state.b", "observation.state.a"],
            ["action"],
        ),
        (
            {"observation.states.arm": STATE, "action.arm": OTHER, "action.hand": STATE},
            ["observation.states.arm"],
            ["action.arm", "action.hand"],
        ),
        ({"state.arm": STATE, "actions.hand": OTHER}, ["state.arm"], ["actions.hand"]),
    ],
)
def test_features_under_other_known_names_are_read_in_the_order_of_the_table(
    tmp_path, columns, observed, acted
):
    written = named(**columns)
    source = LeRobotSource(write(tmp_path, "v2.1", [written]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (episode,) = source.episodes()
    np.testing.assert_array_equal(episode.observations, np.hstack([written[key] for key in observed]))
    np.testing.assert_array_equal(episode.actions, np.hstack([written[key] for key in acted])[:3])
    assert source.options() == {"observation_key": observed, "action_key": acted}


def test_features_that_were_chosen_are_said_once_a_reading(save):
    written = named(**{"observation.state": STATE, "action.arm": OTHER, "action.hand": OTHER})
    source = LeRobotSource(save([written, written]))
    said = "`action`; taken for the action: 'action.arm', 'action.hand'. `action_key` .--action-key. names"
    with warned(said) as caught:
        list(source.episodes())
    assert len(caught) == 1


def test_features_that_were_named_are_not_said(save):
    source = LeRobotSource(
        save([named(state=STATE, actions=OTHER)]), observation_key="state", action_key="actions"
    )
    (episode,) = source.episodes()
    np.testing.assert_array_equal(episode.observations, STATE)


def test_the_usual_features_go_before_others(save):
    source = LeRobotSource(save([frames(4) | {"actions": STATE, "observations": OTHER}]))
    assert source.options() == {"observation_key": ["observation.state"], "action_key": ["action"]}


def test_several_features_named_as_the_action_stand_side_by_side_in_their_order(save):
    grid = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    folder = save([named(**{"observation.state": STATE, "grid": grid, "hand": OTHER})])
    source = LeRobotSource(folder, action_key=["hand", "grid"])
    (episode,) = source.episodes()
    np.testing.assert_array_equal(episode.actions, np.hstack([OTHER, grid.reshape(4, 6)])[:3])


def test_one_feature_named_as_the_action_keeps_its_shape(save):
    grid = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    source = LeRobotSource(save([frames(4, grid=grid)]), action_key="grid")
    assert source.action_space.shape == (3, 2)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("joints", "there is no feature 'joints'"),
        ("next.reward", "'next.reward' is no action"),
        ("frame_index", "'frame_index' is no action"),
    ],
)
def test_a_wrong_key_of_the_action_is_answered_with_the_features_of_numbers(save, key, reason):
    folder = save([frames(4, frame_index=STEPS)])
    with refused(rf"{reason}; `action_key` may name 'observation.state', 'action'$"):
        LeRobotSource(folder, action_key=key)


def test_what_is_the_action_cannot_be_observed(save):
    folder = save([named(**{"observation.state": STATE, "command": OTHER})])
    with refused("'command' is no observation; `observation_key` may name 'observation.state'"):
        LeRobotSource(folder, observation_key="command", action_key="command")


def test_features_that_are_not_known_are_listed_with_the_option_that_names_them(save):
    folder = save([frames(4, state=None, joints=STATE)])
    with refused(
        "no feature `observation.state` of numbers.* are 'action', 'next.reward', 'task_index', 'joints':"
        r" name the observation, or several to put side by side, with `observation_key` \(--observation-key\)"
    ):
        LeRobotSource(folder)


def test_a_long_list_of_features_is_cut(save):
    folder = save([frames(4, state=None) | {f"joint-{number}": OTHER for number in range(20)}])
    with refused("'joint-8' and 11 more: name the observation"):
        LeRobotSource(folder)


SHUFFLED = np.array([2, 0, 3, 1])


def shuffled(columns: Columns, order: np.ndarray = SHUFFLED) -> Columns:
    """Put the frames of an episode into another order, which ``frame_index`` tells."""
    numbered = columns | {"frame_index": np.arange(len(columns["task_index"]))}
    return {key: value[order] for key, value in numbered.items()}


def test_frames_are_in_the_order_of_their_numbers(save):
    written = frames(4)
    (episode,) = read(save([shuffled(written)]))
    np.testing.assert_array_equal(episode.observations, written["observation.state"])
    np.testing.assert_array_equal(episode.rewards, [1, 2, 3])


def test_without_numbers_of_frames_they_are_in_the_order_of_their_rows(save, tmp_path):
    written = frames(4)
    save([written])
    (path,) = (tmp_path / "data").rglob("*.parquet")
    pq.write_table(table([written], 0).drop_columns(["frame_index"]), path)
    (episode,) = read(tmp_path)
    np.testing.assert_array_equal(episode.rewards, [1, 2, 3])


def test_numbers_of_frames_may_have_gaps(save):
    (episode,) = read(save([frames(4, frame_index=np.array([9, 3, 7, 5], np.uint8))]))
    np.testing.assert_array_equal(episode.rewards, [2, 4, 3])


def test_two_frames_of_one_number_are_refused_with_their_episode(save):
    folder = save([frames(4), frames(4, frame_index=np.array([0, 2, 1, 2]))])
    with refused("episode 1: two frames have the `frame_index` 2, which says their order"):
        LeRobotSource(folder)


def rewrite(folder: Path, arranged: Callable[[pa.Table], pa.Table]) -> None:
    """Write the rows of the only data file in another arrangement."""
    (path,) = (folder / "data").rglob("*.parquet")
    pq.write_table(arranged(pq.ParquetFile(path).read()), path)


def states_by_source(folder: Path) -> dict[str, np.ndarray]:
    return {episode.source: episode.observations for episode in read(folder)}


@pytest.mark.parametrize("batch", [2, 5, 100])
@pytest.mark.parametrize(
    "order", [[5, 6, 7, 8, 0, 1, 2, 3, 4], [0, 5, 1, 6, 2, 7, 3, 8, 4], [8, 3, 1, 0, 5, 2, 7, 6, 4]]
)
def test_episodes_of_a_file_may_be_out_of_order_and_mixed(tmp_path, monkeypatch, order, batch):
    monkeypatch.setattr("sb3_llmdpd.data.lerobot_files._BATCH", batch)
    written = [frames(5, 0), frames(4, 1)]
    write(tmp_path, "v3.0", written)
    rewrite(tmp_path, lambda rows: rows.take(order))
    found = states_by_source(tmp_path)
    for index, columns in enumerate(written):
        np.testing.assert_array_equal(found[f"{tmp_path}, episode {index}"], columns["observation.state"])


def test_arrays_of_an_extension_of_arrow_may_be_mixed(tmp_path):
    grid = np.arange(48, dtype=np.float32).reshape(2, 4, 2, 3)
    tensors = [pa.FixedShapeTensorArray.from_numpy_ndarray(each) for each in grid]
    write(tmp_path, "v3.0", [frames(4, state=each) for each in grid])
    rows = table([{**frames(4, state=None), "observation.state": each} for each in tensors], 0)
    rewrite(tmp_path, lambda _: rows.take([0, 4, 1, 5, 2, 6, 3, 7]))
    assert [episode.observations[2].tolist() for episode in read(tmp_path)] == grid[:, 2].reshape(
        2, 6
    ).tolist()


def test_an_episode_may_go_on_in_the_next_file(tmp_path):
    written = several()[:4]
    write(tmp_path, "v3.0", written)
    paths = sorted((tmp_path / "data").rglob("*.parquet"))
    rows = pa.concat_tables([pq.ParquetFile(path).read() for path in paths])
    pq.write_table(rows[:5], paths[0])
    pq.write_table(rows[5:], paths[1])
    np.testing.assert_array_equal(
        states_by_source(tmp_path)[f"{tmp_path}, episode 1"], written[1]["observation.state"]
    )


def test_episodes_are_found_where_the_table_names_the_wrong_file(tmp_path):
    """The converter of lerobot 0.4.0 lists the first episode of a file under the file before."""
    written = several()[:4]
    write(tmp_path, "v3.0", written)
    second = tmp_path / "meta/episodes/chunk-000/file-001.parquet"
    rows = pq.ParquetFile(second).read()
    wrong = pa.array([0] * len(rows))
    pq.write_table(
        rows.set_column(rows.schema.get_field_index("data/file_index"), "data/file_index", wrong), second
    )
    assert [len(episode) for episode in read(tmp_path)] == [2, 3, 4, 5]


def test_file_9_is_read_before_file_10(tmp_path):
    write(tmp_path, "v3.0", several()[:4])
    info = json.loads((tmp_path / "meta/info.json").read_text())
    info["data_path"] = "data/chunk-{chunk_index}/file-{file_index}.parquet"
    (tmp_path / "meta/info.json").write_text(json.dumps(info))
    table_of_episodes = tmp_path / "meta/episodes/chunk-000"
    for number, name in enumerate((9, 10)):
        there = tmp_path / f"data/chunk-0/file-{name}.parquet"
        there.parent.mkdir(exist_ok=True)
        (tmp_path / f"data/chunk-000/file-{number:03d}.parquet").rename(there)
        path = table_of_episodes / f"file-{number:03d}.parquet"
        rows = pq.ParquetFile(path).read()
        place = rows.schema.get_field_index("data/file_index")
        pq.write_table(rows.set_column(place, "data/file_index", pa.array([name] * len(rows))), path)
    assert [len(episode) for episode in read(tmp_path)] == [2, 3, 4, 5]


def test_a_file_that_holds_another_episode_than_its_own_is_refused(tmp_path):
    write(tmp_path, "v2.1", [frames(4), frames(4)])
    pq.write_table(table([frames(4)], 0), tmp_path / "data/chunk-000/episode_000001.parquet")
    with refused("episode 0: .*episode_000001.parquet holds it, and meta/episodes does not"):
        LeRobotSource(tmp_path)


@pytest.mark.parametrize("length", [0, -1])
def test_an_episode_without_frames_is_refused(tmp_path, length):
    write(tmp_path, "v2.1", [frames(4)])
    row = {"episode_index": 0, "tasks": [], "length": length}
    write_lines(tmp_path / "meta/episodes.jsonl", [row])
    with refused(f"episodes.jsonl is damaged or half-written .ValueError: episode 0 has {length} frames"):
        LeRobotSource(tmp_path)


def test_an_episode_that_the_table_lists_twice_is_refused(tmp_path):
    write(tmp_path, "v2.1", [frames(4), frames(4)])
    write_lines(tmp_path / "meta/episodes.jsonl", [{"episode_index": 0, "tasks": [], "length": 4}] * 2)
    with refused("speaks of 2 episodes, and meta/episodes of 1"):
        LeRobotSource(tmp_path)


def test_images_that_are_not_read_are_named_once_a_reading(save):
    folder = save([frames(), frames()], images={"observation.images.top": "video", "wrist": "image"})
    with warned("the images 'observation.images.top', 'wrist' are not read, numbers alone are") as caught:
        read(folder)
    assert len(caught) == 1


@pytest.mark.filterwarnings("ignore:.*no rewards")
@pytest.mark.parametrize(("reward", "rewarded"), [(None, False), (np.zeros(4, np.float32), True)])
def test_whether_rewards_were_recorded_is_known(save, reward, rewarded):
    (episode,) = read(save([frames(4, reward=reward)]))
    assert episode.rewarded is rewarded


@pytest.mark.parametrize(
    ("written", "n_left_out"),
    [(frames(4), 1), (ended(4, at=3), 1), (ended(4, at=2), 0), (ended(4, at=3, success=LAST), 0)],
    ids=["no end is marked", "a time limit", "the last frame is a result", "the end of the task"],
)
def test_the_last_action_is_counted_as_left_out_where_its_result_is_not_recorded(save, written, n_left_out):
    (episode,) = read(save([written]))
    assert episode.n_left_out == n_left_out


LABEL = np.array([0, 2, 1, 2])


@pytest.mark.parametrize("action", [LABEL, LABEL[:, None], LABEL.astype(np.uint8), LABEL > 1])
def test_labels_of_discrete_actions_are_refused(save, action):
    folder = save([frames(4, action=action)])
    with refused(
        r"`action` is one whole number a frame, of .*int|bool.*: such actions are labels of discrete"
    ):
        LeRobotSource(folder)


def test_whole_numbers_with_bounds_are_quantities(save):
    reading = Reading(action_low=0, action_high=5)
    (episode,) = read(save([frames(4, action=LABEL)]), reading=reading)
    np.testing.assert_array_equal(episode.actions, [[0], [2], [1]])


@pytest.mark.parametrize("action", [LABEL - 1, LABEL.astype(np.float32), np.stack([LABEL, LABEL], axis=1)])
def test_whole_numbers_that_cannot_be_labels_are_read(save, action):
    assert LeRobotSource(save([frames(4, action=action)])).action_space.low.min() == action.min()


def test_bounds_that_are_given_are_not_measured(save, monkeypatch):
    folder = save(several())
    monkeypatch.setattr("sb3_llmdpd.data.lerobot_files.Contents.extremes", None)
    source = LeRobotSource(folder, reading=Reading(action_low=-90, action_high=[90, 91]))
    assert source.action_space == spaces.Box(np.float32([-90, -90]), np.float32([90, 91]))
    assert not source.bounds_from_data


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder with empty caches, and without the hub."""
    for name in ("HF_HOME", "HF_LEROBOT_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    return tmp_path


@pytest.mark.parametrize(
    ("variable", "value", "place"),
    [
        (None, None, "home/.cache/huggingface/lerobot/lab/pusht"),
        ("HF_HOME", "hub", "hub/lerobot/lab/pusht"),
        ("HF_LEROBOT_HOME", "sets", "sets/lab/pusht"),
        ("HF_LEROBOT_HOME", "~/sets", "home/sets/lab/pusht"),
    ],
)
def test_an_id_of_the_hub_is_looked_up_in_lerobots_folder(elsewhere, monkeypatch, variable, value, place):
    write(elsewhere / place, "v3.0", several())
    if variable is not None:
        monkeypatch.setenv(variable, value if value.startswith("~") else str(elsewhere / value))
    assert len(load_dataset("lerobot:lab/pusht").episodes) == 5


def test_a_folder_goes_before_an_id_of_the_hub(elsewhere, monkeypatch):
    write(elsewhere / "sets/lab/pusht", "v3.0", several())
    monkeypatch.setenv("HF_LEROBOT_HOME", str(elsewhere / "sets"))
    write(Path("lab/pusht"), "v3.0", several()[:2])
    assert len(load_dataset("lerobot:lab/pusht").episodes) == 2


def test_an_id_of_the_hub_is_fetched_without_its_videos(elsewhere, monkeypatch):
    asked: list[tuple[str, dict[str, Any]]] = []

    def snapshot_download(repo_id: str, **how: Any) -> str:
        asked.append((repo_id, how))
        return str(write(elsewhere / "snapshot", "v3.0", several()))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    source = open_source("lerobot:lab/pusht")
    assert next(source.episodes()).source == "lab/pusht, episode 0"
    patterns = ["meta/*", "meta/**", "data/**"]
    assert asked == [("lab/pusht", {"repo_type": "dataset", "allow_patterns": patterns})]


@pytest.mark.parametrize("error", [OSError("no route"), ValueError("no route"), Exception("no route")])
def test_a_data_set_that_cannot_be_fetched_is_answered_with_the_command_that_fetches_it(
    elsewhere, monkeypatch, error
):
    def snapshot_download(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with refused(
        r"lab/pusht: there is no such folder, and no such data set could be fetched .*no route.*"
        "hf download lab/pusht --repo-type dataset --local-dir pusht$"
    ):
        open_source("lerobot:lab/pusht")


def test_nothing_is_fetched_in_offline_mode(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path))
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_OFFLINE", True
    )  # as HF_HUB_OFFLINE=1 before the import
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with refused(r"no such data set could be fetched from the Hugging Face hub \(LocalEntryNotFoundError"):
        open_source("lerobot:lab/pusht")


@pytest.mark.parametrize("name", ["./pusht", "../pusht", "lab/sets/pusht", "pusht", "~/pusht", "lab/push t"])
def test_what_is_no_id_of_the_hub_is_only_a_folder(elsewhere, name):
    with refused(rf"{name}: there is no such folder; give the one that holds meta.info\.json"):
        open_source(f"lerobot:{name}")
