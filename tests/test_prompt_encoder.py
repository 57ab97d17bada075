"""Encoded prompts: learned nulls for what is absent, and one encoding for each prompt."""

import pytest
import torch as th
from torch import nn
from torch.testing import assert_close

from sb3_llmdpd.prompts.prompt_encoder import PromptEncoder, TrajectoryEncoder
from sb3_llmdpd.type_aliases import PromptBatch

M, L, TEXT, FEATURE, ACTION = 4, 5, 7, 3, 2
TEXT_EMBEDDING, TRAJECTORY_EMBEDDING, TOKEN = 6, 8, 12

HAS_TEXT = th.tensor([True, True, False, False])
HAS_TRAJECTORY = th.tensor([True, False, True, False])


def make_encoder(text_dim: int = TEXT) -> PromptEncoder:
    return PromptEncoder(text_dim, FEATURE, ACTION, L, TEXT_EMBEDDING, TRAJECTORY_EMBEDDING, TOKEN, 1, 2)


def make_prompts(text_dim: int = TEXT) -> PromptBatch:
    """Four prompts: with both, text only, trajectory only, neither."""
    texts, observations, actions = th.randn(M, text_dim), th.randn(M * L, FEATURE), th.randn(M, L, ACTION)
    lengths = L * HAS_TRAJECTORY[:, None]
    return PromptBatch(texts, HAS_TEXT, observations, actions, lengths, HAS_TRAJECTORY)


def features_of(prompts: PromptBatch) -> th.Tensor:
    assert isinstance(prompts.observations, th.Tensor)
    return prompts.observations.view(M, L, FEATURE)


def test_the_null_text_stands_where_there_is_no_text():
    encoder, prompts = make_encoder(), make_prompts()
    text = encoder(prompts, features_of(prompts)).vectors[:, :TEXT_EMBEDDING]
    assert th.equal(text[2:], encoder.null_text.expand(2, -1))
    assert_close(text[:2], encoder.text(prompts.text_vectors[:2]))


def test_the_null_trajectory_stands_where_there_is_no_trajectory():
    encoder, prompts = make_encoder(), make_prompts()
    encoded = encoder(prompts, features_of(prompts))
    trajectory = encoded.vectors[:, TEXT_EMBEDDING:]
    assert th.equal(trajectory[[1, 3]], encoder.null_trajectory.expand(2, -1))
    assert_close(trajectory[[0, 2]], encoder.pool(encoded.tokens.mean(dim=1))[[0, 2]])


def test_what_an_absent_part_holds_changes_nothing():
    encoder, prompts = make_encoder(), make_prompts()
    before = encoder(prompts, features_of(prompts)).vectors
    prompts.text_vectors[~HAS_TEXT] = 1e3
    prompts.actions[~HAS_TRAJECTORY] = 1e3
    features_of(prompts)[~HAS_TRAJECTORY] = 1e3
    assert th.equal(before, encoder(prompts, features_of(prompts)).vectors)


def test_each_prompt_is_encoded_apart_from_the_others():
    encoder, prompts = make_encoder(), make_prompts()
    together = encoder(prompts, features_of(prompts))
    for m in range(M):
        own = slice(m, m + 1)
        features, actions, texts = features_of(prompts), prompts.actions[own], prompts.text_vectors[own]
        parts = features[m], actions, prompts.lengths[own], HAS_TRAJECTORY[own]
        alone = PromptBatch(texts, HAS_TEXT[own], *parts)
        encoded = encoder(alone, features[own])
        assert_close(encoded.vectors[0], together.vectors[m])
        assert_close(encoded.tokens[0], together.tokens[m])


def test_a_null_learns_only_from_the_prompts_that_use_it():
    encoder, prompts = make_encoder(), make_prompts()
    vectors = encoder(prompts, features_of(prompts)).vectors
    nulls = (encoder.null_text, encoder.null_trajectory)
    by_prompt = [th.autograd.grad(row.sum(), nulls, retain_graph=True) for row in vectors]
    assert [bool(text.any()) for text, _ in by_prompt] == (~HAS_TEXT).tolist()
    assert [bool(trajectory.any()) for _, trajectory in by_prompt] == (~HAS_TRAJECTORY).tolist()


