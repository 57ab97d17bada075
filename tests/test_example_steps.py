"""The steps of several examples side by side, and their readers, against each example taken by itself."""

from collections.abc import Sequence

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from sb3_llmdpd.networks.attention import (
    FAR_AWAY,
    LOOK_AHEADS,
    NearestSteps,
    StateReader,
    TrajectoryAttention,
    _largest,
    nearest_steps,
)
from sb3_llmdpd.prompts.prompt_encoder import StepPlaces, example_keys, example_steps
from sb3_llmdpd.type_aliases import PromptEncoding

FEATURE, ACTION, TOKEN, N = 5, 2, 8, 4

Example = tuple[th.Tensor, th.Tensor]
"""States (length, FEATURE) and actions (length, ACTION)."""


def random_examples(*lengths: int) -> list[Example]:
    return [(th.randn(length, FEATURE), 2 * th.rand(length, ACTION) - 1) for length in lengths]


def lengths_of(prompts: Sequence[Sequence[Example]]) -> th.Tensor:
    """(M, E), zeros behind the last example of a prompt."""
    lengths = th.zeros(len(prompts), max(1, *map(len, prompts)), dtype=th.int64)
    for row, examples in zip(lengths, prompts, strict=True):
        row[: len(examples)] = th.tensor([len(states) for states, _ in examples], dtype=th.int64)
    return lengths


def side_by_side(prompts: Sequence[Sequence[Example]], n_unread: int = 0) -> tuple[th.Tensor, ...]:
    """Lay the examples of prompts out; numbers that would be noticed stand where there is no step.

    :param n_unread: rows behind the last step of the longest prompt
    :return: states (M, S, FEATURE), actions (M, S, ACTION), lengths (M, E)
    """
    lengths = lengths_of(prompts)
    n_steps = int(lengths.sum(dim=1).max()) + n_unread
    states, actions = (th.full((len(prompts), n_steps, dim), 7.0) for dim in (FEATURE, ACTION))
    for m, examples in enumerate(prompts):
        if examples:
            n = int(lengths[m].sum())
            states[m, :n], actions[m, :n] = map(th.cat, zip(*examples, strict=True))
    return states, actions, lengths


def encoded(prompts: Sequence[Sequence[Example]], n_unread: int = 0) -> PromptEncoding:
    """Encode prompts as they are; an encoded step is its state and action, and one more entry."""
    states, actions, lengths = side_by_side(prompts, n_unread)
    places = StepPlaces.of(lengths, states.shape[1])
    tokens = th.cat([states, actions, actions[..., :1]], dim=-1)
    steps, keys = example_steps(states, actions, places), example_keys(states, places.is_step)
    shown = lengths.sum(dim=1) > 0
    return PromptEncoding(th.zeros(len(prompts), 0), tokens, keys, steps, places.is_step, shown)


some_lengths = st.lists(st.lists(st.integers(1, 9), max_size=4), min_size=1, max_size=3)
"""Lengths of the examples of each prompt; a prompt may have none."""


@given(some_lengths, st.integers(0, 3))
def test_the_places_of_steps_count_anew_in_each_example(lengths, n_unread):
    table = lengths_of([random_examples(*of_prompt) for of_prompt in lengths])
    n_steps = int(table.sum(dim=1).max()) + n_unread
    places = StepPlaces.of(table, n_steps)
    for m, of_prompt in enumerate(lengths):
        expected = [(place, length) for length in of_prompt for place in range(length)]
        n = len(expected)
        assert places.is_step[m].tolist() == [True] * n + [False] * (n_steps - n)
        found = zip(places.place[m, :n].tolist(), places.length[m, :n].tolist(), strict=True)
        assert list(found) == expected


def test_without_any_example_no_row_is_a_step():
    places = StepPlaces.of(th.zeros(2, 0, dtype=th.int64), 3)
    assert not places.is_step.any()


def step_by_hand(example: Example, j: int) -> th.Tensor:
    """Read the j-th step of an example as nearest steps do, by the example alone."""
    states, actions = example
    length = len(states)
    ahead = [min(j + max(1, round(share * length)), length - 1) for share in LOOK_AHEADS]
    time = th.tensor([j / (length - 1) if length > 1 else 0.0])
    return th.cat([states[j], *(states[at] for at in ahead), actions[j], time])


@settings(max_examples=20)
@given(some_lengths)
def test_look_ahead_and_time_of_a_step_stay_in_its_own_example(lengths):
    prompts = [random_examples(*of_prompt) for of_prompt in lengths]
    states, actions, table = side_by_side(prompts, n_unread=1)
    steps = example_steps(states, actions, StepPlaces.of(table, states.shape[1]))
    for m, examples in enumerate(prompts):
        expected = [step_by_hand(example, j) for example in examples for j in range(len(example[0]))]
        for j, step in enumerate(expected):
            assert_close(steps[m, j], step)


