"""Robomimic's files: keys, steps, ends, successes, sentences and bounds, and files laid out otherwise."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from expect import refused, warned
from gymnasium import spaces

from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.fingerprint import episode_digest
from sb3_llmdpd.data.loading import format_of, load_dataset
from sb3_llmdpd.data.memory_mapping import memory_mapped
from sb3_llmdpd.data.robomimic import RobomimicSource

N = 5
LIBERO = {"problem_info": json.dumps({"language_instruction": "put the bowl on the plate"})}


def flags(*steps: int) -> np.ndarray:
    return np.isin(np.arange(N), steps).astype(np.uint8)


def demo(n: int = N, **changes: Any) -> dict[str, Any]:
    """Make a demonstration of n steps, of which arrays are changed by name, or left out by None.

    The observation of step t is t in ``obs/arm`` and -t and 10 t in ``obs/grip``; the action is t / 100.
    """
    steps = np.arange(n, dtype=float)
    sound = {
        "actions": np.stack([steps, -steps], axis=1) / 100,
        "obs/arm": steps[:, None],
        "obs/grip": np.stack([-steps, 10 * steps], axis=1),
        "rewards": np.zeros(n),
        "dones": np.zeros(n, int),
    }
    return {name: value for name, value in {**sound, **changes}.items() if value is not None}


def with_results(n: int = N, **changes: Any) -> dict[str, Any]:
    steps = np.arange(1, n + 1, dtype=float)
    results = {"next_obs/arm": steps[:, None], "next_obs/grip": np.stack([-steps, 10 * steps], axis=1)}
    return demo(n, **{**results, **changes})


def write(path: Path, *demos: dict[str, Any], attributes: Any = None, of_demos: Any = ()) -> Path:
    """Write demonstrations as demo_0 and so on, with attributes of all, and of each."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs.update(attributes or {})
        for number, arrays in enumerate(demos):
            group = data.create_group(f"demo_{number}")
            for name, value in arrays.items():
                group[name] = value
        for number, said in enumerate(of_demos):
            data[f"demo_{number}"].attrs.update(said)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lift.hdf5"


def read(path: Path, **options: Any) -> list[Episode]:
    return list(RobomimicSource(path, **options).episodes())


def read_one(path: Path, arrays: dict[str, Any], **attributes: Any) -> Episode:
    (episode,) = read(write(path, arrays, **attributes))
    return episode


def test_observations_are_the_keys_side_by_side_in_alphabetical_order(path):
    episode = read_one(path, with_results())
    np.testing.assert_array_equal(
        episode.observations, [[0, 0, 0], [1, -1, 10], [2, -2, 20], [3, -3, 30], [4, -4, 40], [5, -5, 50]]
    )
    np.testing.assert_array_equal(episode.actions, demo()["actions"].astype(np.float32))
    assert episode.observations.dtype == np.float32
    assert episode.source == f"{path}, demo_0"


@pytest.mark.parametrize(
    ("key", "rows"),
    [("grip", [[0, 0], [-1, 10]]), (["grip", "arm"], [[0, 0, 0], [-1, 10, 1]]), (("arm",), [[0], [1]])],
)
def test_observations_may_be_named(path, key, rows):
    (episode,) = read(write(path, demo()), observation_key=key)
    np.testing.assert_array_equal(np.asarray(episode.observations)[:2], rows)


def test_rows_of_single_numbers_and_of_any_type_are_read(path):
    changes = {"obs/arm": np.arange(N, dtype=np.int16), "obs/grip": np.arange(N) % 2 == 0}
    (episode,) = read(write(path, demo(**changes)))
    np.testing.assert_array_equal(episode.observations, [[0, 1], [1, 0], [2, 1], [3, 0], [4, 1]])


def test_numbers_of_more_axes_are_read_where_they_are_named(path):
    points = np.arange(N * 6, dtype=float).reshape(N, 2, 3)
    write(path, demo(**{"obs/points": points}))
    with warned(f"{path}: points of the observations are no vectors of numbers, and are not read"):
        assert np.asarray(read(path)[0].observations).shape == (N, 3)
    (episode,) = read(path, observation_key="points")
    np.testing.assert_array_equal(episode.observations, points.reshape(N, 6))