def test_the_encoders_learn_only_from_the_prompts_that_have_something_to_read():
    encoder, prompts = make_encoder(), make_prompts()
    vectors = encoder(prompts, features_of(prompts)).vectors
    weights = (encoder.text[0].weight, encoder.trajectory.embed.weight)
    probe = th.randn(vectors.shape[1])  # a plain sum would vanish after the layer norm
    by_prompt = [th.autograd.grad((row * probe).sum(), weights, retain_graph=True) for row in vectors]
    assert [bool(text.any()) for text, _ in by_prompt] == HAS_TEXT.tolist()
    assert [bool(trajectory.any()) for _, trajectory in by_prompt] == HAS_TRAJECTORY.tolist()


def test_dropped_prompts_are_encoded_as_absent_ones():
    encoder, prompts = make_encoder(), make_prompts()
    dropped = prompts.dropped(th.tensor([True, False, False, False]), th.tensor([False, False, True, False]))
    assert dropped.has_text.tolist() == [False, True, False, False]
    assert dropped.has_trajectory.tolist() == [True, False, False, False]
    vectors = encoder(dropped, features_of(dropped)).vectors
    assert th.equal(vectors[0, :TEXT_EMBEDDING], encoder.null_text)
    assert th.equal(vectors[2, TEXT_EMBEDDING:], encoder.null_trajectory)


def test_dropping_leaves_the_prompts_as_they_were():
    prompts = make_prompts()
    prompts.dropped(th.ones(M, dtype=th.bool), th.ones(M, dtype=th.bool))
    assert prompts.has_text.tolist() == [True, True, False, False]


def test_a_model_without_text_gives_every_prompt_the_null_text():
    encoder, prompts = make_encoder(text_dim=0), make_prompts(text_dim=0)
    vectors = encoder(prompts._replace(has_text=th.zeros(M, dtype=th.bool)), features_of(prompts)).vectors
    assert th.equal(vectors[:, :TEXT_EMBEDDING], encoder.null_text.expand(M, -1))


def test_texts_and_trajectories_weigh_the_same():
    """Both parts end in a layer norm: a part whose inputs are a thousand times as large weighs no more."""
    encoder, prompts = make_encoder(), make_prompts()
    large = prompts._replace(text_vectors=1e3 * prompts.text_vectors)
    vectors = encoder(large, 1e3 * features_of(prompts)).vectors[0]
    assert vectors[:TEXT_EMBEDDING].square().mean().item() == pytest.approx(1.0, abs=1e-3)
    assert vectors[TEXT_EMBEDDING:].square().mean().item() == pytest.approx(1.0, abs=1e-3)


@pytest.fixture
def encoder() -> TrajectoryEncoder:
    return TrajectoryEncoder(FEATURE, ACTION, L, TOKEN, n_layers=1, n_heads=2)


def test_the_order_of_an_examples_steps_matters(encoder):
    steps = th.randn(1, L, FEATURE + ACTION)
    forwards, backwards = encoder(steps), encoder(steps.flip(1))
    assert (forwards.mean(dim=1) - backwards.mean(dim=1)).abs().max() > 1e-4


def test_the_trajectory_encoder_reads_actions_and_states_of_every_step(encoder):
    steps = th.randn(1, L, FEATURE + ACTION, requires_grad=True)
    (gradient,) = th.autograd.grad((encoder(steps).mean(dim=1) * th.randn(TOKEN)).sum(), steps)
    for part in gradient.split([FEATURE, ACTION], dim=2):
        assert (part.abs().sum(dim=2) > 1e-5).all()


def test_every_token_has_seen_every_step(encoder):
    steps = th.randn(1, L, FEATURE + ACTION, requires_grad=True)
    (first,) = th.autograd.grad((encoder(steps)[0, 0] * th.randn(TOKEN)).sum(), steps)
    assert (first.abs().sum(dim=2) > 1e-6).all()


