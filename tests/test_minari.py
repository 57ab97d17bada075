"""Reading Minari data sets: where a sentence is found, what is one task, time limits, and damaged files."""

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from expect import refused, warned
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from minari.data_collector import EpisodeBuffer

from sb3_llmdpd.data.fingerprint import episode_digest
from sb3_llmdpd.data.loading import load_dataset
from sb3_llmdpd.data.metadata import SUCCESS_KEYS, TEXT_KEYS
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


@pytest.mark.parametrize("key", TEXT_KEYS)
@pytest.mark.parametrize("group", ["", "options/", "infos/"])
def test_episode_metadata_of_other_projects_is_understood(key, group):
    write("lab/b-v0", episode_metadata=[{f"{group}{key}": "open it"}], metadata={"task_text": "data set"})
    assert texts_of("lab/b-v0") == [("open it",)]


PHRASINGS = ["open it", "pull it open"]


@pytest.mark.parametrize("key", ["task_texts", "language_instruction"])
@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (" open it\n", PHRASINGS[:1]),
        (np.bytes_(b"open it"), PHRASINGS[:1]),
        ("öffne sie".encode(), ["öffne sie"]),
        (PHRASINGS, PHRASINGS),
        (tuple(PHRASINGS), PHRASINGS),
        ([b"open it", b"pull it open"], PHRASINGS),
        (np.array(["open it", "pull it open"], object), PHRASINGS),
        (np.array([b"open it", b"pull it open"]), PHRASINGS),
        (["open it", ""], PHRASINGS[:1]),
        ("[open it]", ["[open it]"]),
        ("", []),
        ([], []),
    ],
    ids=repr,
)
def test_a_sentence_may_be_of_any_type_that_holds_one_or_several(key, value, texts):
    write("lab/b-v0", episode_metadata=[{key: value}])
    assert texts_of("lab/b-v0") == [tuple(texts)]


def test_only_task_texts_may_be_json():
    write("lab/b-v0", episode_metadata=[{"task_texts": json.dumps(PHRASINGS), "task_text": "open it"}])
    write("lab/c-v0", episode_metadata=[{"task_text": json.dumps(PHRASINGS)}])
    write("lab/d-v0", metadata={"task_texts": PHRASINGS})
    assert texts_of("lab/b-v0") == texts_of("lab/d-v0") == [tuple(PHRASINGS)]
    assert texts_of("lab/c-v0") == [('["open it", "pull it open"]',)]
    assert texts_of("lab/b-v0", task_texts={"lab/b-v0": ["mine", "and mine"]}) == [("mine", "and mine")]


def test_a_plain_sentence_under_task_texts_is_the_sentence():
    write("lab/b-v0", episode_metadata=[{"task_texts": "open the drawer"}])
    assert texts_of("lab/b-v0") == [("open the drawer",)]


def test_options_of_the_reset_may_hold_the_sentence():
    write("lab/b-v0", [buffer(options={"task_text": "open it"})])
    assert texts_of("lab/b-v0") == [("open it",)]


@pytest.mark.parametrize(
    ("data_format", "said"),
    [
        ("hdf5", ["open it"] * 4),
        ("hdf5", ["", "open it", "open it", "open it", "open it"]),
        ("arrow", ["open it"] * 5),
    ],
)
def test_the_infos_of_the_steps_may_hold_the_sentence(data_format, said):
    first = buffer(infos={"language_instruction": said})
    second = buffer(infos={"language_instruction": ["close it"] * len(said)})
    write("lab/b-v0", [first, second], data_format=data_format)
    assert texts_of("lab/b-v0") == [("open it",), ("close it",)]
    assert load_minari("lab/b-v0").tasks == ("lab/b-v0: open it", "lab/b-v0: close it")


@pytest.mark.parametrize("group", ["", "options/"])
@pytest.mark.parametrize("key", ["task_id", "task_index"])
@pytest.mark.parametrize(
    ("value", "name"),
    [("0", "0"), (0, "0"), (np.int32(12), "12"), (np.array([3]), "3"), (b"open", "open"), (" a ", "a")],
    ids=repr,
)
def test_a_task_is_named_by_a_string_or_a_whole_number(group, key, value, name):
    write("lab/b-v0", episode_metadata=[{f"{group}{key}": value, "task_text": "open it"}])
    (episode,) = load_minari("lab/b-v0").episodes
    assert (episode.task, episode.task_texts) == (name, ("open it",))


