"""Writing Minari data sets: read as they were written, whole or not at all, one episode at a time."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
from expect import refused
from factories import ACTION, OBSERVATION, make_episode, make_episodes
from gymnasium import spaces
from killed import leave_behind

from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.fingerprint import episode_digest
from sb3_llmdpd.data.minari import load_minari, local_ids
from sb3_llmdpd.data.minari_writer import whole_dataset, write_minari

BOX = spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float32)
ACTIONS = spaces.Box(-1.0, 1.0, (ACTION,), np.float32)
ID = "lab/own-v0"


def random_episode(n_steps: int = 4, seed: int = 0, **fields: Any) -> Episode:
    rng = np.random.default_rng(seed)
    observations, actions = rng.normal(size=(n_steps + 1, OBSERVATION)), rng.uniform(-1, 1, (n_steps, ACTION))
    values = dict(observations=observations, actions=actions, rewards=rng.normal(size=n_steps))
    return make_episode(**{**values, **fields})


def write(
    root: Path, episodes: Any, observation_space: spaces.Space[Any] = BOX, dataset_id: str = ID, **about: Any
) -> Path:
    return write_minari(dataset_id, episodes, observation_space, ACTIONS, root=root, **about)


def assert_comes_back(root: Path, episodes: list[Episode], space: spaces.Space[Any] = BOX) -> None:
    write(root, episodes, space)
    dataset = load_minari(ID, root=root)
    assert list(map(episode_digest, dataset.episodes)) == list(map(episode_digest, episodes))
    assert dataset.observation_space == space
    assert dataset.action_space == ACTIONS


def stored_metadata(root: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read the metadata of the data set, and of its episodes, as Minari has them."""
    storage = minari.MinariDataset(root / ID / "data").storage
    return storage.metadata, list(storage.get_episode_metadata(range(storage.total_episodes)))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"terminated": True},
        {"n_steps": 1, "terminated": True},
        {"n_steps": 1},
        {"task": "drawer", "task_texts": ("open it", "öffne die Schublade"), "goal": "left"},
        {"success": True, "first_success": 2},
        {"success": True},
        {"success": False},
        {"first_success": 0},
        {"rewards": np.zeros(4), "rewarded": False},
        {"rewards": np.zeros(4)},
        {"task": "0", "goal": "7"},
        {"task_texts": ("[open it]",)},
        {"task_texts": ("open it", "open it")},
    ],
    ids=str,
)
def test_an_episode_comes_back_bit_for_bit(tmp_path, fields):
    assert_comes_back(tmp_path, [random_episode(**{"task": "lonely", **fields})])


def test_what_was_left_out_before_is_not_missed_in_what_was_written(tmp_path):
    write(tmp_path, [random_episode(rewards=np.zeros(4), rewarded=False, n_left_out=1)])
    (episode,) = load_minari(ID, root=tmp_path).episodes
    assert (episode.rewarded, episode.n_left_out, len(episode)) == (False, 0, 4)


def test_only_an_episode_without_rewards_says_so(tmp_path):
    write(tmp_path, [random_episode(), random_episode(rewards=np.zeros(4), rewarded=False)])
    first, second = stored_metadata(tmp_path)[1]
    assert "rewarded" not in first
    assert not second["rewarded"]


def test_episodes_of_several_tasks_and_lengths_come_back_in_their_order(tmp_path):
    tasks = [dict(task=f"task-{task}", task_texts=(f"do task number {task}",)) for task in range(3)]
    assert_comes_back(tmp_path, [random_episode(n + 1, n, **tasks[n % 3]) for n in range(12)])


def test_images_come_back_without_loss(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (5, 36, 36, 3), np.uint8)
    space = spaces.Box(0, 255, noise.shape[1:], np.uint8)
    assert_comes_back(tmp_path, [random_episode(observations=noise)], space)


def test_dict_observations_come_back_with_all_kinds_of_entries(tmp_path):
    rng = np.random.default_rng(0)
    space = spaces.Dict(
        {
            "state": spaces.Box(-np.inf, np.inf, (3,), np.float32),
            "camera": spaces.Box(0, 255, (40, 40), np.uint8),
            "heading": spaces.Discrete(4),
            "buttons": spaces.MultiBinary(2),
        }
    )
    observations = {
        "state": rng.normal(size=(5, 3)),
        "camera": rng.integers(0, 256, (5, 40, 40), np.uint8),
        "heading": np.array([0, 1, 2, 3, 0]),
        "buttons": rng.integers(0, 2, (5, 2), np.int8),
    }
    assert_comes_back(tmp_path, [random_episode(observations=observations)], space)


