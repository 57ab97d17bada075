"""Reading Minari data sets: where a sentence is found, what is one task, time limits, and damaged files."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from expect import refused, warned
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from minari.data_collector import EpisodeBuffer

from sb3_llmdpd.data.fingerprint import episode_digest
from sb3_llmdpd.data.minari import load_minari, local_ids
from sb3_llmdpd.data.minari_writer import episode_buffer

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float64)
ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def buffer(n_steps: int = 4, terminated: bool = False, **fields: Any) -> EpisodeBuffer:
    rng = np.random.default_rng(n_steps)
    values: dict[str, Any] = {
        "observations": rng.normal(size=(n_steps + 1, 3)),
        "actions": rng.uniform(-1, 1, (n_steps, 2)).astype(np.float32),
        "rewards": np.arange(n_steps, dtype=float),
    }
    return episode_buffer(**{**values, **fields}, terminated=terminated)


def write(
    dataset_id: str,
    buffers: list[EpisodeBuffer] | None = None,
    *,
    episode_metadata: list[dict[str, Any]] | None = None,
    metadata: dict[str, Any] | None = None,
    **how: Any,
) -> None:
    how = dict(observation_space=BOX, action_space=ACTIONS, data_format="hdf5") | how
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = minari.create_dataset_from_buffers(dataset_id, buffers or [buffer()], **how)
    if episode_metadata:
        dataset.storage.update_episode_metadata(episode_metadata)
    if metadata:
        dataset.storage.update_metadata(metadata)


def texts_of(dataset_id: str, **options: Any) -> list[tuple[str, ...]]:
    return [episode.task_texts for episode in load_minari(dataset_id, **options).episodes]


def test_episodes_keep_their_numbers_as_float32(root):
    written = buffer(5)
    write("lab/b-v0", [written])
    dataset = load_minari("lab/b-v0", root=root)
    (episode,) = dataset.episodes
    np.testing.assert_array_equal(episode.observations, np.asarray(written.observations, np.float32))
    np.testing.assert_array_equal(episode.actions, written.actions)
    np.testing.assert_array_equal(episode.rewards, [0, 1, 2, 3, 4])
    assert isinstance(episode.observations, np.ndarray)
    assert episode.observations.dtype == np.float32
    assert dataset.observation_space == spaces.Box(-np.inf, np.inf, (3,), np.float32)
    assert dataset.action_space == ACTIONS
    assert episode.source == "lab/b-v0, episode 0"


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_minaris_other_file_formats_give_the_same_episodes(data_format):
    space = spaces.Dict({"place": BOX, "door": spaces.Discrete(3)})
    rng = np.random.default_rng(0)
    seen = {n: {"place": rng.normal(size=(n + 1, 3)), "door": np.arange(n + 1) % 3} for n in (4, 2)}
    buffers = [buffer(n, observations=rows, terminated=n == 4) for n, rows in seen.items()]
    said = [{"task_text": "open it", "success": True}, {"task_text": "close it", "success": False}]
    for name in ("hdf5", data_format):
        write(f"lab/{name}-v0", buffers, observation_space=space, episode_metadata=said, data_format=name)
    one, other = load_minari("lab/hdf5-v0"), load_minari(f"lab/{data_format}-v0")
    assert (one.observation_space, one.action_space) == (other.observation_space, other.action_space)
    digests = [[episode_digest(replace(e, task="task")) for e in data.episodes] for data in (one, other)]
    assert digests[0] == digests[1]


def test_a_time_limit_is_not_a_termination():
    write("lab/b-v0", [buffer(terminated=False), buffer(terminated=True)])
    assert [episode.terminated for episode in load_minari("lab/b-v0").episodes] == [False, True]


def test_a_given_root_goes_before_minaris_own(tmp_path, monkeypatch):
    write("lab/b-v0")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "elsewhere"))
    assert len(load_minari("lab/b-v0", root=tmp_path).episodes) == 1


def test_sentences_are_looked_up_from_the_nearest_place_to_the_farthest():
    spec = EnvSpec("Some-v0", entry_point="nowhere:Nothing", kwargs={"env_name": "from-the-env-v3"}).to_json()
    told: dict[str, Any] = dict(metadata={"task_text": "data set"}, description="described")
    write("lab/all-v0", episode_metadata=[{"task_text": "episode"}], **told)
    assert texts_of("lab/all-v0", task_texts={"lab/all-v0": "argument"}) == [("argument",)]
    assert texts_of("lab/all-v0") == [("episode",)]
    write("lab/dataset-v0", metadata={"task_text": "data set", "env_spec": spec}, description="described")
    assert texts_of("lab/dataset-v0") == [("data set",)]
    write("lab/described-v0", metadata={"env_spec": spec}, description="described")
    with warned(r"lab/described-v0 has no task text; its description 'described' is taken for one"):
        assert texts_of("lab/described-v0") == [("described",)]
    write("lab/env-v0", metadata={"env_spec": spec})
    with warned("its `env_name` 'from-the-env-v3' is taken for one"):
        assert texts_of("lab/env-v0") == [("from-the-env-v3",)]
    write("lab/none-v0")
    assert texts_of("lab/none-v0") == [()]


@pytest.mark.parametrize("key", ["task_text", "language_instruction", "task", "mission"])
def test_episode_metadata_of_other_projects_is_understood(key):
    write("lab/b-v0", episode_metadata=[{key: "open it"}], metadata={"task_text": "data set"})
    assert texts_of("lab/b-v0") == [("open it",)]


def test_options_of_the_reset_may_hold_the_sentence():
    write("lab/b-v0", [buffer(options={"task_text": "open it"})])
    assert texts_of("lab/b-v0") == [("open it",)]


def test_phrasings_are_all_read():
    phrasings = ["open it", "pull it open"]
    write("lab/b-v0", episode_metadata=[{"task_texts": json.dumps(phrasings), "task_text": "open it"}])
    write("lab/c-v0", metadata={"task_texts": phrasings})
    assert texts_of("lab/b-v0") == texts_of("lab/c-v0") == [tuple(phrasings)]
    assert texts_of("lab/b-v0", task_texts={"lab/b-v0": ["mine", "and mine"]}) == [("mine", "and mine")]


def test_a_mission_in_a_dict_observation_is_the_sentence_and_leaves_the_observation():
    image, direction = spaces.Box(0, 255, (2, 2), np.uint8), spaces.Discrete(4)
    space = spaces.Dict({"image": image, "mission": spaces.Text(100), "direction": direction})
    missions = ["go to the red ball", "pick up the key"]
    buffers = []
    for index, mission in enumerate(missions):
        seen = {"image": np.full((4, 2, 2), index, np.uint8), "direction": np.arange(4)}
        buffers.append(buffer(3, observations={**seen, "mission": [mission] * 4}))
    write("lab/grid-v0", buffers, observation_space=space, metadata={"task_text": "data set"})
    dataset = load_minari("lab/grid-v0")
    assert [episode.task_texts for episode in dataset.episodes] == [(mission,) for mission in missions]
    assert set(dataset.observation_space) == {"image", "direction"}
    second = dataset.episodes[1].observations
    assert isinstance(second, dict)
    np.testing.assert_array_equal(second["image"], np.ones((4, 2, 2), np.uint8))
    assert dataset.tasks == ("lab/grid-v0: go to the red ball", "lab/grid-v0: pick up the key")


def test_without_a_task_id_the_data_set_is_the_task():
    write("lab/b-v0", [buffer(), buffer()], episode_metadata=[{"task_text": "open it"}] * 2)
    write("lab/c-v0", episode_metadata=[{"task_text": "close it", "task_id": "close"}])
    assert load_minari(["lab/b-v0", "lab/c-v0"]).tasks == ("lab/b-v0", "close")


def test_several_data_sets_keep_their_own_sentences():
    write("lab/b-v0", [buffer(3)], metadata={"task_text": "open it"})
    write("lab/c-v0", [buffer(4), buffer(5)], metadata={"task_text": "close it"})
    dataset = load_minari(["lab/b-v0", "lab/c-v0"])
    texts = [episode.task_texts for episode in dataset.episodes]
    assert texts == [("open it",), ("close it",), ("close it",)]
    assert [len(episode) for episode in dataset.episodes] == [3, 4, 5]


def test_sentences_can_be_given_by_task():
    write("lab/b-v0", [buffer(), buffer()], episode_metadata=[{"task_id": "open"}, {"task_id": "close"}])
    texts = texts_of("lab/b-v0", task_texts={"open": "open it", "close": "close it"})
    assert texts == [("open it",), ("close it",)]


def test_a_sentence_for_what_is_not_there_is_refused():
    write("lab/b-v0")
    with refused(r"`task_texts` speaks of \['lab/c-v0'\], but the data sets are \['lab/b-v0'\]"):
        load_minari("lab/b-v0", task_texts={"lab/c-v0": "open it"})
    with refused("a task text is empty"):
        load_minari("lab/b-v0", task_texts={"lab/b-v0": " "})


@pytest.mark.parametrize("n_infos", [4, 5])
def test_success_is_read_off_the_infos_with_or_without_the_resets(n_infos):
    successes = np.zeros(n_infos)
    successes[n_infos - 2 :] = 1.0  # of the last two of four steps
    told = [buffer(4, infos={"success": told}) for told in (successes, np.zeros(n_infos))]
    write("lab/b-v0", [*told, buffer(4)])
    outcomes = [(episode.success, episode.first_success) for episode in load_minari("lab/b-v0").episodes]
    assert outcomes == [(True, 2), (False, None), (None, None)]


def test_success_and_goal_are_read_off_the_metadata():
    reached = {"success": True, "first_success": 1, "goal_id": "left"}
    missed = {"success": False, "first_success": -1}
    write("lab/b-v0", [buffer(), buffer()], episode_metadata=[reached, missed])
    outcomes = [(e.success, e.first_success, e.goal) for e in load_minari("lab/b-v0").episodes]
    assert outcomes == [(True, 1, "left"), (False, None, None)]


def test_spaces_that_differ_are_refused_by_both_names():
    write("lab/b-v0")
    wide = spaces.Box(-1, 1, (7,), np.float64)
    write("lab/wide-v0", [buffer(observations=np.zeros((5, 7)))], observation_space=wide)
    write("lab/strong-v0", action_space=spaces.Box(-2.0, 2.0, (2,), np.float32))
    with refused(r"share their observation space: lab/b-v0 has .*\(3,\).*, lab/wide-v0 has .*\(7,\)"):
        load_minari(["lab/b-v0", "lab/wide-v0"])
    with refused(r"share their action space: lab/b-v0 has .*, lab/strong-v0 has .*2\.0"):
        load_minari(["lab/b-v0", "lab/strong-v0"])


def test_bounds_of_observations_may_differ_and_are_joined():
    for name, bound in (("lab/b-v0", 1.0), ("lab/c-v0", 2.0)):
        space = spaces.Box(-bound, bound, (3,), np.float64)
        write(name, [buffer(observations=np.zeros((5, 3)))], observation_space=space)
    assert load_minari(["lab/b-v0", "lab/c-v0"]).observation_space == spaces.Box(-2.0, 2.0, (3,), np.float32)


def test_actions_outside_are_clipped_and_counted_or_refused():
    write("lab/b-v0", [buffer(actions=np.full((4, 2), 3.0, np.float32)), buffer(6)])
    with warned(r"lab/b-v0: 4 of 10 actions lay outside the action space .*, by up to 2, and were"):
        first = load_minari("lab/b-v0").episodes[0]
    np.testing.assert_array_equal(first.actions, np.ones((4, 2)))
    with refused("lab/b-v0, episode 0: 4 of 4 actions lie outside"):
        load_minari("lab/b-v0", strict=True)


def test_discrete_actions_are_refused_with_the_data_sets_name():
    write("lab/b-v0", [buffer(actions=np.zeros(4, np.int64))], action_space=spaces.Discrete(3))
    with refused(r"lab/b-v0: the action space must be a Box of continuous actions, got Discrete\(3\)"):
        load_minari("lab/b-v0")


def test_an_unknown_id_is_answered_with_the_folder_the_nearest_ids_and_the_download(root):
    with refused("there is none at all"):
        load_minari("metaworld/push-v0")
    write("metaworld/push-v0")
    with pytest.raises(
        ValueError, match=r"no Minari data set 'metaworld/psuh-v0' in .*nearest there: metaworld/push-v0"
    ) as caught:
        load_minari("metaworld/psuh-v0")
    assert str(root) in str(caught.value)
    assert "minari download metaworld/psuh-v0" in str(caught.value)
    with refused("`ids` names no data set"):
        load_minari([])


def test_data_sets_that_are_still_being_written_are_not_listed(root):
    write("lab/b-v0")
    (root / ".collecting-x/lab/c-v0/data").mkdir(parents=True)
    (root / ".collecting-x/lab/c-v0/data/metadata.json").write_text("{}")
    assert local_ids() == ["lab/b-v0"]


def test_nan_is_answered_with_data_set_episode_and_field():
    observations = np.zeros((5, 3))
    observations[2, 1] = np.nan
    write("lab/b-v0", [buffer(), buffer(observations=observations)])
    with refused("lab/b-v0, episode 1: `observations` holds 1 NaN or infinite values, the first at step 2"):
        load_minari("lab/b-v0")


def test_an_episode_of_uneven_fields_is_answered_with_their_names():
    write("lab/b-v0", [buffer(4, rewards=np.zeros(3))])
    with refused(r"lab/b-v0, episode 0: `rewards` must be \(T,\)"):
        load_minari("lab/b-v0")


def test_a_half_written_episode_is_answered_with_data_set_episode_and_field(root):
    write("lab/b-v0", [buffer(), buffer()])
    with h5py.File(root / "lab/b-v0/data/main_data.hdf5", "a") as file:
        del file["episode_1/rewards"]
    with refused(r"lab/b-v0, episode 1: the files are damaged or half-written .*rewards.*again"):
        load_minari("lab/b-v0")


def test_a_missing_episode_is_answered_with_its_number(root):
    write("lab/b-v0", [buffer(), buffer()])
    with h5py.File(root / "lab/b-v0/data/main_data.hdf5", "a") as file:
        del file["episode_1"]
    with refused("lab/b-v0, episode 1: the files are damaged or half-written"):
        load_minari("lab/b-v0")


@pytest.mark.parametrize("name", ["main_data.hdf5", "metadata.json"])
@pytest.mark.parametrize("keep", [0, 40])
def test_a_file_cut_short_is_answered_with_the_data_sets_name(root, name, keep):
    write("lab/b-v0")
    file = root / "lab/b-v0/data" / name
    file.write_bytes(file.read_bytes()[:keep])
    with refused(r"lab/b-v0.*: the files are damaged or half-written"):
        load_minari("lab/b-v0")