def test_the_id_of_a_task_goes_before_its_index():
    write("lab/b-v0", episode_metadata=[{"task_index": 3, "task_id": "open"}])
    assert load_minari("lab/b-v0").tasks == ("open",)


def test_tasks_of_different_numbers_are_different_tasks():
    write("lab/b-v0", [buffer(), buffer()], episode_metadata=[{"task_id": 0}, {"task_id": 1}])
    assert load_minari("lab/b-v0").tasks == ("0", "1")


@pytest.mark.parametrize(("value", "goal"), [("left", "left"), (7, "7"), (np.int64(0), "0")])
def test_a_goal_is_named_by_a_string_or_a_whole_number(value, goal):
    write("lab/b-v0", episode_metadata=[{"goal_id": value}])
    assert load_minari("lab/b-v0").episodes[0].goal == goal


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"task_id": 0.5}, r"`task_id` \(float64\)"),
        ({"task_id": True}, r"`task_id` \(bool\)"),
        ({"task": 3}, r"`task` \(int64\)"),
        ({"goal_id": np.zeros(2)}, r"`goal_id` \(array of float64, shape \(2,\)\)"),
        ({"language_instruction": np.zeros(384, np.float32)}, r"`language_instruction` \(array of float32"),
        ({"options/instruction": 1.5}, r"`options/instruction` \(float64\)"),
        ({"task/name": "open"}, r"`task` \(dict\)"),
        ({"task_texts": "[1, 2]"}, r"`task_texts` \(str\)"),
        ({"task_text": b"\xff"}, r"`task_text` \(str\)"),
    ],
    ids=str,
)
def test_metadata_that_are_not_read_are_named_once(metadata, named):
    write("lab/b-v0", [buffer(), buffer(), buffer()], episode_metadata=[metadata] * 3)
    with warned(f"lab/b-v0: not read, though named like a task or its sentence: {named}") as caught:
        dataset = load_minari("lab/b-v0")
    assert len(caught) == 1
    assert dataset.tasks == ("lab/b-v0",)


def test_no_one_is_told_of_a_sentence_that_was_given_in_its_place():
    write("lab/b-v0", episode_metadata=[{"task": 3}], metadata={"mission": 4})
    assert texts_of("lab/b-v0", task_texts={"lab/b-v0": "open it"}) == [("open it",)]
    with warned(r"`task` \(int64\), `metadata.json/mission` \(int\)"):
        texts_of("lab/b-v0")


def test_what_is_guessed_and_what_is_not_read_are_told_of_once():
    write("lab/b-v0", [buffer(), buffer()], episode_metadata=[{"task": 3}] * 2, description="described")
    with warned("lab/b-v0") as caught:
        load_minari("lab/b-v0")
    assert [str(each.message).partition(" ")[2].partition(";")[0] for each in caught] == [
        "has no task text",
        "not read, though named like a task or its sentence: `task` (int64). A task or a goal is a string or"
        " a whole number, and a sentence a string or a list of strings under a known name. Write them so, or"
        " say the sentence with `task_texts={'lab/b-v0': ...}`",
    ]


def test_a_text_of_an_unknown_name_in_the_observation_is_named():
    space = spaces.Dict({"state": BOX, "said": spaces.Text(100)})
    seen = {"state": np.zeros((5, 3)), "said": ["open it"] * 5}
    write("lab/b-v0", [buffer(observations=seen)], observation_space=space)
    with warned(r"`observation/said` \(text under another name\)"):
        assert texts_of("lab/b-v0") == [()]
    assert texts_of("lab/b-v0", task_texts={"lab/b-v0": "open it"}) == [("open it",)]


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
    with refused("`task_texts` speaks of 'lab/c-v0', but the data sets are lab/b-v0"):
        load_minari("lab/b-v0", task_texts={"lab/c-v0": "open it"})
    with refused("a task text is empty"):
        load_minari("lab/b-v0", task_texts={"lab/b-v0": " "})


@pytest.mark.parametrize("key", SUCCESS_KEYS)
@pytest.mark.parametrize(
    ("shape", "data_format"),
    [((4,), "hdf5"), ((5,), "hdf5"), ((4, 1), "hdf5"), ((5, 1), "hdf5"), ((5,), "arrow"), ((5, 1), "arrow")],
)
def test_success_is_read_off_the_infos_with_or_without_the_resets(key, shape, data_format):
    successes = np.zeros(shape)
    successes[len(successes) - 2 :] = 1.0  # of the last two of four steps
    told = [successes, np.zeros(shape)]
    if shape == (5,) and data_format == "arrow":  # of whose arrays of one axis Minari reads lists alone
        told = [list(each) for each in told]
    write("lab/b-v0", [buffer(4, infos={key: each}) for each in told], data_format=data_format)
    outcomes = [(episode.success, episode.first_success) for episode in load_minari("lab/b-v0").episodes]
    assert outcomes == [(True, 2), (False, None)]


