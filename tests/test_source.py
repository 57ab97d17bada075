"""`EpisodeSource`: whatever a file holds is read right or refused by source, episode and field."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from expect import refused, warned
from factories import make_episode
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from step_files import arrays, write_steps

from sb3_llmdpd.data.episode_source import AS_RECORDED, Record, read_sources
from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.loading import FORMATS, format_of, load_dataset, open_source, open_sources
from sb3_llmdpd.data.minari_writer import write_minari
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
    source = Logs([record(len(actions), seed, actions=actions)], reading=Reading(clip=True))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (episode,) = source.episodes()
    np.testing.assert_array_equal(episode.actions, np.clip(actions, -1, 1))
    said = [str(warning.message) for warning in caught]
    assert len(said) == (n_outside > 0)
    if n_outside:
        share = f"{n_outside} of {len(actions)} actions lie outside"
        assert said[0].startswith(f"logs: {share} the action space [-1, 1], by up to ")
        with refused(f"logs, episode {seed}: {share}"):
            list(Logs([record(len(actions), seed, actions=actions)], reading=Reading(strict=True)).episodes())


def outside(n_outside: int, n_steps: int = 100) -> Record:
    actions = np.zeros((n_steps, 2))
    actions[:n_outside, 0] = 1.5
    return record(n_steps, actions=actions)


def test_up_to_2_percent_of_the_actions_are_clipped_unasked() -> None:
    with warned(r"logs: 2 of 100 actions .*, by up to 0.5, and were clipped"):
        (episode,) = Logs([outside(2)]).episodes()
    assert episode.actions.max() == 1.0


def test_more_are_refused_behind_the_last_episode() -> None:
    episodes = Logs([outside(3), outside(0, 20)]).episodes()
    assert [len(next(episodes)), len(next(episodes))] == [100, 20]
    with refused(r"logs: 3 of 120 actions lie outside .*: these are probably other units. Say the bounds"):
        next(episodes)


def test_who_goes_on_without_bad_episodes_is_told_of_clipped_actions_by_a_warning() -> None:
    with warned(r"logs: 3 of 100 actions lie outside .*: these are probably other units. Say the bounds"):
        (episode,) = Logs([outside(3)]).episodes(refused=list[str]().append)
    assert episode.actions.max() == 1.0


def test_rounding_of_double_precision_is_not_clipping() -> None:
    source = Logs([record(actions=np.full((4, 2), 1.0 + 1e-9))])
    assert next(source.episodes()).actions.max() == 1.0  # and no warning, which would be an error


# Types of numbers -------------------------------------------------------------


def seen(rows: Any, space: spaces.Space[Any]) -> np.ndarray:
    """Read an episode with these observations from a source with this space."""
    (episode,) = Logs([record(len(rows) - 1, observations=np.asarray(rows))], space).episodes()
    return episode.observations


def space_of(dtype: Any, low: float = -np.inf, high: float = np.inf) -> spaces.Box:
    return spaces.Box(low, high, (1,), dtype)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.float16, np.float64, bool])
@pytest.mark.parametrize("space", [space_of(np.float32), space_of(np.float64)], ids=["float32", "float64"])
def test_any_numbers_in_a_space_of_floats_become_float32(dtype, space):
    rows = seen(np.array([[0], [1], [1]], dtype), space)
    np.testing.assert_array_equal(rows, np.array([[0], [1], [1]], np.float32), strict=True)


@pytest.mark.parametrize("sign", [-1, 1])
def test_whole_numbers_that_a_float_would_round_are_refused(sign):
    largest = sign * 2**24
    assert seen([[0], [largest]], space_of(np.float32))[1, 0] == largest
    message = rf"logs, episode 0: `observations` holds {largest + sign} at step 1, of int64, .*float32, which"
    with refused(f"{message} cannot hold it: .*a type that holds all of their numbers"):
        seen([[0], [largest + sign]], space_of(np.float32))


def test_floats_are_rounded_to_single_precision():
    np.testing.assert_array_equal(
        seen([[1 / 3], [2.0**24 + 1]], space_of(np.float32))[:, 0], [np.float32(1 / 3), 2**24]
    )


def test_bytes_stay_bytes():
    rows = seen(np.array([[0], [255]], np.uint8), space_of(np.uint8, 0, 255))
    np.testing.assert_array_equal(rows, np.array([[0], [255]], np.uint8), strict=True)


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float64])
def test_numbers_that_are_bytes_become_bytes_where_the_space_has_them(dtype):
    rows = seen(np.array([[0], [255]], dtype), space_of(np.uint8, 0, 255))
    np.testing.assert_array_equal(rows, np.array([[0], [255]], np.uint8), strict=True)


@pytest.mark.parametrize("value", [0.5, -1, 256])
def test_numbers_that_are_no_bytes_are_refused_in_a_space_of_bytes(value):
    with refused(rf"logs, episode 0: `observations` holds {value}.* at step 1, of .* the space is of uint8"):
        seen([[0], [value]], space_of(np.uint8, 0, 255))


def test_a_fraction_is_no_category():
    np.testing.assert_array_equal(seen([0.0, 2.0], spaces.Discrete(3)), np.array([0, 2]), strict=True)
    with refused(
        r"logs, episode 0: `observations` holds 0.5 at step 1, of float32, and the space is of int64"
    ):
        seen([0.0, 0.5], spaces.Discrete(3))


def test_the_entry_of_a_dict_that_does_not_fit_is_named():
    space = spaces.Dict({"arm": space_of(np.float32), "door": spaces.MultiBinary(1)})
    rows = {"arm": np.array([[0], [3]]), "door": np.array([[0.0], [1.0]])}
    (episode,) = Logs([record(1, observations=rows)], space).episodes()
    assert [episode.observations[key].dtype for key in ("arm", "door")] == [np.float32, np.int8]
    with refused(r"logs, episode 0: `observations\['door'\]` holds 0.5 at step 0"):
        list(Logs([record(1, observations={**rows, "door": np.array([[0.5], [1.0]])})], space).episodes())


@given(
    st.lists(st.sampled_from([np.int16, np.int64, np.uint8, np.float32, np.float64]), min_size=2, max_size=4)
)
def test_episodes_of_several_types_have_one_type_when_they_are_read(dtypes):
    records = [record(observations=np.arange(15).reshape(5, 3).astype(dtype)) for dtype in dtypes]
    for episode in read_sources([Logs(records)]).episodes:
        expected = np.arange(15, dtype=np.float32).reshape(5, 3)
        np.testing.assert_array_equal(episode.observations, expected, strict=True)


# Spaces -----------------------------------------------------------------------


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
    with refused(r"`task_texts` speaks of 'c', but the data sets are logs, and their tasks 'a'$"):
        read_sources([Logs([record(task="a")], reading=Reading({"c": "do it"}))])


def test_sentences_for_many_that_are_not_there_are_refused_in_few_words() -> None:
    records = [record(1, number, task=f"task-{number}") for number in range(1_200)]
    texts = {f"toss-{number}": "toss it" for number in range(1_200)}
    with refused(
        r"speaks of 'toss-0', .* and 1,188 more, but .*, and their tasks 'task-0', .* and 1,188 more$"
    ) as told:
        read_sources([Logs(records, reading=Reading(texts))])
    assert len(str(told.value)) < 600


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


# Options ----------------------------------------------------------------------


@pytest.fixture
def steps(tmp_path: Path) -> str:
    return str(write_steps(tmp_path / "logs.npz", **arrays(ends=(2, 5))))


def test_an_option_that_is_none_of_any_format_is_a_type_error(steps):
    with refused(r"unknown option 'max_steps' of data; known are root, .*max_episode_steps", TypeError):
        load_dataset(steps, max_steps=3)


@pytest.mark.parametrize(
    ("option", "formats"),
    [
        (dict(scaled_actions=True), "sb3"),
        (dict(scaled_actions=False), "sb3"),
        (dict(observation_key=["a"]), "lerobot, robomimic"),
        (dict(action_key=["a"]), "lerobot"),
    ],
)
def test_an_option_of_other_formats_is_refused(steps, option, formats):
    (name,) = option
    with refused(rf"`{name}` is an option of {formats}, and the data are npz"):
        load_dataset(steps, **option)


def test_an_option_that_one_of_several_formats_has_is_taken_by_that(steps, tmp_path):
    space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    episode = make_episode(observations=np.zeros((5, 2)), actions=np.zeros((4, 1)))
    write_minari("lab/a-v0", [episode], space, spaces.Box(-1.0, 1.0, (1,), np.float32), root=tmp_path)
    sources = open_sources([steps, "lab/a-v0"], root=tmp_path, max_episode_steps=3)
    assert [source.kind for source in sources] == ["npz", "minari"]


@pytest.mark.parametrize("option", [dict(root="nowhere"), dict(allow_pickle=True), dict(scaled_actions=None)])
def test_what_says_where_data_lie_or_what_is_allowed_may_be_said_of_any_format(steps, option):
    assert load_dataset(steps, **option).n_steps == 6
