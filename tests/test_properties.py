"""Properties of episodes, data sets, buffers, prompts and spaces that hypothesis draws."""

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from expect import refused
from factories import EPISODE, STEP, TASK, make_buffer, model_of, traced
from gymnasium import spaces
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from toys import SpacesEnv

from sb3_llmdpd import LLMDPD, Episode, OfflineDataset
from sb3_llmdpd.data.checks import entries_of
from sb3_llmdpd.data.episodes import STEPS_AFTER_SUCCESS
from sb3_llmdpd.llmdpd.prompter import as_prompts
from sb3_llmdpd.prompts.prompt import Trajectory, take

NUMBERS = [np.float16, np.float32, np.float64, np.int8, np.uint8, np.uint16, np.int32, np.int64, np.bool_]
SOURCE = "logs, episode 7"
seeds = st.integers(0, 2**32 - 1)
shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)


def array(seed: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    return (np.random.default_rng(seed).uniform(0, 100, shape)).astype(dtype)


# Episode ----------------------------------------------------------------------


@st.composite
def sound_arrays(draw: st.DrawFn) -> dict[str, Any]:
    """The arrays of an episode that nothing is wrong with."""
    n_steps, seed = draw(st.integers(1, 6)), draw(seeds)

    def observations() -> np.ndarray:
        return array(seed, (n_steps + 1, *draw(shapes)), draw(st.sampled_from(NUMBERS)))

    keys = draw(st.none() | st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True))
    return dict(
        observations=observations() if keys is None else {key: observations() for key in keys},
        actions=array(seed + 1, (n_steps, *draw(shapes.filter(len))), draw(st.sampled_from(NUMBERS))),
        rewards=array(seed + 2, (n_steps,), draw(st.sampled_from(NUMBERS))),
    )


def stored(given_array: np.ndarray, always_float: bool) -> np.ndarray:
    return given_array.astype(np.float32) if always_float or given_array.dtype.kind == "f" else given_array


@given(sound_arrays())
def test_an_episode_keeps_what_it_is_given(arrays: dict[str, Any]) -> None:
    episode = Episode(**arrays, source=SOURCE)
    kept_rows, given_rows = entries_of(episode.observations), entries_of(arrays["observations"])
    assert list(kept_rows) == list(given_rows)
    pairs = [(kept_rows[key], stored(value, False)) for key, value in given_rows.items()]
    pairs += [(getattr(episode, name), stored(arrays[name], True)) for name in ("actions", "rewards")]
    for kept, expected in pairs:
        assert kept.dtype == expected.dtype
        assert_array_equal(kept, expected)
        assert not kept.flags.writeable


FAULTS: dict[str, Callable[[np.ndarray, int], Any]] = {
    "NaN": lambda a, seed: _with(a, seed, np.nan),
    "infinite": lambda a, seed: _with(a, seed, -np.inf),
    "too large for float32": lambda a, seed: _with(a, seed, 1e300),
    "a row too many": lambda a, seed: np.concatenate([a, a[-1:]]),
    "a row too few": lambda a, seed: a[:-1],
    "no row": lambda a, seed: a[:0],
    "a number": lambda a, seed: a.ravel()[0],
    "complex": lambda a, seed: a.astype(complex),
    "strings": lambda a, seed: a.astype(str),
    "objects": lambda a, seed: a.astype(object),
    "None": lambda a, seed: None,
    "dates": lambda a, seed: a.astype("datetime64[s]"),
}


def _with(values: np.ndarray, seed: int, value: float) -> np.ndarray:
    changed = values.astype(np.float64)
    changed.flat[seed % changed.size] = value
    return changed


@given(
    sound_arrays(),
    st.sampled_from(sorted(FAULTS)),
    st.sampled_from(["observations", "actions", "rewards"]),
    seeds,
)
def test_one_fault_anywhere_is_refused_with_a_sentence_that_names_source_and_field(
    arrays: dict[str, Any], fault: str, field: str, seed: int
) -> None:
    value, key = arrays[field], None
    if isinstance(value, dict):
        key = sorted(value)[seed % len(value)]
        value = value[key]
    wrong = FAULTS[fault](value.astype(np.int64) if fault == "dates" else value, seed)
    fields = rf"^{SOURCE}: .*`(observations|actions|rewards)"
    with pytest.raises((ValueError, TypeError), match=fields) as caught:
        Episode(**{**arrays, field: wrong if key is None else {**arrays[field], key: wrong}}, source=SOURCE)
    # Which of two lengths is wrong nobody knows; any other fault is of one field.
    name = f"`{field}`" if key is None else f"`{field}[{key!r}]`"
    assert "row" in fault or name in str(caught.value)