def test_with_a_single_text_layer_words_add_up():
    """Before the layer norm, the vector of two words together is the sum of those of each."""
    encoder = PromptEncoder(6, 3, 2, 4, 8, 8, 8, 1, 2, n_text_layers=1)
    assert encoder.text is not None
    linear, norm = encoder.text
    row, column, nothing = th.randn(6), th.randn(6), th.zeros(6)
    assert_close(linear(row + column) + linear(nothing), linear(row) + linear(column))
    assert isinstance(norm, nn.LayerNorm)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_the_text_goes_through_as_many_layers_as_asked_for(n_layers):
    text = PromptEncoder(6, 3, 2, 4, 8, 8, 8, 1, 2, n_text_layers=n_layers).text
    pairs = [nn.SiLU, nn.Linear] * (n_layers - 1)
    assert [type(layer) for layer in text or []] == [nn.Linear, *pairs, nn.LayerNorm]


# Several examples of a prompt


def ragged() -> PromptBatch:
    """Four prompts with two examples, none, one and none; rows behind their steps are not to be read."""
    lengths = th.tensor([[L, L], [0, 0], [L, 0], [0, 0]])
    observations, actions = th.randn(M * 2 * L, FEATURE), th.randn(M, 2 * L, ACTION)
    shown = lengths.sum(dim=1) > 0
    return PromptBatch(th.randn(M, TEXT), HAS_TEXT, observations, actions, lengths, shown)


def encoded_trajectories(encoder: PromptEncoder, prompts: PromptBatch) -> th.Tensor:
    """(M, TRAJECTORY_EMBEDDING)."""
    features = prompts.observations.unflatten(0, prompts.actions.shape[:2])
    return encoder(prompts, features).vectors[:, TEXT_EMBEDDING:]


def test_several_examples_are_pooled_over_all_their_steps_each_encoded_by_itself():
    encoder, prompts = make_encoder(), ragged()
    features = prompts.observations.unflatten(0, prompts.actions.shape[:2])
    steps = th.cat([features, prompts.actions], dim=-1)
    first, second = (encoder.trajectory(part) for part in steps.split(L, dim=1))  # (M, L, TOKEN) each
    both = th.cat([first[0], second[0]]).mean(dim=0)
    trajectories = encoded_trajectories(encoder, prompts)
    assert_close(trajectories[0], encoder.pool(both))
    assert_close(trajectories[2], encoder.pool(first[2].mean(dim=0)))
    assert_close(encoder(prompts, features).tokens, th.cat([first, second], dim=1))


def test_the_order_of_examples_does_not_matter_to_their_vector():
    encoder, prompts = make_encoder(), ragged()
    swapped = prompts._replace(
        observations=prompts.observations.unflatten(0, (M, 2, L)).flip(1).flatten(0, 2),
        actions=prompts.actions.unflatten(1, (2, L)).flip(1).flatten(1, 2),
    )
    one, other = (encoded_trajectories(encoder, each)[0] for each in (prompts, swapped))
    assert_close(one, other)


def test_rows_behind_the_last_step_of_a_prompt_change_no_vector():
    encoder, prompts = make_encoder(), ragged()
    spoiled = prompts._replace(actions=prompts.actions.clone(), observations=prompts.observations.clone())
    spoiled.actions[2, L:] = 1e3
    spoiled.observations[(2 * 2 + 1) * L : 3 * 2 * L] = 1e3
    assert th.equal(*(encoded_trajectories(encoder, each) for each in (prompts, spoiled)))


def test_without_a_size_for_it_there_is_no_vector_of_an_example_and_its_steps_are_kept():
    encoder = PromptEncoder(TEXT, FEATURE, ACTION, L, TEXT_EMBEDDING, 0, TOKEN, 1, 2)
    prompts = ragged()
    encoding = encoder(prompts, prompts.observations.unflatten(0, (M, 2 * L)))
    assert encoding.vectors.shape == (M, TEXT_EMBEDDING)
    assert encoding.is_step.sum(dim=1).tolist() == [2 * L, 0, L, 0]