@pytest.mark.parametrize(
    ("steps", "outcome"),
    [
        ([True, False, False, True], (True, 0)),
        ([np.nan, 0.0, 1.0, np.nan], (True, 2)),
        ([np.nan, 0.0, np.nan, -1.0], (False, None)),
        ([np.nan] * 4, (None, None)),
        ([-1] * 4, (None, None)),
        (["False", "False", "True", "False"], (True, 2)),
        ([1.0, 0.0], (None, None)),  # not one a step
    ],
    ids=str,
)
def test_success_of_steps_is_what_they_say(steps, outcome):
    write("lab/b-v0", [buffer(4, infos={"success": steps})])
    (episode,) = load_minari("lab/b-v0").episodes
    assert (episode.success, episode.first_success) == outcome


def test_an_episode_that_does_not_say_its_success_has_none():
    write("lab/b-v0")
    (episode,) = load_minari("lab/b-v0").episodes
    assert (episode.success, episode.first_success) == (None, None)


@pytest.mark.parametrize("key", ["success", "is_success"])
@pytest.mark.parametrize(
    ("value", "success"),
    [(True, True), (0, False), ("False", False), (b"yes", True), (np.nan, None), (-1, None), ([1.0], True)],
    ids=repr,
)
def test_success_of_the_metadata_is_what_it_says(key, value, success):
    write("lab/b-v0", episode_metadata=[{key: value}])
    assert load_minari("lab/b-v0").episodes[0].success is success


@pytest.mark.parametrize(
    ("value", "outcome"),
    [(True, (True, 2)), (False, (False, None)), (np.nan, (True, 2)), ([0, 1, 1, 0], (True, 1))],
)
def test_success_of_the_metadata_goes_before_that_of_the_steps(value, outcome):
    write(
        "lab/b-v0",
        [buffer(4, infos={"success": [0.0, 0.0, 1.0, 1.0]})],
        episode_metadata=[{"success": value}],
    )
    (episode,) = load_minari("lab/b-v0").episodes
    assert (episode.success, episode.first_success) == outcome


def test_success_and_goal_are_read_off_the_metadata():
    reached = {"success": True, "first_success": 1, "goal_id": "left"}
    missed = {"success": False, "first_success": -1}
    write("lab/b-v0", [buffer(), buffer()], episode_metadata=[reached, missed])
    outcomes = [(e.success, e.first_success, e.goal) for e in load_minari("lab/b-v0").episodes]
    assert outcomes == [(True, 1, "left"), (False, None, None)]


@pytest.mark.parametrize("value", [np.nan, "soon", [1, 2], 1.5])
def test_a_first_success_that_is_no_step_is_none(value):
    write("lab/b-v0", episode_metadata=[{"success": True, "first_success": value}])
    assert load_minari("lab/b-v0").episodes[0].first_success is None


def test_rewards_that_were_not_recorded_are_none_only_where_they_are_zero():
    of_zeros = buffer(rewards=np.zeros(4))
    write(
        "lab/b-v0",
        [of_zeros, of_zeros, buffer()],
        episode_metadata=[{"rewarded": False}, {}, {"rewarded": 0}],
    )
    assert [episode.rewarded for episode in load_minari("lab/b-v0").episodes] == [False, True, True]


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


def test_few_actions_outside_are_clipped_and_counted():
    actions = np.zeros((100, 2), np.float32)
    actions[7] = 3.0
    write("lab/b-v0", [buffer(100, actions=actions)])
    with warned(r"lab/b-v0: 1 of 100 actions lie outside the action space .*, by up to 2, and were clipped"):
        (episode,) = load_minari("lab/b-v0").episodes
    np.testing.assert_array_equal(episode.actions[7], [1.0, 1.0])
    with refused("lab/b-v0, episode 0: 1 of 100 actions lie outside"):
        load_minari("lab/b-v0", strict=True)


