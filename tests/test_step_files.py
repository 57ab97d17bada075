"""Files of flat arrays, npz and hdf5 alike: what is read off them and their names, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from expect import refused, warned
from gymnasium import spaces
from step_files import N, arrays, flags, write_steps

from sb3_llmdpd.data.d4rl import D4RLSource
from sb3_llmdpd.data.episode_source import Reading
from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.loading import load_dataset, open_source
from sb3_llmdpd.data.npz import NpzSource
from sb3_llmdpd.data.step_files import StepFileSource

SOURCES: dict[str, type[StepFileSource]] = {".npz": NpzSource, ".hdf5": D4RLSource}
Save = Callable[..., Path]


@pytest.fixture(params=SOURCES)
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Save:
    """Write two episodes of three steps, but for the changes, in each format."""

    def write(stem: str = "logs", **changes: Any) -> Path:
        return write_steps(tmp_path / f"{stem}{request.param}", **arrays(**{"ends": (2, 5), **changes}))

    return write


def opened(path: Path, **options: Any) -> StepFileSource:
    return SOURCES[path.suffix](path, **options)


def read(path: Path, **options: Any) -> list[Episode]:
    return list(opened(path, **options).episodes())


def test_a_file_is_one_task_named_by_its_stem(save: Save) -> None:
    source = opened(path := save("cheetah"))
    first, second = source.episodes()
    np.testing.assert_array_equal(first.observations, [[0, 0], [1, -1], [2, -2], [2, -2]])
    np.testing.assert_array_equal(second.rewards, [3, 4, 5])
    assert (first.task, first.task_texts, first.terminated, first.success) == ("cheetah", (), True, None)
    assert first.source == f"{path}, episode 0"
    assert source.observation_space == spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert source.action_space == spaces.Box(-1.0, 1.0, (1,), np.float32)


def test_dict_observations_have_an_entry_for_each_key(save: Save) -> None:
    rows = {"observations/speed": np.zeros((N, 2)), "observations/image": np.ones((N, 4, 4), np.uint8)}
    source = opened(save(observations=None, **rows))
    image, speed = spaces.Box(0, 255, (4, 4), np.uint8), spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert source.observation_space == spaces.Dict({"image": image, "speed": speed})
    first, second = source.episodes()
    assert (len(first), len(second)) == (3, 3)
    np.testing.assert_array_equal(first.observations["image"], np.ones((4, 4, 4), np.uint8))


def test_it_says_what_it_reads(save: Save) -> None:
    source = opened(path := save(), task="run", max_episode_steps=3)
    assert (source.name, list(source.files())) == (str(path), [path])
    assert source.options() == {"task": "run", "max_episode_steps": 3}


def test_it_can_be_read_twice(save: Save) -> None:
    source = opened(save())
    assert [[len(episode) for episode in source.episodes()] for _ in range(2)] == [[3, 3], [3, 3]]


def test_the_home_folder_is_known(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save()
    monkeypatch.setenv("HOME", str(path.parent))
    source = SOURCES[path.suffix](name := f"~/{path.name}")
    assert (source.name, list(source.files())) == (name, [path])


def test_a_file_is_known_by_its_suffix_or_its_format(save: Save) -> None:
    path = save()
    source = open_source(str(path))
    assert type(source) is SOURCES[path.suffix]
    assert len(load_dataset(f"{source.kind}:{path}").episodes) == 2


def test_a_task_and_its_sentence_can_be_given(save: Save) -> None:
    episode, _ = read(save(), task="hop", reading=Reading({"hop": "jump along"}))
    assert (episode.task, episode.task_texts) == ("hop", ("jump along",))


def test_a_time_limit_can_be_given_where_the_file_has_none(save: Save) -> None:
    assert [len(episode) for episode in read(save(ends=()), max_episode_steps=3)] == [2, 2]


def test_very_many_steps_without_an_end_are_warned_about_and_a_time_limit_cuts_them(save: Save) -> None:
    n = 10_003
    path = save(n=n, ends=(), timeouts=flags(n=n), actions=np.zeros((n, 1)))
    with warned(r"logs.*: 10,003 steps follow each other .* one long episode.*`max_episode_steps`"):
        (episode,) = read(path)
    assert (len(episode), episode.terminated) == (10_002, False)
    assert [len(episode) for episode in read(path, max_episode_steps=5000)] == [4999, 4999, 2]


def test_a_file_without_any_flags_is_read_with_a_warning_that_lists_what_it_has(save: Save) -> None:
    path = save(terminals=None, dones=flags(5))
    with warned("has neither `terminals` nor `timeouts`, but holds `actions`, `dones`, `observations`"):
        (episode,) = read(path)
    assert (len(episode), episode.terminated) == (5, False)
    assert [len(episode) for episode in read(path, max_episode_steps=3)] == [2, 2]


def test_nan_is_answered_with_file_episode_and_field(save: Save) -> None:
    path = save(rewards=np.array([0, 0, 0, 0, np.nan, 0]))
    with refused(rf"{path.name}, episode 1: `rewards` holds 1 NaN"):
        read(path)


def test_a_missing_file_is_answered_with_the_nearest_names(save: Save) -> None:
    path = save("hopper_medium-v2")
    wrong = path.with_stem("hoper_medium-v2")
    with refused(rf"there is no file .*{wrong.name}; nearest there: {path.name}"):
        opened(wrong)
    with refused(r"there is no file .*, and no folder .*elsewhere"):
        opened(path.parent / "elsewhere" / path.name)
    (path.parent / wrong.name).mkdir()
    with refused("is a folder; give the path of one file in it"):
        opened(wrong)


@pytest.mark.parametrize("names", [["observations"], ["actions"], ["rewards"], ["observations", "rewards"]])
def test_a_missing_array_is_answered_with_its_name_and_what_is_there(save: Save, names: list[str]) -> None:
    path = save(obs=np.zeros(N), **dict.fromkeys(names))
    missing = " and no ".join(f"`{name}`" for name in names)
    with refused(rf"{path.name}: has no {missing}, but holds .*`obs`.*`terminals`.*Such a file holds"):
        opened(path)


@pytest.mark.parametrize("content", [b"not this", None], ids=["another file", "cut short"])
def test_a_file_of_another_kind_or_cut_short_is_refused(save: Save, content: bytes | None) -> None:
    path = save()
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    reason = {".npz": r"an npz file, .* \(BadZipFile", ".hdf5": r"an hdf5 file, .* \(OSError"}[path.suffix]
    with refused(rf"{path.name}: is not {reason}.*download or write it again"):
        opened(path)
