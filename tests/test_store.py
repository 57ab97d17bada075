"""Data larger than memory: files equal what was read, are built once and whole, and built anew when stale."""

import json
import os
import pickle
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from expect import refused, warned
from factories import make_episodes, tiny_model
from gymnasium import spaces
from numpy.testing import assert_array_equal
from step_files import arrays, flags, write_steps
from torch.testing import assert_close

from sb3_llmdpd.baselines.segments import SegmentBuffer
from sb3_llmdpd.data import flat_file
from sb3_llmdpd.data.episode_source import AS_RECORDED, EpisodeSource, Reading, Record, read_sources
from sb3_llmdpd.data.episodes import Episode, OfflineDataset
from sb3_llmdpd.data.fingerprint import episode_digest, fingerprint
from sb3_llmdpd.data.flat_file import FlatFile
from sb3_llmdpd.data.loading import load_dataset
from sb3_llmdpd.data.memory_mapping import memory_mapped
from sb3_llmdpd.data.stored_dataset import ABOUT, EPISODES, REWARDS, SAID, STEPS, StoredDataset
from sb3_llmdpd.replay.buffer import PromptReplayBuffer

Build = Callable[..., StoredDataset]
ACTIONS = spaces.Box(-2.0, 2.0, (2,), np.float32)


class Logs(EpisodeSource):
    """Episodes that a test made, with a file that stands for them."""

    kind = "memory"

    def __init__(
        self, file: Path, episodes: Sequence[Episode], space: Any = None, reading: Reading = AS_RECORDED
    ) -> None:
        space = space or spaces.Box(-np.inf, np.inf, episodes[0].observations.shape[1:], np.float32)
        super().__init__("memory", space, ACTIONS, reading)
        self.file, self.given, self.times_read = file, episodes, 0
        if not file.exists():
            file.write_text("as of today")

    def files(self) -> list[Path]:
        return [self.file]

    def records(self) -> Iterator[Record]:
        self.times_read += 1
        for episode in self.given:
            yield {name: getattr(episode, name) for name in (*SAID, "observations", "actions", "rewards")}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def build(cache: Path) -> Build:
    return partial(memory_mapped, cache=cache)


@pytest.fixture
def source(tmp_path: Path) -> Logs:
    return Logs(tmp_path / "source", make_episodes(n_tasks=3, n_episodes=3, length=6))


def dict_source(tmp_path: Path) -> Logs:
    rng = np.random.default_rng(0)
    space = spaces.Dict(
        {"picture": spaces.Box(0, 255, (36, 36, 3), np.uint8), "place": spaces.Box(-9, 9, (3,), np.float32)}
    )
    episodes = [
        Episode(
            {
                "picture": rng.integers(0, 256, (n + 1, 36, 36, 3), dtype=np.uint8),
                "place": rng.normal(size=(n + 1, 3)).astype(np.float32),
            },
            rng.uniform(-2, 2, (n, 2)),
            rng.normal(size=n),
            terminated=True,
        )
        for n in (3, 1, 4)
    ]
    return Logs(tmp_path / "source", episodes, space)


