"""`EpisodeSource`: whatever a file holds is read right or refused by source, episode and field."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from expect import refused
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from sb3_llmdpd.data.episode_source import AS_RECORDED, Record, read_sources
from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.loading import FORMATS, format_of, load_dataset, open_source
from sb3_llmdpd.data.source import EpisodeSource, Reading  # the public path

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float64)
ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)


class Logs(EpisodeSource):
    """Records that a test made."""

    kind = "logs"

    def __init__(
        self,
        records: list[Record],
        space: Any = BOX,
        actions: Any = ACTIONS,
        reading: Reading = AS_RECORDED,
        name: str = "logs",
    ) -> None:
        super().__init__(name, space, actions, reading)
        self._records = records

    def files(self) -> list[Path]:
        return []

    def records(self) -> Iterator[Record]:
        yield from self._records


def record(n_steps: int = 4, seed: int = 0, **changes: Any) -> Record:
    rng = np.random.default_rng(seed)
    sound = {
        "observations": rng.normal(size=(n_steps + 1, 3)),
        "actions": rng.uniform(-1, 1, (n_steps, 2)),
        "rewards": rng.normal(size=n_steps),
        "source": f"logs, episode {seed}",
    }
    return {**sound, **changes}


# Trust nothing ----------------------------------------------------------------


def _with(array: np.ndarray, value: Any) -> np.ndarray:
    changed = np.array(array, dtype=np.float64)
    changed[len(changed) // 2] = value
    return changed


FAULTS: dict[str, tuple[str, Callable[[np.ndarray], Any]]] = {
    "NaN": ("observations", lambda a: _with(a, np.nan)),
    "infinite rewards": ("rewards", lambda a: _with(a, np.inf)),
    "infinite actions": ("actions", lambda a: _with(a, -np.inf)),
    "as many observations as actions": ("observations", lambda a: a[:-1]),
    "two observations more than actions": ("observations", lambda a: np.concatenate([a, a[:1]])),
    "a reward too few": ("rewards", lambda a: a[:-1]),
    "another observation": ("observations", lambda a: a[:, :2]),
    "another action": ("actions", lambda a: np.concatenate([a, a], axis=1)),
    "flat actions": ("actions", lambda a: a[:, 0]),
    "strings": ("actions", lambda a: a.astype(str)),
    "objects": ("observations", lambda a: a.astype(object)),
    "no step": ("actions", lambda a: a[:0]),
    "a number": ("rewards", lambda a: 0.5),
    "a dict": ("observations", lambda a: {"state": a}),
}


@given(st.sampled_from(sorted(FAULTS)), st.integers(1, 6), st.integers(0, 3), st.booleans())
def test_a_bad_episode_is_refused_by_source_episode_and_field_and_the_others_are_read(
    fault: str, n_steps: int, number: int, strict: bool
) -> None:
    field, spoil = FAULTS[fault]
    records = [record(n_steps, seed) for seed in range(4)]
    records[number][field] = spoil(records[number][field])
    source = Logs(records, reading=Reading(strict=strict))
    with pytest.raises((ValueError, TypeError), match=rf"^logs, episode {number}: .*{field}"):
        read_sources([source])
    refused: list[str] = []
    kept = list(source.episodes(refused.append))
    others = [f"logs, episode {seed}" for seed in range(4) if seed != number]
    assert [episode.source for episode in kept] == others
    assert len(refused) == 1
    assert refused[0].startswith(f"logs, episode {number}: ")


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.sampled_from([np.float64, np.float32, np.float16, np.int64, np.int8]),
    st.integers(0, 2**32 - 1),
)
def test_sound_episodes_of_any_dtype_are_read_as_they_are(lengths: list[int], dtype: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    records = []
    for number, n in enumerate(lengths):
        actions = np.clip(rng.normal(size=(n, 2)), -1, 1).astype(dtype)
        records.append(record(n, number, actions=actions, rewards=rng.normal(size=n).astype(dtype)))
    data = read_sources([Logs(records)])
    for episode, given_record in zip(data.episodes, records, strict=True):
        for name in ("observations", "actions", "rewards"):
            np.testing.assert_array_equal(getattr(episode, name), given_record[name].astype(np.float32))


@given(st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=12), st.integers(0, 5))
def test_actions_outside_are_clipped_and_counted_and_no_others(entries: list[float], seed: int) -> None:
    actions = np.array(entries[: len(entries) // 2 * 2], np.float32).reshape(-1, 2)
    n_outside = int((np.abs(actions) > 1).any(axis=1).sum())
    source = Logs([record(len(actions), seed, actions=actions)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (episode,) = source.episodes()
    np.testing.assert_array_equal(episode.actions, np.clip(actions, -1, 1))
    said = [str(warning.message) for warning in caught]
    assert len(said) == (n_outside > 0)
    if n_outside:
        share = f"{n_outside} of {len(actions)} actions"
        assert said[0].startswith(f"logs: {share} lay outside the action space [-1.0, 1.0]")
        with refused(f"logs, episode {seed}: {share} lie outside"):
            list(Logs([record(len(actions), seed, actions=actions)], reading=Reading(strict=True)).episodes())


def test_rounding_of_double_precision_is_not_clipping() -> None:
    source = Logs([record(actions=np.full((4, 2), 1.0 + 1e-9))])
    assert next(source.episodes()).actions.max() == 1.0  # and no warning, which would be an error


def test_mixed_spaces_are_refused_by_both_names() -> None:
    wide = spaces.Box(-np.inf, np.inf, (4,), np.float64)
    with refused(r"share their observation space: one has .*\(3,\).*, two has .*\(4,\)"):
        read_sources([Logs([record()], name="one"), Logs([], wide, name="two")])


def test_a_source_without_episodes_is_refused() -> None:
    with refused("one and two: the data set holds no episode"):
        read_sources([Logs([], name="one"), Logs([], name="two")])


def test_actions_that_are_no_box_are_refused() -> None:
    with refused(r"logs: the action space must be a Box of continuous actions, got Discrete\(3\)"):
        Logs([], actions=spaces.Discrete(3))


# Sentences --------------------------------------------------------------------


def test_a_given_sentence_goes_before_the_sources_own() -> None:
    records = [record(task="a", task_texts=("its own",)), record(task="b", task_texts=("its own",))]
    texts = {"a": "of the task", "logs": ["of the source", "and again"]}
    episodes = list(Logs(records, reading=Reading(texts)).episodes())
    assert [episode.task_texts for episode in episodes] == [("of the task",), ("of the source", "and again")]


def test_a_sentence_for_nobody_is_refused() -> None:
    with refused(r"`task_texts` speaks of \['c'\], but the data sets are \['logs'\] and their tasks \['a'\]"):
        read_sources([Logs([record(task="a")], reading=Reading({"c": "do it"}))])


# Dict observations ------------------------------------------------------------


def box(*shape: int) -> spaces.Box:
    return spaces.Box(-1, 1, shape, np.float64)


NESTED = spaces.Dict({"b": spaces.Dict({"y": box(2), "x": box(1, 2)}), "a": box(1)})


def nested_record(n_steps: int = 2) -> Record:
    rng = np.random.default_rng(0)
    rows = {"y": rng.normal(size=(n_steps + 1, 2)), "x": rng.normal(size=(n_steps + 1, 1, 2))}
    return record(n_steps, observations={"a": rng.normal(size=(n_steps + 1, 1)), "b": rows})


def test_flattened_observations_stand_in_gymnasiums_order() -> None:
    made = nested_record()
    source = Logs([made], NESTED, reading=Reading(flatten=True))
    (episode,) = source.episodes()
    for step in range(3):
        of_step = {
            "a": made["observations"]["a"][step],
            "b": {key: value[step] for key, value in made["observations"]["b"].items()},
        }
        expected = spaces.utils.flatten(NESTED, of_step).astype(np.float32)
        np.testing.assert_array_equal(episode.observations[step], expected)
    assert source.observation_space == spaces.Box(-1, 1, (5,), np.float32)


def test_nested_observations_that_are_not_flattened_are_refused_with_the_remedy() -> None:
    with refused(r"logs: observations must be one array or a flat Dict of arrays.*`flatten` makes one"):
        Logs([], NESTED)


def test_a_part_that_is_no_box_cannot_be_flattened() -> None:
    space = spaces.Dict({"door": spaces.Discrete(3), "place": spaces.Box(-1, 1, (2,), np.float64)})
    with refused(r"logs: only a Dict of Boxes can be flattened, and this one has a Discrete\(3\)"):
        Logs([], space, reading=Reading(flatten=True))


def test_a_missing_entry_is_refused_by_name() -> None:
    made = nested_record()
    del made["observations"]["b"]["x"]
    with refused(r"logs, episode 0: `observations` must be a dict with the keys \['x', 'y'\], got \['y'\]"):
        list(Logs([made], NESTED, reading=Reading(flatten=True)).episodes())


# Names ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("metaworld/push-v0", ("minari", "metaworld/push-v0")),
        ("minari:hopper.hdf5", ("minari", "hopper.hdf5")),
        ("data/hopper_medium-v2.hdf5", ("d4rl", "data/hopper_medium-v2.hdf5")),
        ("hopper.H5", ("d4rl", "hopper.H5")),
        ("d4rl:data/hopper", ("d4rl", "data/hopper")),
        ("logs.npz", ("npz", "logs.npz")),
        ("buffer.pkl", ("sb3", "buffer.pkl")),
        ("lerobot:data/pusht", ("lerobot", "data/pusht")),
        ("other:thing", ("minari", "other:thing")),
    ],
)
def test_the_format_is_read_off_a_name(name: str, expected: tuple[str, str]) -> None:
    assert format_of(name) == expected


def test_a_folder_with_lerobots_table_of_contents_is_one_of_its_data_sets(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text("{}")
    assert format_of(str(tmp_path)) == ("lerobot", str(tmp_path))


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "minari"])
def test_a_file_that_is_not_there_is_refused_by_its_name(kind: str, tmp_path: Path) -> None:
    with refused(r"nothing-here"):
        open_source(f"{kind}:{tmp_path}/nothing-here", allow_pickle=True)


def test_sources_episodes_and_data_sets_are_all_data_sets() -> None:
    source = Logs([record()])
    data = load_dataset(source)
    assert load_dataset([source]).n_steps == load_dataset(list(data.episodes)).n_steps == 4
    assert load_dataset(data) is data
    assert isinstance(data.episodes[0], Episode)
