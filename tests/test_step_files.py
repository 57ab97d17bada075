"""Files of flat arrays, npz and hdf5 alike: what is read off them and their names, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from expect import refused, warned
from gymnasium import spaces
from step_files import SOURCES, N, arrays, flags, opened, read, said_by, write_steps

from sb3_llmdpd.data.episode_source import Reading
from sb3_llmdpd.data.loading import load_dataset, open_source
from sb3_llmdpd.data.memory_mapping import memory_mapped

Save = Callable[..., Path]


@pytest.fixture(params=SOURCES)
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Save:
    """Write two episodes of three steps, but for the changes, in each format."""

    def write(stem: str = "logs", **changes: Any) -> Path:
        return write_steps(tmp_path / f"{stem}{request.param}", **arrays(**{"ends": (2, 5), **changes}))

    return write


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


@pytest.fixture
def in_data(save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the folder `data` of the folder that the test is in."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data" / save().name
    path.parent.mkdir()
    return (tmp_path / path.name).rename(path)


WRITTEN = ("{name}", "data/{name}", "./data/{name}", "{path}")


@pytest.mark.parametrize("given", ["data/{name}", "./data/{name}", "{path}", "{kind}:data/{name}"])
@pytest.mark.parametrize("key", ["logs", *(f"{kind}{name}" for kind in ("", "{kind}:") for name in WRITTEN)])
def test_the_sentence_of_a_file_is_given_by_any_of_its_names(in_data, given, key):
    known = dict(path=in_data, name=in_data.name, kind=SOURCES[in_data.suffix].kind)
    first, _ = load_dataset(given.format(**known), task_texts={key.format(**known): "jump along"}).episodes
    assert first.task_texts == ("jump along",)


@pytest.mark.parametrize("key", ["../data/{name}", "{path}", "{name}"])
def test_so_is_that_of_a_file_in_a_folder_beside_this_one(in_data, tmp_path, monkeypatch, key):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    texts = {key.format(path=in_data, name=in_data.name): "jump along"}
    first, _ = load_dataset(f"../data/{in_data.name}", task_texts=texts).episodes
    assert first.task_texts == ("jump along",)


def test_so_is_that_of_a_file_in_the_home_folder(in_data, monkeypatch):
    monkeypatch.setenv("HOME", str(in_data.parent))
    for key in (f"~/{in_data.name}", in_data.name, str(in_data)):
        first, _ = load_dataset(f"~/{in_data.name}", task_texts={key: "jump along"}).episodes
        assert first.task_texts == ("jump along",)


def test_files_of_one_name_in_several_folders_are_told_apart_by_their_paths(save, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = save().name
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes((tmp_path / name).read_bytes())
    texts = {f"a/{name}": "go left", str(tmp_path / "b" / name): "go right"}
    episodes = load_dataset([f"a/{name}", f"b/{name}"], task_texts=texts).episodes
    assert [episode.task_texts for episode in episodes[::2]] == [("go left",), ("go right",)]


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
    path = save(terminals=None)
    with warned("has neither `terminals` nor `timeouts`, but holds `actions`, `observations`, `rewards`: no"):
        (episode,) = read(path)
    assert (len(episode), episode.terminated) == (5, False)
    assert [len(episode) for episode in read(path, max_episode_steps=3)] == [2, 2]


def test_a_file_without_rewards_is_read_and_says_that_it_has_none(save):
    first, second = read(save(rewards=None))
    np.testing.assert_array_equal(first.rewards, [0, 0, 0])
    assert (first.rewarded, second.rewarded) == (False, False)
    assert [episode.rewarded for episode in read(save())] == [True, True]


def test_columns_of_one_number_are_read_like_rows(save):
    columns = dict(rewards=np.arange(N)[:, None], terminals=flags(2, 5)[:, None])
    first, second = read(save(**columns))
    np.testing.assert_array_equal(first.rewards, [0, 1, 2])
    assert (len(second), second.terminated) == (3, True)


SAID_ONCE = {
    "no end at all": (dict(terminals=None), {}, "has neither `terminals` nor `timeouts`"),
    "ends without a reason": (
        dict(terminals=None, dones=flags(5)),
        {},
        "says where episodes end, and not why",
    ),
    "flags that are not read": (dict(solved=flags(2)), {}, "`solved` holds 0 or 1 at each step"),
    "terminals at a timeout": (dict(timeouts=flags(5)), {}, "1 of 1 `timeouts` are `terminals`, too"),
    "no bounds": (dict(actions=np.linspace(-3, 3, N)[:, None]), {}, "no bounds of the actions are recorded"),
    "actions outside": (
        dict(actions=np.linspace(-3, 3, N)[:, None]),
        dict(action_low=-1, action_high=1, clip=True),
        "4 of 6 actions lie outside the action space [-1, 1], by up to 2",
    ),
}


@pytest.mark.parametrize(("changes", "how", "sentence"), SAID_ONCE.values(), ids=SAID_ONCE)
def test_a_warning_comes_once_a_reading(save, changes, how, sentence):
    path = save(**changes)
    (said,) = said_by(lambda: load_dataset(str(path), **how))
    assert said.startswith(f"{path}: {sentence}")


def test_a_file_that_is_mapped_is_warned_of_when_it_is_read_and_not_again(save, tmp_path):
    path = save(solved=flags(2))
    (said,) = said_by(lambda: memory_mapped(str(path), cache=tmp_path / "cache"))
    assert said.startswith(f"{path}: `solved` holds 0 or 1")
    assert said_by(lambda: memory_mapped(str(path), cache=tmp_path / "cache")) == []


def test_opening_a_file_warns_of_nothing(save):
    path = save(terminals=None, solved=flags(2), actions=np.linspace(-3, 3, N)[:, None])
    assert said_by(lambda: opened(path)) == []


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


@pytest.mark.parametrize("names", [["observations"], ["actions"], ["observations", "actions"]])
def test_a_missing_array_is_answered_with_its_name_and_what_is_there(save: Save, names: list[str]) -> None:
    path = save(obs=np.zeros(N), **dict.fromkeys(names))
    missing = " and no ".join(f"`{name}`" for name in names)
    with refused(rf"{path.name}: has no {missing}, but holds .*`obs`.*`terminals`.*Such a file holds"):
        opened(path)


@pytest.mark.parametrize("name", ["observations", "actions"])
def test_an_array_without_entries_is_refused_by_name(save, name):
    """Nothing can be learned of it: its loss is NaN."""
    with refused(rf"logs.*`{name}`.*, 0\)"):
        read(save(**{name: np.zeros((N, 0))}))


def test_a_number_in_the_place_of_the_actions_is_refused(save):
    with refused(r"logs.*: `actions` must be an array over steps, got a single number"):
        opened(save(actions=np.float32(1), other=np.zeros(3)))


@pytest.mark.parametrize("content", [b"not this", None], ids=["another file", "cut short"])
def test_a_file_of_another_kind_or_cut_short_is_refused(save: Save, content: bytes | None) -> None:
    path = save()
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    reason = {".npz": r"an npz file, .* \(BadZipFile", ".hdf5": r"an hdf5 file, .* \(OSError"}[path.suffix]
    with refused(rf"{path.name}: is not {reason}.*download or write it again"):
        opened(path)