def tensors(value: Any) -> list[th.Tensor]:
    """Every tensor of a batch."""
    if isinstance(value, th.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def assert_equal(one: Any, other: Any) -> None:
    """Compare every tensor of two batches."""
    for a, b in zip(tensors(one), tensors(other), strict=True):
        assert th.equal(a, b)


def stores(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.is_dir())


# What is mapped ---------------------------------------------------------------


def test_a_mapped_data_set_says_what_one_in_memory_says(source: Logs, build: Build) -> None:
    mapped, resident = build(source), read_sources([source])
    assert mapped.observation_space == resident.observation_space
    assert mapped.action_space == resident.action_space
    assert mapped.summary() == resident.summary()
    assert fingerprint(mapped) == fingerprint(resident)
    for one, other in zip(mapped.episodes, resident.episodes, strict=True):
        assert (episode_digest(one), one.source) == (episode_digest(other), other.source)
        for array in (one.observations, one.actions, one.rewards):
            assert not array.flags.writeable


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_mapped_data_give_the_batches_of_data_in_memory(source: Logs, build: Build, weight: float) -> None:
    datasets = (build(source), read_sources([source]))
    mapped, resident = (PromptReplayBuffer(data, "cpu", 3, seed=1, return_weight=weight) for data in datasets)
    for _ in range(3):
        batch = mapped.sample(12)
        assert len(tensors(batch)) == 11
        assert_equal(batch, resident.sample(12))
    assert_equal(mapped.some_observations(10), resident.some_observations(10))
    assert mapped.largest_reward == resident.largest_reward


def test_dict_observations_and_images_are_mapped_alike(build: Build, tmp_path: Path) -> None:
    source = dict_source(tmp_path)
    datasets = (build(source), read_sources([source]))
    mapped, resident = (PromptReplayBuffer(data, "cpu", 1, seed=1) for data in datasets)
    one, other = mapped.sample(12), resident.sample(12)
    assert one.observations["picture"].shape == (12, 3, 36, 36)
    assert_equal(one, other)


def test_the_arrays_under_sb3s_names_are_those_of_data_in_memory(source: Logs, build: Build) -> None:
    mapped, resident = (PromptReplayBuffer(data, "cpu") for data in (build(source), read_sources([source])))
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        assert_array_equal(getattr(mapped, name), getattr(resident, name), name)


def test_segments_of_mapped_data_are_those_of_data_in_memory(source: Logs, build: Build) -> None:
    datasets = (build(source), read_sources([source]))
    mapped, resident = (SegmentBuffer(one, 4, device="cpu", prompts_per_batch=3, seed=1) for one in datasets)
    assert_equal(mapped.sample_segments(12), resident.sample_segments(12))


def test_a_model_learns_the_same_from_mapped_data(source: Logs, build: Build) -> None:
    def learned(data: OfflineDataset) -> dict[str, th.Tensor]:
        model = tiny_model(dataset=data, batch_size=6, text_encoder="hashing:16")
        return model.learn(3).policy.state_dict()

    one, other = learned(build(source)), learned(read_sources([source]))
    assert_close(one, other, rtol=0, atol=0)


def test_a_part_of_mapped_data_stays_mapped_and_has_nothing_of_the_rest(source: Logs, build: Build) -> None:
    whole, resident = build(source), read_sources([source])
    parts = [data.only(lambda episode: episode.task != "task-1") for data in (whole, resident)]
    assert isinstance(parts[0], StoredDataset)
    assert parts[0].file is whole.file
    assert parts[0].tasks == ("task-0", "task-2")
    assert fingerprint(parts[0]) == fingerprint(parts[1]) != fingerprint(whole)
    mapped, kept = (PromptReplayBuffer(data, "cpu", 2, seed=1) for data in parts)
    assert_equal(mapped.some_observations(1_000), kept.some_observations(1_000))
    with refused("at least one episode"):
        whole.only(lambda episode: False)


def test_a_buffer_of_mapped_data_survives_a_pickle_without_its_steps(build: Build, tmp_path: Path) -> None:
    mapped = build(Logs(tmp_path / "s", make_episodes(length=2_000)))
    buffer = PromptReplayBuffer(mapped, "cpu", 3, seed=1)
    file = pickle.dumps(buffer)
    assert len(file) < mapped.file.path.stat().st_size / 2
    again = pickle.loads(file)
    assert_equal(again.sample(6), buffer.sample(6))


def test_what_was_read_is_let_go_when_it_is_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat_file, "RESIDENT_BYTES", 2**20)
    np.arange(2**22, dtype=np.int64).tofile(tmp_path / "rows")  # 32 MiB
    file = FlatFile(tmp_path / "rows", np.dtype([("number", np.int64)]))

    def resident() -> int:
        _, _, after = Path("/proc/self/status").read_text().partition("RssFile:")
        return int(after.split()[0]) * 1024

    before = resident()
    for first in range(0, 2**22, 2**12):
        taken = file.take(np.arange(first, first + 2**12, 2**8))
        assert taken["number"][1] == first + 2**8
    assert resident() - before < 4 * 2**20
    at_once = np.arange(0, 2**22, 2**6)
    np.testing.assert_array_equal(file.take(at_once)["number"], at_once)
    assert resident() - before < 4 * 2**20