@pytest.mark.parametrize(
    ("space", "actions"),
    [
        (spaces.Discrete(3), np.zeros(4, np.int64)),
        (spaces.MultiDiscrete([3, 2]), np.zeros((4, 2), np.int64)),
        (spaces.MultiBinary(2), np.zeros((4, 2), np.int8)),
        (spaces.Box(0, 3, (1,), np.int64), np.zeros((4, 1), np.int64)),
    ],
    ids=str,
)
def test_discrete_actions_are_refused_with_the_data_sets_name(space, actions):
    write("lab/b-v0", [buffer(actions=actions)], action_space=space)
    with refused(r"lab/b-v0: the action space must be a Box .*, got .*labels of discrete actions"):
        load_minari("lab/b-v0")


def test_whole_numbers_whose_bounds_are_given_are_quantities():
    n_units = np.array([[0], [1], [2], [3]])
    write("lab/b-v0", [buffer(actions=n_units)], action_space=spaces.Box(0, 3, (1,), np.int64))
    dataset = load_dataset("lab/b-v0", action_low=0, action_high=3)
    np.testing.assert_array_equal(dataset.episodes[0].actions, n_units)
    assert dataset.action_space == spaces.Box(0.0, 3.0, (1,), np.float32)


def test_whole_numbers_to_both_sides_of_zero_are_quantities():
    space = spaces.Box(-9, 9, (1,), np.int64)
    write("lab/b-v0", [buffer(actions=np.array([[-9], [1], [2], [9]]))], action_space=space)
    dataset = load_minari("lab/b-v0")
    np.testing.assert_array_equal(dataset.episodes[0].actions[:, 0], [-9, 1, 2, 9])
    assert dataset.action_space == space


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
    with pytest.raises(ValueError, match=r"written as lab/drawer-open-v0, .* as npz:PATH") as caught:
        load_minari("/etc/passwd")
    assert "minari download" not in str(caught.value)
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


@pytest.mark.parametrize("name", ["rewards", "terminations", "actions", "observations"])
def test_a_half_written_episode_is_answered_with_data_set_episode_and_field(root, name):
    write("lab/b-v0", [buffer(), buffer()])
    with h5py.File(root / "lab/b-v0/data/main_data.hdf5", "a") as file:
        del file[f"episode_1/{name}"]
    with refused(
        rf"lab/b-v0, episode 1: the files are damaged or half-written \(`{name}` is missing\).*again"
    ):
        load_minari("lab/b-v0")


def test_a_missing_episode_is_answered_with_its_number(root):
    write("lab/b-v0", [buffer(), buffer()])
    with h5py.File(root / "lab/b-v0/data/main_data.hdf5", "a") as file:
        del file["episode_1"]
    with refused(r"lab/b-v0, episode 1: the files are damaged or half-written \(`episode_1` is missing\)"):
        load_minari("lab/b-v0")


def test_an_episode_without_a_step_is_answered_with_its_number(root):
    write("lab/b-v0", [buffer(), buffer()])
    with h5py.File(root / "lab/b-v0/data/main_data.hdf5", "a") as file:
        del file["episode_1/terminations"]
        file["episode_1/terminations"] = np.zeros(0, bool)
    with refused("lab/b-v0, episode 1: the files are damaged or half-written .*`terminations` is empty"):
        load_minari("lab/b-v0")


@pytest.mark.parametrize("place", ["episode_1", "episode_1/rewards", "episode_1/infos"])
def test_another_kind_of_entry_than_minaris_is_answered(root, place):
    write("lab/b-v0", [buffer(), buffer(infos={"success": np.zeros(4)})])
    with h5py.File(root / "lab/b-v0/data/main_data.hdf5", "a") as file:
        is_array = isinstance(file[place], h5py.Dataset)
        del file[place]
        file.create_group(place) if is_array else file.create_dataset(place, data=[1.0])
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


@pytest.mark.parametrize("name", ["main_data.hdf5", "metadata.json"])
def test_a_missing_file_is_answered_with_the_data_sets_name(root, name):
    write("lab/b-v0")
    (root / "lab/b-v0/data" / name).unlink()
    with refused(r"lab/b-v0: the files are damaged or half-written"):
        load_minari("lab/b-v0")


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
@pytest.mark.parametrize("content", [None, b"", b"no table"])
def test_damage_in_minaris_other_formats_is_answered(root, data_format, content):
    write("lab/b-v0", [buffer(), buffer()], data_format=data_format)
    (file,) = (root / "lab/b-v0/data/1").glob(f"*.{data_format}")
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with refused(r"lab/b-v0.*: the files are damaged or half-written"):
        load_minari("lab/b-v0")