def test_a_long_example_is_looked_ahead_in_as_far_as_its_share():
    ((states, actions),) = random_examples(64)
    steps = example_steps(states[None], actions[None], StepPlaces.of(th.tensor([[64]]), 64))[0]
    assert th.equal(steps[10, FEATURE : 2 * FEATURE], states[14])  # a sixteenth
    assert th.equal(steps[10, 2 * FEATURE : 3 * FEATURE], states[22])  # three sixteenths
    assert th.equal(steps[60, 2 * FEATURE : 3 * FEATURE], states[63])  # the last


def test_the_nearest_steps_are_those_of_the_smallest_distance_the_nearest_first():
    prompts = [random_examples(7, 4), random_examples(3, 9, 5)]
    states, _, lengths = side_by_side(prompts)
    is_step = StepPlaces.of(lengths, states.shape[1]).is_step
    features = th.randn(2, N, FEATURE)
    at, distances = nearest_steps(features, example_keys(states, is_step), n=6)
    for m, n_steps in enumerate(is_step.sum(dim=1)):
        apart = th.cdist(features[m], states[m, :n_steps]) / FEATURE**0.5
        nearest, places = apart.topk(6, dim=1, largest=False)
        assert th.equal(at[m], places)
        assert_close(distances[m], nearest, atol=1e-3, rtol=1e-3)


def test_what_is_no_step_lies_behind_all_steps_and_far_away():
    states, _, lengths = side_by_side([random_examples(2), random_examples(6)])
    is_step = StepPlaces.of(lengths, 6).is_step
    at, distances = nearest_steps(states.clone(), example_keys(states, is_step), n=6)
    assert (at[0, :, :2] < 2).all()
    assert (distances[0, :, 2:] > FAR_AWAY).all()
    assert (distances[:, :, :2] < FAR_AWAY).all()


def test_which_step_is_nearest_passes_no_gradient_on():
    states, features = (th.randn(1, n, FEATURE, requires_grad=True) for n in (6, N))
    keys = example_keys(states, th.ones(1, 6, dtype=th.bool))
    assert not nearest_steps(features, keys)[1].requires_grad


# Readers of several examples


def make_reader(name: str) -> StateReader:
    reader = {
        "cross_attention": lambda: TrajectoryAttention(FEATURE, TOKEN, n_heads=2),
        "nearest_steps": lambda: NearestSteps(FEATURE, ACTION),
        "retrieval": lambda: NearestSteps(FEATURE, ACTION, retrieves=True),
    }[name]()
    with th.no_grad():
        for weights in reader.parameters():
            weights += 0.1 * th.randn(weights.shape)
    return reader


READERS = ["cross_attention", "nearest_steps", "retrieval"]
BY_DISTANCE = READERS[1:]


def read_by_hand(reader: NearestSteps, state: th.Tensor, examples: Sequence[Example]) -> th.Tensor:
    """Weigh the steps of all examples one by one: the differences and the rest of each head."""
    steps = th.stack([step_by_hand(example, j) for example in examples for j in range(len(example[0]))])
    by_head = []
    for scales in reader.log_scales.exp():
        distances = (scales * (steps[:, :FEATURE] - state)).square().sum(dim=1)
        weights = th.exp(distances.min() - distances)
        mean = sum(w * step for w, step in zip(weights, steps, strict=True)) / sum(weights)
        n_ways = 1 + len(LOOK_AHEADS)
        differences = mean[: n_ways * FEATURE] - state.repeat(n_ways)
        fine = [] if reader.retrieves else [th.tanh(differences / 0.1)]
        by_head += [differences, *fine, mean[n_ways * FEATURE :]]
    return th.cat(by_head)