def assert_same_bits(mapped: OfflineDataset, resident: OfflineDataset) -> None:
    """Compare all arrays, types of numbers included, and what episodes say."""
    for one, other in zip(mapped.episodes, resident.episodes, strict=True):
        for name in ("observations", "actions", "rewards"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)
        assert [getattr(one, name) for name in SAID] == [getattr(other, name) for name in SAID]


@pytest.mark.parametrize("dtypes", [("int64", "float64"), ("float64", "int64"), ("int32", "float16", "int8")])
def test_files_of_several_types_of_numbers_are_mapped_bit_for_bit(build, tmp_path, dtypes):
    rng = np.random.default_rng(0)
    names = []
    for dtype in dtypes:
        rows = rng.uniform(0, 100, (6, 2)).astype(dtype)
        steps = arrays(ends=(2, 5), observations=rows)
        names.append(str(write_steps(tmp_path / f"{dtype}.npz", **steps)))
    mapped, resident = build(names), load_dataset(names)
    assert_same_bits(mapped, resident)
    assert fingerprint(mapped) == fingerprint(resident)
    assert {episode.observations.dtype for episode in mapped.episodes} == {np.dtype(np.float32)}


def test_what_is_missing_is_missing_in_mapped_data_too(build, tmp_path):
    path = write_steps(tmp_path / "logs.npz", **arrays(rewards=None, timeouts=flags(2)))
    mapped = build(str(path))
    assert_same_bits(mapped, load_dataset(str(path)))
    assert (mapped.rewarded, [episode.n_left_out for episode in mapped.episodes]) == (False, [1, 1])


def test_bounds_of_actions_that_were_given_are_those_of_mapped_data(build, cache, tmp_path):
    path = str(write_steps(tmp_path / "logs.npz", **arrays(ends=(5,))))
    highs = [build(path, action_low=-1, action_high=high).action_space.high[0] for high in (2, 3, 2)]
    assert highs == [2, 3, 2]
    build(path, action_low=[-1], action_high=[3.0])
    assert len(stores(cache)) == 2


def test_clipping_makes_other_data(build, cache, tmp_path):
    path = str(write_steps(tmp_path / "logs.npz", **arrays(ends=(5,))))
    for clip in (False, True, False):
        build(path, clip=clip)
    assert len(stores(cache)) == 2


# When it is built -------------------------------------------------------------


def test_it_is_read_once(source: Logs, build: Build, cache: Path) -> None:
    for _ in range(3):
        build(source)
    assert source.times_read == 1
    assert len(stores(cache)) == 1


def test_a_changed_source_is_read_anew_into_the_same_place(source: Logs, build: Build, cache: Path) -> None:
    build(source)
    source.file.write_text("as of tomorrow, which is longer")
    source.given = make_episodes(n_tasks=1)
    assert len(build(source).tasks) == 1
    os.utime(source.file, ns=(0, 0))
    build(source)
    assert source.times_read == 3
    assert len(stores(cache)) == 1


def test_other_sentences_are_other_data(source: Logs, build: Build, cache: Path) -> None:
    build(source)
    told = Logs(source.file, source.given, reading=Reading({"task-0": "do it"}))
    assert build(told).episodes[0].task_texts == ("do it",)
    assert len(stores(cache)) == 2


