"""The networks without a policy around them, each against torch's own layers or a computation by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch as th
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from sb3_llmdpd.networks.attention import NearestSteps, TrajectoryAttention, make_state_reader
from sb3_llmdpd.networks.layers import Denoiser, EnsembleLinear, Mish, QEnsemble, sinusoidal_embedding
from sb3_llmdpd.prompts.prompt_encoder import StepPlaces, example_keys, example_steps
from sb3_llmdpd.type_aliases import PromptEncoding

EVERYWHERE = th.cat([th.linspace(-12.0, 12.0, 501), th.tensor([-1e4, -100.0, -50.0, 50.0, 100.0, 1e4])])


def test_mish_is_torchs_mish():
    assert_close(Mish()(EVERYWHERE), F.mish(EVERYWHERE), rtol=2e-6, atol=1e-7)


def test_the_gradient_of_mish_is_torchs():
    x, y = EVERYWHERE.clone().requires_grad_(), EVERYWHERE.clone().requires_grad_()
    weights = 2 * th.rand(len(x)) - 1
    (Mish()(x) * weights).sum().backward()
    (F.mish(y) * weights).sum().backward()
    assert_close(x.grad, y.grad, rtol=0, atol=5e-6)  # 1 - w^2 loses digits where w is nearly 1


def test_first_and_second_derivative_of_mish_are_those_of_finite_differences():
    x = th.linspace(-6.0, 6.0, 25, dtype=th.float64, requires_grad=True)
    assert th.autograd.gradcheck(Mish(), (x,))
    assert th.autograd.gradgradcheck(Mish(), (x,))


M, N, ACTION, FEATURE, PROMPT, WIDTH = 3, 4, 2, 5, 6, 8


def make_denoiser(layer_norm: bool = False) -> Denoiser:
    return Denoiser(ACTION, FEATURE, PROMPT, 5, [WIDTH, 7], Mish, layer_norm)


def make_inputs() -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """Features, prompt vectors and actions."""
    return th.randn(M, N, FEATURE), th.randn(M, PROMPT), th.randn(M, N, ACTION)


def first_layer(network: Denoiser | QEnsemble) -> th.Tensor:
    """Join the maps of `make_inputs` side by side: (width, FEATURE + PROMPT + ACTION)."""
    return th.cat([part.weight for part in (network.from_state, network.from_prompt, network.from_action)], 1)


def joined(features: th.Tensor, prompts: th.Tensor, actions: th.Tensor) -> th.Tensor:
    return th.cat([features, prompts[:, None].expand(M, N, PROMPT), actions], dim=-1)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_denoiser_is_a_perceptron_on_the_concatenation_of_its_inputs(layer_norm):
    denoiser, steps = make_denoiser(layer_norm), th.randint(5, (M, N))
    features, prompts, actions = make_inputs()
    shares = th.stack([denoiser.from_step(denoiser.step_table[k]) for k in steps.flatten()])
    hidden = F.linear(joined(features, prompts, actions), first_layer(denoiser), denoiser.from_state.bias)
    hidden = hidden + shares.view(M, N, WIDTH)
    layers = [layer for layer in denoiser.trunk if isinstance(layer, nn.Linear)]
    norms = [layer for layer in denoiser.trunk if isinstance(layer, nn.LayerNorm)]
    for i, layer in enumerate(layers):
        hidden = layer(F.mish(norms[i](hidden) if layer_norm else hidden))

    condition = denoiser.condition(denoiser.from_state(features), prompts)
    assert_close(denoiser(actions, denoiser.step_embeddings()[steps], condition), hidden)


def test_one_step_for_all_rows_is_the_same_as_that_step_in_each():
    denoiser = make_denoiser()
    actions = th.randn(M, N, ACTION)
    condition = denoiser.condition(th.randn(M, N, WIDTH), th.randn(M, PROMPT))
    steps = denoiser.step_embeddings()
    in_each = denoiser(actions, steps[th.full((M, N), 3)], condition)
    assert_close(denoiser(actions, steps[3], condition), in_each)


def test_the_denoiser_tells_the_steps_apart():
    denoiser = make_denoiser()
    actions, condition = th.randn(1, 1, ACTION), th.zeros(1, 1, WIDTH)
    predicted = [denoiser(actions, embedding, condition)[0] for embedding in denoiser.step_embeddings()]
    assert th.pdist(th.cat(predicted)).min() > 1e-5


def test_a_prompt_reaches_its_own_rows_only():
    denoiser = make_denoiser()
    features, prompts, actions = make_inputs()
    condition = denoiser.condition(denoiser.from_state(features), prompts.requires_grad_())
    denoiser(actions, denoiser.step_embeddings()[0], condition)[1].sum().backward()
    assert prompts.grad is not None
    assert prompts.grad.abs().sum(dim=1).ne(0).tolist() == [False, True, False]


def test_the_step_embedding_is_that_of_vaswani():
    # Frequencies from 1 to 1 / 10000, evenly spaced in their logarithm: 1, 1 / 100, 1 / 10000.
    expected = [np.sin(3.0), np.sin(3e-2), np.sin(3e-4), np.cos(3.0), np.cos(3e-2), np.cos(3e-4)]
    assert_close(sinusoidal_embedding(4, 6)[3], th.tensor(expected, dtype=th.float32))


def test_the_table_of_step_embeddings_is_no_weight():
    assert "step_table" not in make_denoiser().state_dict()


def make_ensemble(layer_norm: bool = False) -> QEnsemble:
    return QEnsemble(ACTION, FEATURE, PROMPT, 3, [WIDTH, 7], Mish, layer_norm)


def values_of(ensemble: QEnsemble, state: th.Tensor, prompts: th.Tensor, actions: th.Tensor) -> th.Tensor:
    return ensemble(ensemble.condition(state, prompts), actions)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_each_member_is_a_perceptron_of_its_own(layer_norm):
    ensemble = make_ensemble(layer_norm)
    features, prompts, actions = make_inputs()
    expected = []
    for j in range(3):
        own = slice(j * WIDTH, (j + 1) * WIDTH)
        weight, bias = first_layer(ensemble)[own], ensemble.from_state.bias[own]
        hidden = F.linear(joined(features, prompts, actions), weight, bias)
        for layer in ensemble.trunk:
            if isinstance(layer, EnsembleLinear):
                hidden = F.mish(F.layer_norm(hidden, hidden.shape[-1:]) if layer_norm else hidden)
                hidden = F.linear(hidden, layer.weight[j].T, layer.bias[j, 0])
        expected.append(hidden.squeeze(-1))
    assert_close(values_of(ensemble, ensemble.from_state(features), prompts, actions), th.stack(expected))


def test_the_value_of_one_member_moves_no_weight_of_another():
    ensemble = make_ensemble()
    features, prompts, actions = make_inputs()
    values_of(ensemble, ensemble.from_state(features), prompts, actions)[1].sum().backward()
    for name, parameter in ensemble.named_parameters():
        assert parameter.grad is not None
        by_member = parameter.grad.view(3, -1).abs().sum(dim=1)  # in every first axis
        assert by_member.ne(0).tolist() == [False, True, False], name


def test_members_start_at_different_values():
    ensemble = make_ensemble()
    state = ensemble.from_state(th.randn(1, 1, FEATURE))
    values = values_of(ensemble, state, th.randn(1, PROMPT), th.randn(1, 1, ACTION)).flatten()
    assert th.pdist(values[:, None]).min() > 1e-3


def test_a_layer_of_the_ensemble_starts_as_wide_as_torchs_linear():
    layer = EnsembleLinear(2, 100, 300)
    assert layer.weight.abs().max().item() == pytest.approx(0.1, rel=1e-3)
    assert layer.weight.std().item() == pytest.approx(nn.Linear(100, 300).weight.std().item(), rel=0.02)


def test_values_stand_prompt_after_prompt():
    """Row n of prompt m is the value of that pair, computed alone."""
    ensemble = make_ensemble()
    state, prompts, actions = th.randn(M, N, 3 * WIDTH), th.randn(M, PROMPT), th.randn(M, N, ACTION)
    values = values_of(ensemble, state, prompts, actions)
    for m, n in ((0, 0), (1, 3), (2, 1)):
        alone = values_of(ensemble, state[m, n][None, None], prompts[m][None], actions[m, n][None, None])
        assert_close(values[:, m, n], alone[:, 0, 0])


TOKEN, L = 8, 6


NOTHING = th.zeros(M, L, 0)
ALL_STEPS = th.ones(M, L, dtype=th.bool)


def encoded(tokens: th.Tensor = NOTHING, has_trajectory: Sequence[bool] = (True,) * M) -> PromptEncoding:
    """Make prompts whose encoded steps are read."""
    return PromptEncoding(th.zeros(M, 0), tokens, NOTHING, NOTHING, ALL_STEPS, th.tensor(has_trajectory))


def stepwise(
    states: th.Tensor, actions: th.Tensor, has_trajectory: Sequence[bool] = (True,) * M
) -> PromptEncoding:
    """Make prompts of one example each, whose steps are read as they are."""
    n_steps = states.shape[1]
    places = StepPlaces.of(th.full((M, 1), n_steps), n_steps)
    steps, keys = example_steps(states, actions, places), example_keys(states, places.is_step)
    shown = th.tensor(has_trajectory)
    return PromptEncoding(th.zeros(M, 0), steps[..., :0], keys, steps, places.is_step, shown)


def make_cross_attention() -> TrajectoryAttention:
    attention = TrajectoryAttention(FEATURE, TOKEN, n_heads=2)
    nn.init.normal_(attention.null)
    return attention


def test_attention_is_torchs_multi_head_attention():
    attention = make_cross_attention()
    reference = nn.MultiheadAttention(TOKEN, 2, batch_first=True)
    features, tokens = th.randn(M, N, FEATURE), th.randn(M, L, TOKEN)
    with th.no_grad():
        reference.in_proj_weight.copy_(th.cat([th.eye(TOKEN), attention.key_value.weight]))
        reference.in_proj_bias.copy_(th.cat([th.zeros(TOKEN), attention.key_value.bias]))
        reference.out_proj.load_state_dict(attention.output.state_dict())
    expected, _ = reference(attention.query(features), tokens, tokens)
    assert_close(attention(features, encoded(tokens)), th.cat([features, expected], dim=-1))


def test_where_there_is_no_example_attention_gives_the_learned_null_which_learns_only_there():
    attention = make_cross_attention()
    prompts = encoded(th.randn(M, L, TOKEN), has_trajectory=[True, False, True])
    context = attention(th.randn(M, N, FEATURE), prompts)[..., FEATURE:]
    assert th.equal(context[1], attention.null.expand(N, TOKEN))
    assert not th.isclose(context[0], attention.null).any()
    used, unused = (th.autograd.grad(context[m].sum(), attention.null, retain_graph=True)[0] for m in (1, 0))
    assert_close(used, th.full((TOKEN,), float(N)))
    assert_close(unused, th.zeros(TOKEN))


def test_a_state_attends_to_the_example_of_its_own_prompt():
    attention = make_cross_attention()
    tokens = th.randn(M, L, TOKEN, requires_grad=True)
    attention(th.randn(M, N, FEATURE), encoded(tokens))[2].sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.flatten(1).abs().sum(dim=1).ne(0).tolist() == [False, False, True]


def far_apart(n_steps: int = L) -> tuple[th.Tensor, th.Tensor]:
    """States so far from each other that the nearest has all the weight, and actions."""
    return 100.0 * th.randn(M, n_steps, FEATURE), th.rand(M, n_steps, ACTION)


def read_steps(features: th.Tensor, prompts: PromptEncoding) -> tuple[th.Tensor, ...]:
    """Split the first head's part: ways to the nearest step and those ahead; the same, fine; action; time."""
    reader = NearestSteps(FEATURE, ACTION)
    sizes = [FEATURE] * 7 + [ACTION, 1]
    read = reader(features, prompts)
    assert read.shape[-1] == reader.output_dim
    return read[..., : sum(sizes)].split(sizes, dim=-1)