def test_images_are_not_read_and_named_once(path):
    images = {f"obs/{side}_image": np.zeros((N, 4, 4, 3), np.uint8) for side in ("left", "right")}
    write(path, demo(**images), demo(**images))
    with warned(f"{path}: the images left_image, right_image are not read") as caught:
        episodes = read(path)
    assert len(caught) == 1
    assert [np.asarray(episode.observations).shape for episode in episodes] == [(N, 3)] * 2
    read(path, observation_key="arm")  # whoever names what is read knows


def test_demonstrations_come_in_the_order_of_their_numbers(path):
    write(path, *(demo(n) for n in range(2, 14)))
    assert [len(episode) for episode in read(path)] == list(range(1, 13))
    assert [episode.source.split(", ")[1] for episode in read(path)][9:] == ["demo_9", "demo_10", "demo_11"]


def test_with_next_observations_all_steps_are_read(path):
    episode = read_one(path, with_results())
    assert (len(episode), episode.n_left_out, episode.terminated) == (N, 0, False)


def test_without_next_observations_the_last_action_is_left_out(path):
    episode = read_one(path, demo())
    np.testing.assert_array_equal(np.asarray(episode.observations)[:, 0], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(episode.actions, demo()["actions"][:4].astype(np.float32))
    assert (len(episode), episode.n_left_out, episode.terminated) == (N - 1, 1, False)


def test_where_the_task_ends_with_the_last_action_it_is_kept_and_the_last_observation_repeated(path):
    """So are all of LIBERO's demonstrations."""
    episode = read_one(path, demo(rewards=flags(4), dones=flags(4)))
    np.testing.assert_array_equal(np.asarray(episode.observations)[:, 0], [0, 1, 2, 3, 4, 4])
    np.testing.assert_array_equal(episode.rewards, [0, 0, 0, 0, 1])
    assert (len(episode), episode.n_left_out, episode.terminated) == (N, 0, True)
    assert (episode.success, episode.first_success) == (True, 4)


@pytest.mark.parametrize(
    ("rewards", "dones", "terminated"),
    [
        (flags(4), flags(4), True),
        (flags(4), flags(), False),
        (flags(), flags(4), False),  # the end of a recording
        (flags(3, 4), flags(3, 4), False),  # goes on after its success
        (np.ones(N) / 2, flags(4), False),  # shaped
        (flags(4)[:, None], flags(4)[:, None], True),
        (flags(4), None, False),
        (None, flags(4), False),
    ],
)
def test_a_done_is_the_end_of_the_task_where_the_first_reward_is(path, rewards, dones, terminated):
    episode = read_one(path, with_results(rewards=rewards, dones=dones))
    assert (len(episode), episode.terminated) == (N, terminated)


def test_an_action_after_the_end_of_the_task_shows_what_the_one_before_led_to(path):
    episode = read_one(path, demo(rewards=flags(3, 4), dones=flags(3, 4)))
    np.testing.assert_array_equal(np.asarray(episode.observations)[:, 0], [0, 1, 2, 3, 4])
    assert (len(episode), episode.n_left_out, episode.terminated) == (N - 1, 1, True)
    assert (episode.success, episode.first_success) == (True, 3)


def test_without_rewards_an_episode_says_so(path):
    episode = read_one(path, demo(rewards=None, dones=None))
    np.testing.assert_array_equal(episode.rewards, np.zeros(N - 1))
    assert (episode.rewarded, episode.success) == (False, None)
    assert read_one(path, demo()).rewarded


@pytest.mark.parametrize(
    ("rewards", "outcomes"),
    [
        ([flags(2, 3), flags()], [(True, 2), (False, None)]),
        ([flags(), flags()], [(None, None)] * 2),
        ([flags(2) * 0.5, flags(3)], [(None, None)] * 2),
        ([flags(2), None], [(True, 2), (None, None)]),
    ],
    ids=["sparse", "zeros alone", "shaped", "not all rewarded"],
)
def test_sparse_rewards_tell_success(path, rewards, outcomes):
    episodes = read(write(path, *(with_results(rewards=each) for each in rewards)))
    assert [(episode.success, episode.first_success) for episode in episodes] == outcomes


def test_an_attribute_of_a_demonstration_tells_success_first(path):
    write(
        path, with_results(rewards=flags(1)), with_results(), of_demos=[{"success": False}, {"success": True}]
    )
    assert [(episode.success, episode.first_success) for episode in read(path)] == [
        (False, None),
        (True, None),
    ]


def test_a_success_with_the_action_that_is_left_out_is_told_of(path):
    write(path, demo(rewards=flags(4), dones=None), demo(rewards=flags(2)))
    with warned(f"{path}: in 1 of 2 demonstrations the only reward is that of the last action"):
        first, second = read(path)
    assert [(first.success, first.first_success), (second.success, second.first_success)] == [
        (True, None),
        (True, 2),
    ]


def test_demonstrations_without_a_step_are_left_out_and_counted(path):
    write(path, demo(1), demo(0), demo())
    with warned(f"{path}: in 2 of 3 demonstrations no step has a recorded result"):
        (episode,) = read(path)
    assert episode.source == f"{path}, demo_2"


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        (LIBERO, "put the bowl on the plate"),
        ({"problem_info": '{"language_instruction": "\\"open it\\""}'}, "open it"),
        ({"problem_info": np.bytes_(b'{"language_instruction": "open it"}')}, "open it"),
        ({"env_args": json.dumps({"env_name": "Lift", "env_kwargs": {"env_lang": "lift it"}})}, "lift it"),
        ({"env_args": json.dumps({"env_name": "Lift", "env_lang": "lift it", "env_kwargs": {}})}, "lift it"),
        ({"env_args": json.dumps({"env_name": "Lift", "env_lang": None, "env_kwargs": None})}, None),
        ({}, None),
    ],
)
def test_the_sentence_of_the_file_is_the_task(path, attributes, text):
    episode = read_one(path, demo(), attributes=attributes)
    assert (episode.task, episode.task_texts) == ((text, (text,)) if text else ("lift", ()))