@pytest.mark.parametrize("name", [STEPS, REWARDS, EPISODES, ABOUT])
@pytest.mark.parametrize("damage", ["cut", "gone", "changed"])
def test_damaged_files_are_built_anew(
    source: Logs, build: Build, cache: Path, name: str, damage: str
) -> None:
    expected = fingerprint(build(source))
    file = stores(cache)[0] / name
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    mapped = build(source)
    again = OfflineDataset(mapped.episodes, mapped.observation_space, mapped.action_space)
    assert fingerprint(again) == expected
    assert source.times_read == 2


def test_files_of_another_format_are_built_anew(source: Logs, build: Build, cache: Path) -> None:
    build(source)
    about = stores(cache)[0] / ABOUT
    about.write_text(json.dumps({**json.loads(about.read_text()), "format": 0}))
    build(source)
    assert source.times_read == 2


def test_an_interrupted_building_leaves_nothing(
    source: Logs, build: Build, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> Iterator[Record]:
        yield from list(Logs.records(source))[:2]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(source, "records", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(source)
    assert stores(cache) == []
    assert build(source).n_steps == 54


def test_what_a_killed_building_left_is_removed_by_the_next(
    source: Logs, build: Build, cache: Path, tmp_path: Path
) -> None:
    build(source)
    (folder,) = stores(cache)
    leftover = tmp_path / "cache" / f".building-{folder.name}-x"
    leftover.mkdir()
    (leftover / STEPS).write_bytes(b"half")
    os.utime(source.file, ns=(0, 0))
    build(source)
    assert stores(cache) == [folder]


def test_two_that_ask_at_once_build_once(source: Logs, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly() -> Iterator[Record]:
        time.sleep(0.2)
        yield from Logs.records(source)

    monkeypatch.setattr(source, "records", slowly)
    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(build, [source, source])
    assert source.times_read == 1
    assert fingerprint(one) == fingerprint(other)


def test_who_has_mapped_what_is_replaced_keeps_it(source: Logs, build: Build) -> None:
    before = build(source)
    first = np.array(before.episodes[0].actions)
    os.utime(source.file, ns=(0, 0))
    source.given = make_episodes(seed=1)
    build(source)
    np.testing.assert_array_equal(before.episodes[0].actions, first)


# What is refused --------------------------------------------------------------


def test_a_bad_episode_is_refused_and_leaves_nothing(build: Build, cache: Path, tmp_path: Path) -> None:
    good = make_episodes(n_tasks=1, n_episodes=1)[0]
    spoilt = {"observations": good.observations * np.nan, "source": "logs, episode 3"}
    bad = Episode.trusted(**{**vars(good), **spoilt})
    with refused("logs, episode 3: `observations` holds"):
        build(Logs(tmp_path / "source", [good, bad]))
    assert stores(cache) == []


def test_sentences_for_what_is_not_there_are_refused(source: Logs, build: Build) -> None:
    told = Logs(source.file, source.given, reading=Reading({"task-9": "do it"}))
    with refused(r"`task_texts` speaks of 'task-9', but"):
        build(told)


def test_a_source_of_no_file_is_refused(source: Logs, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "files", list)
    with refused("memory is no file, so that a change of it could not be noticed"):
        build(source)
    with refused("names no data set"):
        build([])


def test_clipped_actions_are_said_when_it_is_built(build: Build, tmp_path: Path) -> None:
    episode = make_episodes(n_tasks=1, n_episodes=1)[0]
    loud = Episode(episode.observations, episode.actions * 9, episode.rewards)
    reading = Reading(clip=True)
    with warned("memory: .* actions lie outside .*, and were clipped"):
        data = build(Logs(tmp_path / "source", [loud], reading=reading))
    assert np.abs(data.episodes[0].actions).max() == 2.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(Logs(tmp_path / "source", [loud], reading=reading))


def test_too_many_actions_outside_are_refused_and_leave_nothing(build, cache, tmp_path):
    loud = make_episodes(n_tasks=1, n_episodes=1)[0]
    loud = Episode(loud.observations, loud.actions * 9, loud.rewards)
    with refused("memory: .* actions lie outside .* these are probably other units"):
        build(Logs(tmp_path / "source", [loud]))
    assert stores(cache) == []