def test_a_space_of_doubles_is_written_as_what_episodes_hold(tmp_path):
    write(tmp_path, [random_episode()], spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float64))
    assert stored_metadata(tmp_path)[0]["observation_space"] == BOX


def test_minari_itself_reads_what_was_written(tmp_path, monkeypatch):
    write(tmp_path, [random_episode(3), random_episode(5, terminated=True)])
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert list(minari.list_local_datasets()) == [ID]
    dataset = minari.load_dataset(ID)
    assert dataset.total_steps == 8
    first, second = dataset
    assert [first.truncations.tolist(), first.terminations.tolist()] == [[False, False, True], [False] * 3]
    assert [second.truncations.any(), second.terminations.tolist()] == [False, [False] * 4 + [True]]
    assert minari.namespace.list_local_namespaces() == ["lab"]


def test_episodes_are_stored_as_they_come(tmp_path):
    """The file holds what came before, when the next is asked for: an iterable may be larger than memory."""
    sizes: list[int] = []

    def many() -> Iterator[Episode]:
        for number in range(4):
            sizes.append(sum(path.stat().st_size for path in tmp_path.rglob("*.hdf5")))
            yield random_episode(2_000, number)

    write(tmp_path, many())
    one = 2_000 * (OBSERVATION + ACTION + 1) * 4
    assert sizes[3] - sizes[1] > one


def test_what_is_known_beside_the_episodes_is_kept(tmp_path):
    said = {"description": "two walks", "algorithm_name": "SAC"}
    of_episodes = [{"seed": 7, "level": "half"}, {"seed": 8, "noise": np.array([0.5])}]
    metadata = {"author": "A. Name", "steps": [1, 2]}
    write(tmp_path, make_two(), metadata=metadata, episode_metadata=of_episodes, **said)
    about, entries = stored_metadata(tmp_path)
    assert (about["description"], about["algorithm_name"]) == ("two walks", "SAC")
    assert (about["author"], about["steps"]) == ({"A. Name"}, [1, 2])
    assert (entries[0]["seed"], entries[0]["level"], entries[1]["noise"].tolist()) == (7, "half", [0.5])


def test_an_episode_says_its_sentence_for_readers_of_one_and_of_several(tmp_path):
    write(tmp_path, [random_episode(task_texts=("open it", "pull it open"))])
    (entry,) = stored_metadata(tmp_path)[1]
    assert entry["task_text"] == "open it"
    assert json.loads(entry["task_texts"]) == ["open it", "pull it open"]


def test_the_path_of_the_data_set_comes_back(tmp_path):
    assert write(tmp_path, make_two()) == tmp_path / ID


def test_without_a_root_minaris_own_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    write_minari("own-v0", make_two(), BOX, ACTIONS)
    assert local_ids() == ["own-v0"]
    assert os.environ["MINARI_DATASETS_PATH"] == str(tmp_path)


def test_a_data_set_is_never_overwritten(tmp_path):
    write(tmp_path, make_two())
    write(tmp_path, make_two(), dataset_id="lab/own-v1")
    before = (tmp_path / ID / "data/main_data.hdf5").read_bytes()
    with refused(r"'lab/own-v0' is already in .* another id or version, such as 'lab/own-v2'"):
        write(tmp_path, [random_episode()])
    assert (tmp_path / ID / "data/main_data.hdf5").read_bytes() == before