def test_the_sentence_of_a_demonstration_goes_before_that_of_the_file(path):
    said = [
        {"ep_meta": json.dumps({"lang": "pick the mug", "layout_id": 3})},
        {"ep_meta": "{}"},
        {"ep_meta": ""},
    ]
    episodes = read(write(path, demo(), demo(), demo(), attributes=LIBERO, of_demos=said))
    texts = ["pick the mug", "put the bowl on the plate", "put the bowl on the plate"]
    assert [(episode.task, episode.task_texts) for episode in episodes] == [(text, (text,)) for text in texts]


def test_a_given_task_keeps_the_sentence(path):
    (episode,) = read(write(path, demo(), attributes=LIBERO), task="bowl")
    assert (episode.task, episode.task_texts) == ("bowl", ("put the bowl on the plate",))


def test_attributes_that_are_no_json_are_told_of(path):
    write(path, demo(), demo(), attributes={"env_args": "Lift"}, of_demos=[{"ep_meta": "[1]"}])
    with warned("is no JSON object, and is not searched for a sentence") as caught:
        assert [episode.task for episode in read(path)] == ["lift", "lift"]
    of_all, of_one = (str(each.message) for each in caught)
    assert of_all.startswith(f"{path}: the attribute `env_args`")
    assert of_one.startswith(f"{path}: in 1 of 2 demonstrations the attribute `ep_meta`")


def test_actions_within_one_are_robosuites(path):
    source = RobomimicSource(write(path, demo()))
    assert source.action_space == spaces.Box(-1.0, 1.0, (2,), np.float32)
    assert source.observation_space == spaces.Box(-np.inf, np.inf, (3,), np.float32)


def test_other_actions_are_measured_with_a_warning_and_joined(path):
    wide = np.stack([np.arange(N), -np.arange(N)], axis=1) * 2.5
    write(path, demo(), demo(actions=wide))
    with warned(f"{path}: no bounds of the actions are recorded, and they leave") as caught:
        dataset = load_dataset(f"robomimic:{path}")
    assert len(caught) == 1
    np.testing.assert_array_equal(dataset.action_space.low, [0.0, -10.0])
    np.testing.assert_array_equal(dataset.action_space.high, [10.0, 0.0])