def test_a_state_is_read_as_its_difference_to_the_nearest_step_and_to_those_ahead():
    """Ahead lie a sixteenth and three sixteenths of the example: of 16 steps, one and three."""
    states, actions = far_apart(16)
    features = states[:, [0, 13]] + 0.1  # N = 2 states, near the first and the fourteenth step
    read = read_steps(features, stepwise(states, actions))
    plain, way, sixteenth_ahead, three_ahead, *_, nearest_actions, time = read
    assert plain.eq(0).all()
    assert_close(way, th.full_like(way, -0.1), atol=1e-4, rtol=0)
    assert_close(sixteenth_ahead, states[:, [1, 14]] - features, atol=1e-4, rtol=0)
    assert_close(three_ahead, states[:, [3, 15]] - features, atol=1e-4, rtol=0)  # 15 is the last
    assert_close(nearest_actions, actions[:, [0, 13]])
    assert_close(time.squeeze(-1), th.tensor([0.0, 13 / 15]).expand(M, 2))


def test_differences_are_read_once_more_at_a_tenth_of_a_standard_deviation():
    prompts = stepwise(th.randn(M, L, FEATURE), th.randn(M, L, ACTION))
    _, *differences, _actions, _time = read_steps(th.randn(M, N, FEATURE), prompts)
    for difference, fine in zip(differences[:3], differences[3:], strict=True):
        assert_close(fine, th.tanh(difference / 0.1))