def change_metadata(root: Path, **changes: Any) -> None:
    """Change the metadata of the data set lab/b-v0 in its file; None takes an entry out."""
    path = root / "lab/b-v0/data/metadata.json"
    about = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in about.items() if value is not None}))


@pytest.mark.parametrize(
    ("version", "advice"),
    [
        (
            "99.1.0",
            r"Install that one, pip install 'minari==99.1.0', or the newest, pip install --upgrade minari",
        ),
        ("0.3.1", r"Download it again, or convert it in another .*pip install 'minari==0.3.1'"),
    ],
)
def test_another_version_of_minari_is_answered_with_both_and_the_way_out(root, version, advice):
    write("lab/b-v0")
    change_metadata(root, minari_version=version)
    installed = re.escape(minari.__version__)
    with refused(
        rf"lab/b-v0: was written by Minari {version}, and the installed Minari {installed} .*{advice}"
    ):
        load_minari("lab/b-v0")


def test_spaces_that_nothing_tells_are_answered_with_the_id(root):
    write("lab/b-v0")
    change_metadata(root, observation_space=None, action_space=None)
    with refused(
        "lab/b-v0: records no `action_space` and `observation_space`, and no environment .*write it"
    ):
        load_minari("lab/b-v0")


@pytest.mark.parametrize(
    ("requirements", "install"),
    [(None, "the package that holds `absent_lab`"), (["absent-lab>=2"], "pip install 'absent-lab>=2'")],
)
def test_an_environment_that_is_not_installed_is_named_with_what_to_install(root, requirements, install):
    write("lab/b-v0")
    spec = EnvSpec("Absent/Drawer-v3", entry_point="absent_lab.envs:Drawer").to_json()
    change_metadata(root, observation_space=None, env_spec=spec, requirements=requirements)
    with refused(
        "lab/b-v0: records no `observation_space`, which its environment 'Absent/Drawer-v3' would tell, and"
        rf" that cannot be made here .*absent_lab.*\. Install {install}"
    ):
        load_minari("lab/b-v0")


def test_spaces_may_come_from_the_environment(root):
    write("lab/b-v0", [buffer(actions=np.zeros((4, 1), np.float32))], action_space=spaces.Box(-2, 2, (1,)))
    change_metadata(root, action_space=None, env_spec=gym.spec("Pendulum-v1").to_json())
    assert load_minari("lab/b-v0").action_space == spaces.Box(-2.0, 2.0, (1,), np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_format": "zarr"}, r"lab/b-v0: is stored as 'zarr', and Minari .* reads hdf5, arrow, parquet"),
        ({"data_format": None}, "lab/b-v0: the files are damaged or half-written"),
        ({"minari_version": None}, "lab/b-v0: the files are damaged or half-written .*minari_version"),
        ({"minari_version": 5}, "lab/b-v0: the files are damaged or half-written"),
        ({"observation_space": "{}"}, "lab/b-v0: the files are damaged or half-written"),
        ({"observation_space": '{"type": "Sphere"}'}, "lab/b-v0: the files are damaged or half-written"),
        ({"action_space": 3}, "lab/b-v0: the files are damaged or half-written"),
        ({"env_spec": "no JSON"}, "lab/b-v0: the files are damaged or half-written"),
        ({"total_episodes": "many"}, "lab/b-v0: the files are damaged or half-written"),
        ({"total_episodes": 0}, "lab/b-v0: the data set holds no episode"),
        ({"total_episodes": 9}, r"lab/b-v0, episode 1: .*`episode_1` is missing"),
        (
            {"observation_space": None, "env_spec": "no JSON"},
            "lab/b-v0: records no `observation_space`, which",
        ),
    ],
    ids=str,
)
def test_metadata_of_a_data_set_that_are_strange_are_answered_with_its_name(root, changes, message):
    write("lab/b-v0")
    change_metadata(root, **changes)
    with refused(message):
        load_minari("lab/b-v0")


@pytest.mark.parametrize("content", ["[]", "3", '{"a": ', "\udcff"])
def test_a_metadata_file_of_something_else_is_answered(root, content):
    write("lab/b-v0")
    (root / "lab/b-v0/data/metadata.json").write_text(content, errors="surrogateescape")
    with refused("lab/b-v0: the files are damaged or half-written"):
        load_minari("lab/b-v0")