def test_bounds_may_be_said(path):
    write(path, demo(actions=np.full((N, 2), 3.0)))
    dataset = load_dataset(f"robomimic:{path}", action_low=-4, action_high=4)
    assert dataset.action_space == spaces.Box(-4.0, 4.0, (2,), np.float32)
    np.testing.assert_array_equal(dataset.episodes[0].actions, np.full((N - 1, 2), 3.0))


@pytest.mark.parametrize("actions", [np.arange(N), np.arange(N)[:, None]])
def test_labels_are_refused(path, actions):
    write(path, demo(actions=actions))
    with refused(f"{path}: `actions` are .*labels of discrete actions"):
        RobomimicSource(path)


def test_the_content_of_a_file_tells_its_format(path, tmp_path):
    write(path, demo(), attributes=LIBERO)
    with h5py.File(tmp_path / "hopper.hdf5", "w") as file:
        file["observations"] = np.zeros((4, 2))
    assert format_of(str(path))[0] == "robomimic"
    assert format_of(str(tmp_path / "hopper.hdf5"))[0] == "d4rl"
    assert load_dataset(str(path)).tasks == ("put the bowl on the plate",)


def test_mapped_files_hold_the_same(path, tmp_path):
    write(path, with_results(rewards=flags(4), dones=flags(4)), demo(rewards=None), attributes=LIBERO)
    in_memory = load_dataset(str(path), observation_key=["grip", "arm"])
    mapped = memory_mapped(str(path), observation_key=["grip", "arm"], cache=tmp_path / "cache")
    digests = [[episode_digest(each) for each in data.episodes] for data in (in_memory, mapped)]
    assert digests[0] == digests[1]
    assert [episode.n_left_out for episode in mapped.episodes] == [0, 1]


def test_what_decides_the_content_is_said_as_json(path):
    source = RobomimicSource(write(path, demo()), task="lift", observation_key=("grip",))
    assert source.files() == [path]
    assert json.loads(json.dumps(source.options())) == {"task": "lift", "observation_key": ["grip"]}


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (
            "gripp",
            ValueError,
            r"demo_0: has no 'gripp', nearest is 'grip'; `observation_key` may name arm, grip",
        ),
        ("side_image", ValueError, "'side_image' is an image, and numbers alone are read; .* name arm, grip"),
        ("said", ValueError, "has no 'said'"),
        (["arm", "arm"], ValueError, r"names a key twice, got \['arm', 'arm'\]"),
        ([], TypeError, r"`observation_key` must be a key of `obs` or several, of arm, grip; got \[\]"),
        (3, TypeError, "`observation_key` must be a key of `obs` or several, of arm, grip; got 3"),
        (["arm", 3], TypeError, "`observation_key` must be a key of `obs` or several"),
    ],
)
def test_keys_that_cannot_be_the_observation_are_refused(path, key, error, message):
    others = {"obs/side_image": np.zeros((N, 4, 4, 3), np.uint8), "obs/said": ["open it"] * N}
    write(path, demo(**others))
    with refused(message, error):
        RobomimicSource(path, observation_key=key)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"obs/arm": np.zeros((N + 1, 1))}, ValueError, "`obs/arm` has 6 and `actions` 5"),
        (
            {"obs/arm": np.zeros((N, 4))},
            ValueError,
            r"a row of `obs/arm` must hold 1 numbers, .* got shape \(4,\)",
        ),
        ({"obs/arm": None}, ValueError, "has no `obs/arm`, but `obs` holds grip"),
        ({"obs/arm": ["a"] * N}, TypeError, "`obs/arm` must be an array of numbers, got dtype object"),
        ({"obs/arm/left": np.zeros(N), "obs/arm": None}, TypeError, "`obs/arm` must be .* got a group"),
        ({"obs/arm": np.full((N, 1), np.nan)}, ValueError, "`observations` holds 5 NaN or infinite values"),
        ({"obs/arm": np.full((N, 1), 1e300)}, ValueError, "`observations` holds 5 NaN or infinite values"),
        ({"next_obs/arm": np.zeros((N, 1))}, ValueError, "has no `next_obs/grip`, but `next_obs` holds arm"),
        ({"actions": None}, ValueError, "has no `actions`, but it holds dones, obs, rewards"),
        (
            {"actions": np.zeros((N, 3))},
            ValueError,
            r"an action must be of shape \(2,\), as in .*demo_0, got",
        ),
        ({"actions": 3.0}, ValueError, "`actions` must be an array over steps, got a single number"),
        ({"rewards": np.zeros(N - 1)}, ValueError, "`rewards` has 4 and `actions` 5"),
        (
            {"rewards": np.zeros((N, 2))},
            ValueError,
            r"`rewards` must be one number a step, got shape \(5, 2\)",
        ),
        ({"rewards": h5py.Empty("f")}, TypeError, "`rewards` must be an array of numbers"),
        ({"dones": ["no"] * N}, TypeError, "`dones` must be an array of numbers, got dtype object"),
    ],
    ids=str,
)
def test_a_demonstration_that_does_not_fit_is_refused_by_its_name(path, changes, error, message):
    write(path, demo(), demo(**changes))
    with refused(f"{path}, demo_1: .*{message}", error):
        read(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"actions": np.zeros((N, 2)), "states": np.zeros((N, 9))},
            "demo_0: has no observations, `obs`, but holds actions, states; .*dataset_states_to_obs.py",
        ),
        (
            {"actions": np.zeros((N, 2)), "obs/side": np.zeros((N, 4, 4, 3), np.uint8)},
            "demo_0: `obs` has no vectors of numbers, but side",
        ),
        ({}, "demo_0: has no observations, `obs`, but holds none"),
        ({"actions": np.zeros((0, 2)), "obs/arm": np.zeros((0, 1))}, "holds no step"),
    ],
)
def test_files_that_hold_no_vectors_are_refused(path, arrays, message):
    write(path, arrays)
    with refused(message):
        RobomimicSource(path)