@pytest.mark.parametrize("name", ["own", "lab/own", "la b/own-v0", "x/own-v0", "/own-v0", "../own-v0", ""])
def test_what_is_no_minari_id_is_refused_with_the_pattern(tmp_path, name):
    with refused(f"'{name}' is no Minari id: write it as 'namespace/name-v0'"):
        write(tmp_path, make_two(), dataset_id=name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_is_interrupted_leaves_nothing(tmp_path, error):
    def interrupted() -> Iterator[Episode]:
        yield random_episode()
        raise error

    with pytest.raises(error):
        write(tmp_path, interrupted())
    assert not list(tmp_path.iterdir())
    write(tmp_path, make_two())  # and does not stand in the way
    assert local_ids(tmp_path) == [ID]


def test_no_one_sees_a_data_set_before_it_is_complete(tmp_path):
    with whole_dataset(ID, BOX, ACTIONS, root=tmp_path):
        assert local_ids(tmp_path) == []
        assert not (tmp_path / ID).exists()


@pytest.mark.parametrize(
    ("minutes_since", "is_kept"), [(5, True), (120, False)], ids=["of a running writer", "of a killed one"]
)
def test_leftovers_are_removed_when_they_are_old(tmp_path, minutes_since, is_kept):
    file = tmp_path / ".collecting-x/lab/own-v0/data/main_data.hdf5"
    leave_behind(file, tmp_path, minutes_since)
    write(tmp_path, make_two())
    assert file.exists() is is_kept


def test_a_data_set_without_episodes_is_refused(tmp_path):
    with refused("lab/own-v0: a data set needs at least one episode, got none"):
        write(tmp_path, [])
    assert not list(tmp_path.iterdir())


def test_what_is_no_episode_is_refused(tmp_path):
    with refused("lab/own-v0: a data set is made of `Episode`s, got dict", TypeError):
        write(tmp_path, [{"observations": np.zeros((5, 3))}])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"actions": np.full((4, ACTION), 2.0)}, "4 of 4 actions lie outside the action space"),
        (
            {"observations": np.zeros((5, 7))},
            r"a row of `observations` must have the space's shape \(3,\), got \(7,\)",
        ),
        ({"task": " drawer"}, "`task` must be a name without white space around it, got ' drawer'"),
        ({"goal": ""}, "`goal` must be a name without white space around it, got ''"),
    ],
)
def test_an_episode_that_would_not_come_back_is_refused_by_its_number_and_source(tmp_path, fields, message):
    with refused(rf"lab/own-v0, episode 1 \(logs, episode 7\): {message}"):
        write(tmp_path, [random_episode(), random_episode(**fields)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Dict({"a/b": BOX}), r"'/' separates folders in hdf5; rename the entries \['a/b'\]"),
        (spaces.Text(9), "observations must be one array or a flat Dict of arrays, got Text"),
    ],
)
def test_observations_that_no_file_or_policy_takes_are_refused(tmp_path, space, message):
    with refused(f"lab/own-v0: {message}"):
        write(tmp_path, make_two(), space)


@pytest.mark.parametrize("space", [spaces.Discrete(2), spaces.Box(-np.inf, np.inf, (ACTION,))])
def test_actions_must_be_of_a_bounded_box(tmp_path, space):
    with refused("lab/own-v0: `action_space` must be a Box with finite bounds, got"):
        write_minari(ID, make_two(), BOX, space, root=tmp_path)


@pytest.mark.parametrize("n_entries", [1, 3])
def test_episode_metadata_must_be_as_many_as_episodes(tmp_path, n_entries):
    with refused("`episode_metadata` must hold an entry for each episode, and has"):
        write(tmp_path, make_two(), episode_metadata=[{"level": 1}] * n_entries)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("about", "error", "message"),
    [
        ({"metadata": {"total_steps": 1}}, ValueError, r"`metadata` must not hold \['total_steps'\]"),
        ({"metadata": {"model": object()}}, TypeError, "lab/own-v0: `metadata` must be JSON values"),
        (
            {"episode_metadata": [{"success": True}] * 2},
            ValueError,
            r"episode 0 .*`episode_metadata` must not hold \['success'\], which the `Episode` itself says",
        ),
        ({"episode_metadata": [{"instruction": "open it"}] * 2}, ValueError, r"hold \['instruction'\]"),
        (
            {"episode_metadata": [{"is_success": 1, "rewarded": 0}] * 2},
            ValueError,
            "'is_success', 'rewarded'",
        ),
        (
            {"episode_metadata": [{"config": {"lr": 1}}] * 2},
            TypeError,
            r"episode 0 .*`episode_metadata\['config'\]` must be a string, a number or an array of numbers,"
            " got dict",
        ),
    ],
)
def test_metadata_that_would_not_come_back_are_refused(tmp_path, about, error, message):
    with pytest.raises(error, match=message):
        write(tmp_path, make_two(), **about)
    assert not list(tmp_path.iterdir())


def make_two() -> list[Episode]:
    return make_episodes(n_tasks=1, n_episodes=2, length=3, observation_dim=OBSERVATION, action_dim=ACTION)
