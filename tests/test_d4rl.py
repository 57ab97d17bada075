"""D4RL's files: each of their layouts, sentences and successes by their names, and damage within hdf5."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from expect import refused, warned
from gymnasium import spaces
from step_files import arrays, flags, write_steps

from sb3_llmdpd.data.d4rl import D4RLSource
from sb3_llmdpd.data.episodes import Episode

N = 8


def steps(**fields: Any) -> dict[str, Any]:
    return arrays(N, **fields)


def locomotion_v2() -> dict[str, Any]:
    """A fall at step 2, a time limit at step 6, and one step of the next episode."""
    said = steps(ends=(2,), timeouts=flags(6, n=N))
    following = np.roll(said["observations"], -1, axis=0)
    following[[2, 6, 7]] += 10
    return {
        **said,
        "next_observations": following,
        "infos/action_log_probs": np.zeros(N),
        "infos/qpos": np.zeros((N, 6)),
        "infos/qvel": np.zeros((N, 6)),
        "metadata/algorithm": np.bytes_("SAC"),
        "metadata/policy/fc0/weight": np.zeros((4, 3)),
    }


def read(path: Path, fields: dict[str, Any]) -> list[Episode]:
    return list(D4RLSource(write_steps(path, **fields)).episodes())


def test_locomotion_v2_ends_at_falls_and_time_limits_and_knows_what_was_seen_there(tmp_path):
    fields = locomotion_v2()
    episodes = read(tmp_path / "hopper_medium_replay-v2.hdf5", fields)
    assert [(len(episode), episode.terminated) for episode in episodes] == [(3, True), (4, False), (1, False)]
    observations = np.concatenate([np.asarray(episode.observations)[1:] for episode in episodes])
    np.testing.assert_array_equal(observations, fields["next_observations"])
    for name in ("actions", "rewards"):
        rows = np.concatenate([getattr(episode, name) for episode in episodes])
        np.testing.assert_array_equal(rows, fields[name])
    assert episodes[1].source.endswith("hopper_medium_replay-v2.hdf5, episode 1")
    assert [episode.success for episode in episodes] == [None, None, None]


def test_locomotion_v0_loses_the_steps_whose_results_it_did_not_record(tmp_path):
    fields = locomotion_v2()
    del fields["next_observations"]
    episodes = read(tmp_path / "walker2d_medium.hdf5", fields)
    assert [(len(episode), episode.terminated) for episode in episodes] == [(3, True), (3, False)]
    np.testing.assert_array_equal(episodes[1].rewards, [3, 4, 5])


def antmaze(**fields: Any) -> dict[str, Any]:
    """Steps 1 to 3 are at the goal, until the time limit; the next episode does not reach it."""
    at_goal = flags(1, 2, 3, n=N)
    infos = {"infos/goal": np.zeros((N, 2)), "infos/qpos": np.zeros((N, 15))}
    ends = dict(ends=(1, 2, 3), timeouts=flags(3, 7, n=N))
    return steps(rewards=at_goal.astype(np.float32), **ends, **infos, **fields)


SPARSE = [
    "Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse",
    "antmaze-umaze-v2",
    "Antmaze_large_play",
    "ant_maze-medium-diverse-v0",
]


@pytest.mark.parametrize("stem", SPARSE)
def test_an_antmaze_has_an_episode_for_each_timeout_which_ends_at_its_first_goal(tmp_path, stem):
    episodes = read(tmp_path / f"{stem}.hdf5", antmaze())
    told = [(len(e), e.terminated, e.success, e.first_success) for e in episodes]
    assert told == [(2, True, True, 1), (3, False, False, None)]
    np.testing.assert_array_equal(episodes[1].rewards, [0, 0, 0])
    assert [episode.n_left_out for episode in episodes] == [0, 1]


def test_an_antmaze_of_dense_rewards_has_such_episodes_too_and_does_not_say_whether_they_succeeded(tmp_path):
    episodes = read(tmp_path / "antmaze-umaze-dense-v2.hdf5", antmaze())
    assert [(len(e), e.terminated, e.success) for e in episodes] == [(2, True, None), (3, False, None)]


def test_an_antmaze_under_another_name_is_warned_about(tmp_path):
    n = 30
    fields = arrays(n, ends=tuple(range(8, 29)), timeouts=flags(29, n=n))
    with warned(r"logs.hdf5: 20 of 21 episodes have a single step. Where each step at a goal is marked"):
        assert len(read(tmp_path / "logs.hdf5", fields)) == 21
    (episode,) = read(tmp_path / "antmaze-umaze-v2.hdf5", fields)
    assert (len(episode), episode.terminated) == (9, True)


def test_kitchen_has_no_timeouts_and_double_precision_becomes_single(tmp_path):
    observations = np.random.default_rng(0).normal(size=(N, 60))
    fields = steps(observations=observations, actions=np.zeros((N, 9)), ends=(3, 7))
    source = D4RLSource(write_steps(tmp_path / "kitchen_microwave_kettle_light_slider-v0.hdf5", **fields))
    first, second = source.episodes()
    np.testing.assert_array_equal(np.asarray(first.observations)[:-1], observations[:4].astype(np.float32))
    assert (len(first), len(second), first.terminated) == (4, 4, True)
    assert source.observation_space == spaces.Box(-np.inf, np.inf, (60,), np.float32)
    assert source.action_space == spaces.Box(-1.0, 1.0, (9,), np.float32)


@pytest.mark.parametrize("key", ["infos/success", "infos/goal_achieved"])
def test_adroit_says_at_each_step_whether_the_goal_is_achieved(tmp_path, key):
    fields = steps(timeouts=flags(3, 7, n=N), **{key: flags(1, 2, n=N)})
    episodes = read(tmp_path / "pen-v0_demos_clipped.hdf5", fields)
    assert [(episode.success, episode.first_success) for episode in episodes] == [(True, 1), (False, None)]


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
def test_d4rls_own_files_have_a_sentence(tmp_path, stem, words):
    (episode,) = read(tmp_path / f"{stem}.hdf5", steps())
    (text,) = episode.task_texts
    assert words in text
    assert episode.task == stem


@pytest.mark.parametrize("stem", ["door-open", "antelope_medium", "my_hopper_medium", "penalty-v2", "hopper"])
def test_other_files_have_none(tmp_path, stem):
    (episode,) = read(tmp_path / f"{stem}.hdf5", steps())
    assert episode.task_texts == ()


def test_a_file_that_is_damaged_within_is_answered_as_it_is_read(tmp_path):
    observations = np.random.default_rng(0).normal(size=(N, 200))
    path = write_steps(tmp_path / "logs.hdf5", **steps(observations=observations))
    with h5py.File(path) as file:
        where = file["observations"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[where : where + 100] = bytes(100)
    path.write_bytes(content)
    source = D4RLSource(path)
    with refused(r"logs.hdf5: is not an hdf5 file, or damaged or half-written"):
        list(source.episodes())


@pytest.mark.parametrize(
    ("intact", "broken"),
    [
        pytest.param(b"SNOD", b"SNOT", id="list of names"),
        pytest.param(b"\x11\x20\x1f\x00", b"\xf1\x20\x1f\x00", id="header of an array"),
        pytest.param(b"\x17\x08\x00\x17\x7f\x00", b"\x17\x08\x00\x17\x7f\xff", id="kind of float"),
    ],
)
def test_damage_beside_the_values_is_answered_by_name(tmp_path, intact, broken):
    path = write_steps(tmp_path / "logs.hdf5", **steps())
    content = path.read_bytes()
    assert intact in content
    path.write_bytes(content.replace(intact, broken))
    with refused(r"logs.hdf5: is not an hdf5 file, or damaged or half-written"):
        D4RLSource(path)


def test_a_group_in_the_place_of_an_array_is_refused(tmp_path):
    fields = steps(rewards=None, **{"rewards/all": np.zeros(N)})
    with refused(r"logs.hdf5: `rewards` must be an array of numbers", TypeError):
        read(tmp_path / "logs.hdf5", fields)