@pytest.mark.parametrize(
    "entries", [{}, {"data/total": np.zeros(3)}, {"data": np.zeros(3)}, {"demo_0": np.zeros(3)}]
)
def test_files_of_another_layout_are_answered_with_the_right_one(path, entries):
    with h5py.File(path, "w") as file:
        for name, value in entries.items():
            file[name] = value
    with refused(
        f"{path}: has no demonstrations, but holds .*; robomimic's files hold data/demo_0, data/demo_1"
    ):
        RobomimicSource(path)


def test_a_file_that_is_not_there_is_answered_with_its_neighbours(path):
    write(path, demo())
    with refused(r"there is no file .*lifft.hdf5; nearest there: lift.hdf5"):
        RobomimicSource(path.with_name("lifft.hdf5"))


@pytest.mark.parametrize("content", [b"", b"no hdf5", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_a_file_of_another_kind_is_answered(path, content):
    path.write_bytes(content)
    with refused(f"{path}: is not an hdf5 file, or damaged or half-written"):
        RobomimicSource(path)


@pytest.mark.parametrize(
    ("intact", "broken"),
    [
        pytest.param(b"SNOD", b"SNOT", id="list of names"),
        pytest.param(b"\x11\x20\x3f\x00", b"\xf1\x20\x3f\x00", id="header of an array"),
        pytest.param(b"\x34\x0b\x00\x34\xff\x03", b"\x34\x0b\x00\x34\xff\xff", id="kind of float"),
    ],
)
def test_damage_beside_the_values_is_answered_by_name(path, intact, broken):
    content = write(path, demo()).read_bytes()
    assert intact in content
    path.write_bytes(content.replace(intact, broken))
    with refused(f"{path}.*: is not an hdf5 file, or damaged or half-written"):
        read(path)


def test_several_files_are_read_together(path, tmp_path):
    other = write(tmp_path / "other.hdf5", demo())
    dataset = load_dataset([str(write(path, demo(), attributes=LIBERO)), str(other)])
    assert dataset.tasks == ("put the bowl on the plate", "other")


def test_sentences_may_be_given_by_the_name_of_the_file(path):
    dataset = load_dataset(f"robomimic:{write(path, demo())}", task_texts={"lift.hdf5": "lift the cube"})
    assert dataset.episodes[0].task_texts == ("lift the cube",)
