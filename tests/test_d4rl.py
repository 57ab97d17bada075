"""Reading D4RL's files: each of their layouts, sentences and successes by their names, and what is refused."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from sb3_llmdpd.data.d4rl import D4RLSource
from sb3_llmdpd.data.episode_source import Reading
from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.loading import load_dataset, open_source

N = 8


def flags(*steps: int, n: int = N) -> np.ndarray:
    array = np.zeros(n, bool)
    array[list(steps)] = True
    return array


def steps(n: int = N, observation: int = 3, action: int = 2, **fields: Any) -> dict[str, Any]:
    """What all of D4RL's files have; None leaves an array out."""
    rng = np.random.default_rng(n)
    values = {
        "observations": rng.normal(size=(n, observation)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (n, action)).astype(np.float32),
        "rewards": np.arange(n, dtype=np.float32),
        "terminals": np.zeros(n, bool),
    }
    return {**values, **fields}


def write(path: Path, fields: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in fields.items():
            if value is not None:
                file.create_dataset(name, data=value, compression="gzip" if np.ndim(value) else None)
    return path


def locomotion_v2(**fields: Any) -> dict[str, Any]:
    """A fall at step 2, a time limit at step 6, and one step of the next episode."""
    said = steps(**fields)
    following = np.roll(said["observations"], -1, axis=0)
    following[[2, 6, 7]] += 10
    return {
        **said,
        "next_observations": following,
        "terminals": flags(2),
        "timeouts": flags(6),
        "infos/action_log_probs": np.zeros(N),
        "infos/qpos": np.zeros((N, 6)),
        "infos/qvel": np.zeros((N, 6)),
        "metadata/algorithm": np.bytes_("SAC"),
        "metadata/policy/fc0/weight": np.zeros((4, 3)),
    }


def read(path: Path, **options: Any) -> list[Episode]:
    return list(D4RLSource(path, **options).episodes())


def test_locomotion_v2_ends_at_falls_and_time_limits_and_knows_what_was_seen_there(tmp_path: Path) -> None:
    fields = locomotion_v2()
    episodes = read(write(tmp_path / "hopper_medium_replay-v2.hdf5", fields))
    assert [(len(episode), episode.terminated) for episode in episodes] == [(3, True), (4, False), (1, False)]
    observations = np.concatenate([np.asarray(episode.observations)[1:] for episode in episodes])
    np.testing.assert_array_equal(observations, fields["next_observations"])
    np.testing.assert_array_equal(
        np.concatenate([episode.actions for episode in episodes]), fields["actions"]
    )
    np.testing.assert_array_equal(
        np.concatenate([episode.rewards for episode in episodes]), fields["rewards"]
    )
    assert episodes[1].source.endswith("hopper_medium_replay-v2.hdf5, episode 1")
    assert [episode.success for episode in episodes] == [None, None, None]


def test_locomotion_v0_loses_the_steps_whose_results_it_did_not_record(tmp_path: Path) -> None:
    episodes = read(write(tmp_path / "walker2d_medium.hdf5", {**locomotion_v2(), "next_observations": None}))
    assert [(len(episode), episode.terminated) for episode in episodes] == [(3, True), (3, False)]
    np.testing.assert_array_equal(episodes[1].rewards, [3, 4, 5])


def test_antmaze_succeeds_where_the_reward_is_one(tmp_path: Path) -> None:
    rewards = np.array([0, 0, 1, 0, 0, 0, 0, 0], np.float32)
    fields = steps(rewards=rewards, observation=29, action=8)
    fields |= {
        "terminals": flags(2),
        "timeouts": flags(6),
        "infos/goal": np.zeros((N, 2)),
        "infos/qpos": np.zeros((N, 15)),
    }
    name = "Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse.hdf5"
    episodes = read(write(tmp_path / name, fields))
    outcomes = [
        (len(episode), episode.success, episode.first_success, episode.terminated) for episode in episodes
    ]
    assert outcomes == [(3, True, 2, True), (3, False, None, False)]
    (first, _) = read(write(tmp_path / "antmaze-umaze-dense.hdf5", fields))
    assert first.success is None


def test_kitchen_has_no_timeouts_and_double_precision_becomes_single(tmp_path: Path) -> None:
    fields = steps(observation=60, action=9)
    fields |= {"observations": fields["observations"].astype(np.float64) / 3, "terminals": flags(3, 7)}
    source = D4RLSource(write(tmp_path / "kitchen_microwave_kettle_light_slider-v0.hdf5", fields))
    first, second = source.episodes()
    np.testing.assert_array_equal(
        np.asarray(first.observations)[:-1], fields["observations"][:4].astype(np.float32)
    )
    assert (len(first), len(second), first.terminated) == (4, 4, True)
    assert source.observation_space == spaces.Box(-np.inf, np.inf, (60,), np.float32)
    assert source.action_space == spaces.Box(-1.0, 1.0, (9,), np.float32)


@pytest.mark.parametrize("key", ["infos/success", "infos/goal_achieved"])
def test_adroit_says_at_each_step_whether_the_goal_is_achieved(tmp_path: Path, key: str) -> None:
    fields = steps(observation=45, action=24, timeouts=flags(3, 7))
    episodes = read(write(tmp_path / "pen-v0_demos_clipped.hdf5", {**fields, key: flags(1, 2)}))
    assert [(episode.success, episode.first_success) for episode in episodes] == [(True, 1), (False, None)]


def test_maze2d_in_one_piece_is_one_episode_and_a_time_limit_cuts_it(tmp_path: Path) -> None:
    n = 10_003
    path = write(tmp_path / "maze2d-umaze-sparse-v1.hdf5", steps(n, observation=4, timeouts=flags(n=n)))
    with pytest.warns(
        UserWarning,
        match=r"maze2d.*: 10,003 steps follow each other .* one long episode.*`max_episode_steps`",
    ):
        (episode,) = read(path)
    assert (len(episode), episode.terminated) == (10_002, False)
    assert [len(episode) for episode in read(path, max_episode_steps=5000)] == [4999, 4999, 2]


def test_a_file_without_any_flags_is_read_with_a_warning_that_lists_what_it_has(tmp_path: Path) -> None:
    path = write(tmp_path / "logs.hdf5", steps(terminals=None, dones=flags(7)))
    with pytest.warns(
        UserWarning, match="has neither `terminals` nor `timeouts`, but holds `actions`, `dones`, `obs"
    ):
        (episode,) = read(path)
    assert len(episode) == 7
    assert [len(episode) for episode in read(path, max_episode_steps=4)] == [3, 3]


@pytest.mark.parametrize(
    ("stem", "words"),
    [
        ("hopper_medium_replay-v2", "hopper hop"),
        ("halfcheetah_medium-v2", "cheetah run"),
        ("halfcheetah-medium-expert-v2", "cheetah run"),
        ("walker2d_expert-v2", "walker walk"),
        ("ant_random-v2", "ant walk"),
        ("Ant_maze_big-maze_noisy_multistart_True_multigoal_True_sparse_fixed", "ant through the maze"),
        ("antmaze-large-play-v2", "ant through the maze"),
        ("maze2d-large-dense-v1", "ball through the maze"),
        ("kitchen_complete-demo-v0", "slide the cabinet door open"),
        ("mini_kitchen_microwave_kettle_light_slider-v0", "slide the cabinet door open"),
        ("kitchen_microwave_kettle_bottomburner_light-v0", "bottom burner"),
        ("kitchen-mixed-v0", "bottom burner"),
        ("pen-v0_demos_clipped", "turn the pen"),
        ("hammer-human-v1", "hammer and drive the nail"),
        ("door_expert_clipped", "pull the door open"),
        ("relocate-cloned-v1", "ball and carry it"),
    ],
)
def test_d4rls_own_files_have_a_sentence(tmp_path: Path, stem: str, words: str) -> None:
    (episode,) = read(write(tmp_path / f"{stem}.hdf5", steps()))
    (text,) = episode.task_texts
    assert words in text
    assert episode.task == stem


@pytest.mark.parametrize("stem", ["door-open", "antelope_medium", "my_hopper_medium", "penalty-v2", "hopper"])
def test_other_files_have_none(tmp_path: Path, stem: str) -> None:
    (episode,) = read(write(tmp_path / f"{stem}.hdf5", steps()))
    assert episode.task_texts == ()


def test_a_task_and_its_sentence_can_be_given(tmp_path: Path) -> None:
    path = write(tmp_path / "hopper_medium-v2.hdf5", steps())
    (episode,) = read(path, task="hop", reading=Reading({"hop": "jump along"}))
    assert (episode.task, episode.task_texts) == ("hop", ("jump along",))


def test_a_group_of_observations_is_a_dict(tmp_path: Path) -> None:
    fields = {
        **steps(observations=None),
        "observations/image": np.ones((N, 4, 4), np.uint8),
        "observations/speed": np.ones((N, 1)),
    }
    source = D4RLSource(write(tmp_path / "logs.h5", fields))
    assert source.observation_space == spaces.Dict(
        {
            "image": spaces.Box(0, 255, (4, 4), np.uint8),
            "speed": spaces.Box(-np.inf, np.inf, (1,), np.float32),
        }
    )
    (episode,) = source.episodes()
    assert isinstance(episode.observations, dict)
    np.testing.assert_array_equal(episode.observations["image"], np.ones((N, 4, 4), np.uint8))


def test_it_says_what_it_reads(tmp_path: Path) -> None:
    path = write(tmp_path / "hopper_medium-v2.hdf5", steps())
    source = D4RLSource(path, task="hop", max_episode_steps=3)
    assert source.name == str(path)
    assert list(source.files()) == [path]
    assert source.options() == {"task": "hop", "max_episode_steps": 3}


def test_the_home_folder_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write(tmp_path / "hopper_medium-v2.hdf5", steps())
    source = D4RLSource("~/hopper_medium-v2.hdf5")
    assert (source.name, list(source.files())) == ("~/hopper_medium-v2.hdf5", [path])


def test_a_file_is_known_by_its_suffix_or_its_format(tmp_path: Path) -> None:
    path = write(tmp_path / "walker2d_medium-v2.hdf5", locomotion_v2())
    assert isinstance(open_source(str(path)), D4RLSource)
    assert len(load_dataset(f"d4rl:{path}").episodes) == 3


def test_it_can_be_read_twice(tmp_path: Path) -> None:
    source = D4RLSource(write(tmp_path / "walker2d_medium-v2.hdf5", locomotion_v2()))
    assert (
        [len(episode) for episode in source.episodes()]
        == [len(episode) for episode in source.episodes()]
        == [3, 4, 1]
    )


def test_a_missing_file_is_answered_with_the_nearest_names(tmp_path: Path) -> None:
    write(tmp_path / "hopper_medium-v2.hdf5", steps())
    with pytest.raises(
        ValueError, match=r"there is no file .*hoper_medium-v2.hdf5; nearest there: hopper_medium-v2.hdf5"
    ):
        D4RLSource(tmp_path / "hoper_medium-v2.hdf5")
    with pytest.raises(ValueError, match=r"there is no file .*, and no folder .*elsewhere"):
        D4RLSource(tmp_path / "elsewhere/hopper.hdf5")
    with pytest.raises(ValueError, match="is a folder; give the path of one file in it"):
        D4RLSource(tmp_path)


@pytest.mark.parametrize("name", ["observations", "actions", "rewards"])
def test_a_missing_array_is_answered_with_its_name_and_what_is_there(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "logs.hdf5", {**steps(), name: None})
    with pytest.raises(
        ValueError, match=rf"logs.hdf5: has no `{name}`, but holds .*`terminals`.*Such a file holds"
    ):
        D4RLSource(path)


def test_what_is_no_hdf5_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "logs.hdf5"
    path.write_bytes(b"not this")
    with pytest.raises(
        ValueError, match=r"logs.hdf5: is not an hdf5 file, or damaged or half-written \(OSError"
    ):
        D4RLSource(path)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "logs.hdf5", steps())
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"logs.hdf5: is not an hdf5 file, or damaged or half-written"):
        D4RLSource(path)