@given(st.integers(1, 40), st.integers(0, 39), st.booleans())
def test_an_example_ends_shortly_after_the_success(length: int, first_success: int, as_dict: bool) -> None:
    assume(first_success < length)
    steps = np.arange(length + 1.0)[:, None]
    observations: Any = {"a": steps, "b": -steps} if as_dict else steps
    episode = Episode(observations, steps[:-1], np.zeros(length), first_success=first_success)
    trajectory = Trajectory.of(episode)
    shown = min(length, first_success + 1 + STEPS_AFTER_SUCCESS)
    assert len(trajectory) == shown
    for more in (0, 1):  # as a pair, with or without what followed the last action
        pair = Trajectory.of((take(observations, slice(0, shown + more)), steps[:shown]))
        assert_array_equal(pair.actions, trajectory.actions)
        for key, rows in entries_of(trajectory.observations).items():
            assert_array_equal(entries_of(pair.observations)[key], rows)


# Data sets --------------------------------------------------------------------


lows_and_widths = st.lists(st.tuples(st.floats(-50, 50), st.floats(0.01, 50)), min_size=1, max_size=4)


@given(lows_and_widths, st.booleans(), seeds)
def test_actions_are_taken_within_the_bounds_of_each_entry_and_refused_beyond(
    bounds: list[tuple[float, float]], outside: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    low = np.array([low for low, _ in bounds], np.float32)
    space = spaces.Box(low, low + np.array([width for _, width in bounds], np.float32))
    actions = rng.uniform(space.low, space.high, (5, len(bounds)))
    actions[0], actions[1] = space.low, space.high
    if outside:
        entry = seed % len(bounds)
        actions[seed % 5, entry] = space.high[entry] + (1 + abs(space.high[entry])) * rng.uniform(0.001, 10)
    episode = Episode(np.zeros((6, 1)), actions, np.zeros(5), task=f"task {seed % 3}", source=SOURCE)
    other = Episode(np.zeros((3, 1)), np.tile(space.low, (2, 1)), np.zeros(2))
    if outside:
        with refused(f"{SOURCE}: 1 of 5 actions lie outside the action space"):
            OfflineDataset.from_episodes([other, episode], action_space=space)
    else:
        dataset = OfflineDataset.from_episodes([other, episode], action_space=space)
        assert (dataset.n_steps, dataset.tasks) == (7, ("task", f"task {seed % 3}"))


# Buffers ----------------------------------------------------------------------

one_episode = st.fixed_dictionaries(
    dict(
        length=st.integers(1, 8),
        goal=st.sampled_from(["a", "b", "c"]),
        success=st.sampled_from([True, False, None]),
        terminated=st.booleans(),
    )
)
many_tasks = st.lists(st.lists(one_episode, min_size=1, max_size=5), min_size=1, max_size=4)


buffer_options = st.fixed_dictionaries(
    dict(
        same_goal=st.booleans(),
        prompts_per_batch=st.integers(1, 5),
        prompt_window=st.integers(1, 6),
        examples_per_prompt=st.sampled_from([(1, 1), (1, 3), (2, 2), (3, 6)]),
        reward_scale=st.sampled_from(["none", "per_task"]),
        return_weight=st.sampled_from([0.0, 2.0, 50.0]),
        seed=seeds,
    )
)


@given(many_tasks, buffer_options, st.integers(1, 4))
def test_every_batch_of_every_buffer_is_sound(
    tasks: list[list[dict[str, Any]]], options: dict[str, Any], each: int
) -> None:
    """Each number carries its episode and step, see `traced`."""
    described = [(task, episode) for task, episodes in enumerate(tasks) for episode in episodes]
    episodes = [traced(task, number, **about) for number, (task, about) in enumerate(described)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of episodes that are alone
        buffer = make_buffer(episodes, **options)
    n_prompts = options["prompts_per_batch"]
    batch = buffer.sample(n_prompts * each)
    pools: dict[Any, list[int]] = {}
    for number, (task, about) in enumerate(described):
        pools.setdefault((task, about["goal"] if options["same_goal"] else None), []).append(number)
    pool_of = {number: numbers for numbers in pools.values() for number in numbers}

    seen = batch.observations.unflatten(0, (n_prompts, each)).long()  # (M, N, 3)
    window, (_, most) = options["prompt_window"], options["examples_per_prompt"]
    shown = batch.prompts.observations.unflatten(0, (n_prompts, most, window)).long()  # (M, E, L, 3)
    for m in range(n_prompts):
        numbers = set(seen[m, :, EPISODE].tolist())
        pool = pool_of[min(numbers)]
        assert numbers <= set(pool)
        assert bool(batch.prompts.has_trajectory[m]) == (len(pool) > 1 or len(episodes[pool[0]]) > 1)
        windows = shown[m, batch.prompts.lengths[m] > 0]
        if len(pool) == 1 and len(episodes[pool[0]]) > 1:  # a part that nothing is learned from is shown
            assert len(windows) == 1
            assert set(windows[..., EPISODE].flatten().tolist()) == {pool[0]}
            assert not set(windows[..., STEP].flatten().tolist()) & set(seen[m, :, STEP].tolist())
        if len(pool) > 1:
            assert set(windows[..., TASK].flatten().tolist()) == set(seen[m, :, TASK].tolist())
            assert (windows[..., EPISODE] == windows[:, :1, EPISODE]).all()
            examples = set(windows[:, 0, EPISODE].tolist())
            assert len(examples) == len(windows)
            assert examples <= set(pool) - numbers
            good = {number for number in pool if described[number][1]["success"] is not False}
            assert len(good) < 2 or examples <= good

    flat = seen.flatten(0, 1)
    steps, last = flat[:, STEP], th.tensor([len(episodes[number]) - 1 for number in flat[:, EPISODE]])
    terminated = th.tensor([described[number][1]["terminated"] for number in flat[:, EPISODE]])
    assert th.equal(batch.dones[:, 0], ((steps == last) & terminated).float())
    assert th.equal(batch.next_observations, batch.observations + th.tensor([0.0, 0.0, 1.0]))
    assert th.equal(batch.actions, batch.observations[:, EPISODE:] / 128.0)
    rewards = batch.observations[:, EPISODE] + batch.observations[:, STEP] / 256.0
    scales = th.ones(len(flat))
    if options["reward_scale"] == "per_task":
        scales = th.tensor([_root_mean_square(episodes, int(task)) for task in flat[:, TASK]])
    th.testing.assert_close(batch.rewards[:, 0] * scales.float(), rewards)
    for tensor in (batch.dones, batch.rewards, batch.actions, batch.observations):
        assert tensor.dtype == th.float32


def _root_mean_square(episodes: list[Episode], task: int) -> float:
    rewards = np.concatenate([one.rewards for one in episodes if one.task == f"task-{task}"])
    return float(np.sqrt(np.square(rewards.astype(np.float64)).mean())) or 1.0


# Prompts ----------------------------------------------------------------------

sentences = st.text("abc ", min_size=1, max_size=8).filter(str.strip)
some_texts = st.none() | sentences | st.lists(st.none() | sentences, max_size=4)
some_examples = st.none() | st.just("example") | st.lists(st.sampled_from([None, "example"]), max_size=4)
EXAMPLE = traced(0, 0, 3)


@given(some_texts, some_examples)
def test_sentences_and_examples_become_one_prompt_or_one_for_each_row(texts: Any, examples: Any) -> None:
    def read(example: Any) -> Any:
        if isinstance(example, list):
            return [read(entry) for entry in example]
        return EXAMPLE if example else None

    n_texts, n_examples = (len(value) if isinstance(value, list) else 1 for value in (texts, examples))
    if texts is None and examples is None:
        assert as_prompts(None, None, None) is None
    elif 0 in (n_texts, n_examples) or len({n_texts, n_examples} - {1}) > 1:
        with refused(f"got {n_texts} task texts and {n_examples} trajectories"):
            as_prompts(texts, read(examples), None)
    else:
        prompts = as_prompts(texts, read(examples), None)
        n = max(n_texts, n_examples)
        each_text = texts if isinstance(texts, list) else [texts]
        each_example = read(examples) if isinstance(examples, list) else [read(examples)]
        expected = [text and text.strip() for text in each_text * (n // n_texts)]
        assert [prompt.text for prompt in prompts] == expected
        assert [prompt.trajectory for prompt in prompts] == each_example * (n // n_examples)


# Spaces -----------------------------------------------------------------------

boxes = st.builds(
    lambda low, width, shape, dtype: spaces.Box(low, low + width, shape, dtype),
    st.integers(-5, 5),
    st.integers(1, 9),
    shapes.filter(len),
    st.sampled_from([np.float32, np.float64]),
)
byte_shapes = shapes.filter(lambda shape: 0 < len(shape) < 3)
plain_spaces = st.one_of(
    boxes,
    st.builds(spaces.Discrete, st.integers(1, 5)),
    st.builds(spaces.MultiDiscrete, st.lists(st.integers(1, 4), min_size=1, max_size=3)),
    st.builds(spaces.MultiBinary, st.integers(1, 4) | st.tuples(st.integers(1, 3), st.integers(1, 3))),
    st.builds(lambda shape: spaces.Box(0, 255, shape, np.uint8), byte_shapes),
)
observation_spaces = plain_spaces | st.dictionaries(
    st.sampled_from("abc"), plain_spaces, min_size=1, max_size=3
).map(spaces.Dict)


@settings(max_examples=12)
@given(observation_spaces, boxes)
def test_a_model_of_any_spaces_learns_acts_in_them_and_comes_back(
    space: spaces.Space[Any], action_space: spaces.Box
) -> None:
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    model, file = model_of(SpacesEnv(space, action_space), policy=policy).learn(1), io.BytesIO()
    observation = space.sample()
    for deterministic in (False, True):
        action, _ = model.predict(observation, deterministic=deterministic)
        assert action_space.contains(action)
    model.save(file)
    loaded = LLMDPD.load(io.BytesIO(file.getvalue()), device="cpu")
    assert_array_equal(loaded.predict(observation, deterministic=True)[0], action)
    assert (loaded.observation_space, loaded.action_space) == (space, action_space)