def test_steps_weigh_by_a_gaussian_of_their_scaled_distance():
    """The action of step j is 1 in entry j and 0 in all others: the actions that are read are the weights."""
    reader, actions = NearestSteps(FEATURE, L), th.eye(L).expand(M, L, L)
    nn.init.normal_(reader.log_scales)
    states, features = th.randn(M, L, FEATURE), th.randn(M, N, FEATURE)
    by_head = reader(features, stepwise(states, actions))[..., FEATURE:-1].unflatten(-1, (3, -1))
    weights = by_head[..., -1 - L : -1].transpose(1, 2)  # (M, heads, N, L)
    scales = reader.log_scales.exp()[:, None, None]  # (heads, 1, 1, FEATURE)
    differences = (features[:, None, :, None] - states[:, None, None]) * scales  # (M, heads, N, L, FEATURE)
    expected = th.exp(-differences.square().sum(-1))
    assert_close(weights, expected / expected.sum(-1, keepdim=True))


def test_without_an_example_the_state_is_read_as_it_is():
    features = th.randn(M, N, FEATURE)
    prompts = stepwise(*far_apart(), has_trajectory=[True, False, True])
    read = NearestSteps(FEATURE, ACTION)(features, prompts)
    assert th.equal(read[1, :, :FEATURE], features[1])
    assert read[1, :, FEATURE:].eq(0).all()
    assert read[[0, 2], :, :FEATURE].eq(0).all()
    assert read[..., -1].tolist() == [[1.0] * N, [0.0] * N, [1.0] * N]