def test_a_file_that_is_damaged_within_is_answered_as_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "logs.hdf5", steps(observation=200))
    with h5py.File(path) as file:
        where = file["observations"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[where : where + 100] = bytes(100)
    path.write_bytes(content)
    source = D4RLSource(path)
    with pytest.raises(ValueError, match=r"logs.hdf5: is not an hdf5 file, or damaged or half-written"):
        list(source.episodes())


@pytest.mark.parametrize(
    ("intact", "broken"),
    [
        pytest.param(b"SNOD", b"SNOT", id="list of names"),
        pytest.param(b"\x11\x20\x1f\x00", b"\xf1\x20\x1f\x00", id="header of an array"),
        pytest.param(b"\x17\x08\x00\x17\x7f\x00", b"\x17\x08\x00\x17\x7f\xff", id="kind of float"),
    ],
)
def test_damage_beside_the_values_is_answered_with_the_files_name(
    tmp_path: Path, intact: bytes, broken: bytes
) -> None:
    path = write(tmp_path / "logs.hdf5", steps())
    content = path.read_bytes()
    assert intact in content
    path.write_bytes(content.replace(intact, broken))
    with pytest.raises(ValueError, match=r"logs.hdf5: is not an hdf5 file, or damaged or half-written"):
        D4RLSource(path)


def test_nan_is_answered_with_file_episode_and_field(tmp_path: Path) -> None:
    fields = locomotion_v2()
    fields["rewards"][4] = np.nan
    path = write(tmp_path / "walker2d_medium-v2.hdf5", fields)
    with pytest.raises(ValueError, match=r"walker2d_medium-v2.hdf5, episode 1: `rewards` holds 1 NaN"):
        read(path)


def test_a_group_in_the_place_of_an_array_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "logs.hdf5", {**steps(rewards=None), "rewards/all": np.zeros(N)})
    with pytest.raises(TypeError, match=r"logs.hdf5: `rewards` must be an array of numbers"):
        D4RLSource(path)