@pytest.mark.parametrize("name", BY_DISTANCE)
def test_all_steps_of_all_examples_are_weighed_together(name):
    """Retrieval weighs all of few steps as well."""
    reader = make_reader(name)
    prompts, features = [random_examples(7, 1, 4), random_examples(6)], th.randn(2, N, FEATURE)
    read = reader(features, encoded(prompts))
    for m, examples in enumerate(prompts):
        for n in range(N):
            expected = read_by_hand(reader, features[m, n], examples)
            assert_close(read[m, n, FEATURE : FEATURE + len(expected)], expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", READERS)
def test_the_order_of_the_examples_changes_nothing(name):
    reader, (one, two, three) = make_reader(name), random_examples(5, 8, 3)
    features = th.randn(2, N, FEATURE)
    read = reader(features, encoded([[one, two, three], [three, one, two]]))
    other = reader(features, encoded([[two, three, one], [two, one, three]]))
    assert_close(read, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", READERS)
def test_what_is_read_does_not_depend_on_the_examples_of_other_prompts(name):
    reader, features = make_reader(name), th.randn(4, N, FEATURE)
    prompts = [random_examples(3), random_examples(9, 2, 30), [], random_examples(5, 5)]
    together = reader(features, encoded(prompts, n_unread=2))
    for m, examples in enumerate(prompts):
        alone = reader(features[m : m + 1], encoded([examples]))
        assert_close(together[m : m + 1], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", READERS)
def test_rows_behind_the_last_step_are_not_read_and_learn_nothing(name):
    reader, prompts = make_reader(name), [random_examples(4, 2), random_examples(11)]
    states, actions, lengths = (part.clone() for part in side_by_side(prompts))
    unread = ~StepPlaces.of(lengths, 11).is_step
    for part in (states, actions):
        part.requires_grad_()
    places = StepPlaces.of(lengths, 11)
    steps, keys = example_steps(states, actions, places), example_keys(states, places.is_step)
    tokens = th.cat([states, actions, actions[..., :1]], dim=-1)
    encoding = encoded(prompts)._replace(tokens=tokens, keys=keys, steps=steps)
    read = reader(th.randn(2, N, FEATURE), encoding)
    gradients = th.autograd.grad((read * th.randn_like(read)).sum(), [states, actions])
    for gradient in gradients:
        assert gradient[unread].eq(0).all()
        assert gradient[~unread].abs().sum(dim=-1).ne(0).any()


@pytest.mark.parametrize("name", BY_DISTANCE)
def test_the_first_layer_of_a_network_reads_ragged_examples_as_the_reader_does(name):
    reader, features = make_reader(name), th.randn(3, N, FEATURE)
    layer, prompts = nn.Linear(reader.output_dim, 6), encoded([random_examples(4, 2), [], random_examples(9)])
    assert_close(reader.project(layer, features, prompts), layer(reader(features, prompts)))


def test_attention_to_several_examples_is_attention_to_their_joined_steps():
    reader, examples = make_reader("cross_attention"), random_examples(3, 6)
    joined = tuple(map(th.cat, zip(*examples, strict=True)))
    features = th.randn(1, N, FEATURE)
    assert_close(reader(features, encoded([examples])), reader(features, encoded([[joined]])))


# Retrieval


def nearest_part(reader: NearestSteps, read: th.Tensor) -> th.Tensor:
    """Action and nearness of the nearest step, which stand behind the heads: (M, N, ACTION + ...)."""
    of_head = (1 + len(LOOK_AHEADS)) * FEATURE + ACTION + 1
    return read[..., FEATURE + len(reader.log_scales) * of_head : -1]


def test_retrieval_reads_the_action_of_the_very_nearest_step():
    reader, prompts = make_reader("retrieval"), [random_examples(7, 4), random_examples(40)]
    features = th.randn(2, N, FEATURE)
    found = nearest_part(reader, reader(features, encoded(prompts)))[..., :ACTION]
    for m, examples in enumerate(prompts):
        states, actions = map(th.cat, zip(*examples, strict=True))
        assert_close(found[m], actions[th.cdist(features[m], states).argmin(dim=1)])


def test_the_nearness_of_the_nearest_step_is_one_there_and_falls_with_the_exponential_of_the_distance():
    reader, (example,) = make_reader("retrieval"), random_examples(1)
    away = th.tensor([0.0, 0.05, 0.1])[:, None]
    features = (example[0] + away)[None]  # (1, 3, FEATURE)
    nearness = nearest_part(reader, reader(features, encoded([[example]])))[0, :, ACTION:]
    assert_close(nearness[0], th.ones_like(nearness[0]), atol=0.05, rtol=0)
    assert_close(nearness[2], nearness[1].square(), atol=0.02, rtol=0)
    assert (nearness[1] < nearness[0]).all()


@pytest.mark.parametrize(("name", "is_read"), [("nearest_steps", True), ("retrieval", False)])
def test_retrieval_weighs_the_nearest_of_many_steps_alone(name, is_read):
    """Half of the steps lie about the states, half away; no other scale weighs them alike."""
    reader = make_reader(name)
    with th.no_grad():
        reader.log_scales.fill_(-4.0)
    states, actions = 0.1 * th.randn(200, FEATURE), th.rand(200, ACTION)
    states[100:] += 2.0
    changed = actions.clone()
    changed[100:] += 1.0
    features = 0.1 * th.randn(1, N, FEATURE)
    one, other = (reader(features, encoded([[(states, each)]])) for each in (actions, changed))
    assert th.allclose(one, other) != is_read


def test_retrieval_weighs_its_nearest_steps_as_all_steps_would_be_weighed():
    """Steps so far away that their weight is nothing may be left out or not."""
    reader, near, far = make_reader("retrieval"), *random_examples(10, 90)
    examples = [near, (far[0] + 100.0, far[1])]
    features = th.randn(1, N, FEATURE)
    read = reader(features, encoded([examples]))
    for n in range(N):
        expected = read_by_hand(reader, features[0, n], examples)
        assert_close(read[0, n, FEATURE : FEATURE + len(expected)], expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("n_numbers", [1_023, 1_024, 1_500, 5_000])
def test_the_largest_of_many_numbers_are_found_by_blocks_as_among_few(n_numbers):
    numbers = th.randn(2, 3, n_numbers, generator=th.Generator().manual_seed(0))
    found, expected = _largest(numbers, 32), numbers.topk(32, dim=-1)
    assert th.equal(found[0], expected.values)
    assert th.equal(found[1], expected.indices)