@pytest.mark.parametrize("retrieves", [False, True])
@pytest.mark.parametrize("shown", [[True, False, True], [True] * M, [False] * M])
def test_the_first_layer_of_a_network_is_the_same_where_zeros_are_left_out(shown, retrieves):
    reader = NearestSteps(FEATURE, ACTION, retrieves)
    layer = nn.Linear(reader.output_dim, WIDTH)
    features, states = (th.randn(M, n, FEATURE, requires_grad=True) for n in (N, L))
    actions = th.randn(M, L, ACTION, requires_grad=True)
    prompts, weights = stepwise(states, actions, shown), th.randn(M, N, WIDTH)
    left_out, whole = reader.project(layer, features, prompts), layer(reader(features, prompts))
    assert_close(left_out, whole)
    learned = [features, states, actions, *layer.parameters(), *reader.parameters()]
    gradients = [
        th.autograd.grad((weights * out).sum(), learned, retain_graph=True) for out in (left_out, whole)
    ]
    for of_left_out, of_whole in zip(*gradients, strict=True):
        assert_close(of_left_out, of_whole)


def test_what_is_read_does_not_move_with_the_origin():
    """Differences to the example mean the same wherever both are: so they do in a task that is new."""
    reader = NearestSteps(FEATURE, ACTION)
    states, actions, features = th.randn(M, L, FEATURE), th.rand(M, L, ACTION), th.randn(M, N, FEATURE)
    here = reader(features, stepwise(states, actions))
    there = reader(features + 2.5, stepwise(states + 2.5, actions))
    assert_close(here, there, atol=1e-3, rtol=1e-3)


def test_the_state_alone_is_read_as_it_is():
    features = th.randn(M, N, FEATURE)
    assert make_state_reader("concat", FEATURE, ACTION, TOKEN, 2)(features, encoded()) is features
