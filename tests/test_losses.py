"""The losses against the paper's equations computed by hand, and which weights they may move."""

from typing import Any

import pytest
import torch as th
from factories import tiny_model
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.llmdpd.arguments import RANGES
from sb3_llmdpd.llmdpd.losses import StepNoise
from sb3_llmdpd.networks.attention import CONDITIONINGS, NearestSteps, StateReader
from sb3_llmdpd.type_aliases import Metrics, PromptBatch
from sb3_llmdpd.type_aliases import PromptReplayBufferSamples as Batch

N_PROMPTS, N_ROWS, N_STEPS = 3, 8, 5
"""M, N and K of `model`: a batch is 3 prompts with 8 transitions each, a chain has 5 steps."""

NETWORKS = ("actor", "actor_target", "critic", "critic_target", "state_value")


def make_model(**kwargs: Any) -> LLMDPD:
    """Make a model of moved weights: targets differ from what they follow, and heads from each other."""
    model, generator = tiny_model(gamma=0.9, **kwargs), th.Generator().manual_seed(0)
    with th.no_grad():
        for network in networks_of(model).values():
            for weights in network.parameters():
                weights += 0.3 * th.randn(weights.shape, generator=generator)
    return model


def networks_of(model: LLMDPD) -> dict[str, nn.Module]:
    return {name: getattr(model, name) for name in NETWORKS if getattr(model, name) is not None}


@pytest.fixture
def model() -> LLMDPD:
    return make_model()


@pytest.fixture
def batch(model: LLMDPD) -> Batch:
    """Every third transition ended its task, and not every prompt has both its parts."""
    batch = without_parts(model.replay_buffer.sample(N_PROMPTS * N_ROWS))
    return batch._replace(dones=(th.arange(24) % 3 == 0).float()[:, None])


def without_parts(batch: Batch) -> Batch:
    """Drop the text of the first of three prompts and the example of the second."""
    prompts = batch.prompts.dropped(th.tensor([True, False, False]), th.tensor([False, True, False]))
    return batch._replace(prompts=prompts)


def one_prompt(prompts: PromptBatch, m: int) -> PromptBatch:
    """Cut the m-th prompt out; its window of observations is as long as that of actions."""
    one, window = PromptBatch(*(part[m : m + 1] for part in prompts)), prompts.actions.shape[1]
    return one._replace(observations=prompts.observations[m * window : (m + 1) * window])


def noise_of(model: LLMDPD, batch: Batch) -> StepNoise:
    n_prompts = len(batch.prompts.has_text)
    n = len(batch.actions) // n_prompts
    return model.losses.draw_noise(n_prompts, n, n, model.generator)


def actor_loss(model: LLMDPD, batch: Batch, noise: StepNoise | None = None) -> tuple[th.Tensor, Metrics]:
    encoded = model.losses.encode_for_critic(batch)
    return model.losses.actor_loss(batch, encoded, noise or noise_of(model, batch))


def critic_loss(model: LLMDPD, batch: Batch, noise: StepNoise | None = None) -> tuple[th.Tensor, Metrics]:
    encoded = model.losses.encode_for_critic(batch)
    return model.losses.critic_loss(batch, encoded, noise or noise_of(model, batch))


class FixedCritic(nn.Module):
    """Head j always says ``values[j]``."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.n_critics = len(values)
        self.values = nn.Parameter(th.tensor(values))

    def forward(self, features: th.Tensor, prompts: Any, actions: th.Tensor) -> th.Tensor:
        return self.values[:, None, None] + 0.0 * actions.sum(dim=-1)


def record_calls(module: nn.Module) -> list[tuple[Any, ...]]:
    """Collect the inputs of each later call of a module."""
    calls: list[tuple[Any, ...]] = []
    module.register_forward_pre_hook(lambda _, inputs: calls.append(inputs))
    return calls


def test_the_critics_loss_is_the_squared_distance_to_the_target_by_hand(model, batch):
    """Eq. (6), row by row: r + gamma (1 - d) min_i Q'_i(s', a'), with a' of the EMA actor's chain."""
    drawn, losses = noise_of(model, batch), []
    for row in range(N_PROMPTS * N_ROWS):
        m, n = divmod(row, N_ROWS)
        state, next_state = batch.observations[row : row + 1], batch.next_observations[row : row + 1]
        with th.no_grad():
            prompt = model.actor_target.encode_prompts(one_prompt(batch.prompts, m))
            features = model.actor_target.encode_observations(state)[None]
            next_features = model.actor_target.encode_observations(next_state)[None]
            next_action = model.actor_target(next_state, prompt, drawn.next_actions[:, m : m + 1, n : n + 1])
            next_value = model.critic_target(next_features, prompt, next_action).min()
            target = batch.rewards[row, 0] + 0.9 * (1 - batch.dones[row, 0]) * next_value
            values = model.critic(features, prompt, batch.actions[row][None, None]).flatten()  # (n_critics,)
        losses.append((values - target).square().sum())
    assert_close(critic_loss(model, batch, drawn)[0].detach(), th.stack(losses).mean())


def test_a_transition_that_ended_its_task_is_worth_its_reward(model, batch):
    ended = batch._replace(dones=th.ones_like(batch.dones))
    assert_close(critic_loss(model, ended)[1]["target_q_value"], batch.rewards.mean())


def test_the_target_follows_the_least_of_the_target_critics(model, batch):
    model.policy.critic_target = FixedCritic(3.0, -2.0)
    expected = (batch.rewards + 0.9 * (1 - batch.dones) * -2.0).mean()
    assert_close(critic_loss(model, batch)[1]["target_q_value"], expected)


def test_the_critic_reads_the_ema_actors_encodings(model, batch):
    features, prompts = model.losses.encode_for_critic(batch)
    assert_close(features.flatten(0, 1), model.actor_target.encode_observations(batch.observations))
    assert_close(prompts.vectors, model.actor_target.encode_prompts(batch.prompts).vectors)


def test_the_cloning_loss_is_the_error_of_the_predicted_noise_by_hand(model, batch):
    """|| eps - eps_theta(sqrt(abar_k) a + sqrt(1 - abar_k) eps, k, s, z) ||^2, row by row."""
    drawn, errors = noise_of(model, batch), []
    for row in range(N_PROMPTS * N_ROWS):
        m, n = divmod(row, N_ROWS)
        noise, step = drawn.actions[m, n], drawn.times[m, n]
        abar = model.actor.process.alphas_bar[step]
        noisy_action = abar.sqrt() * batch.actions[row] + (1 - abar).sqrt() * noise
        features = model.actor.encode_observations(batch.observations[row : row + 1])[None]
        condition = model.actor.condition(features, model.actor.encode_prompts(one_prompt(batch.prompts, m)))
        predicted = model.actor.denoiser.given(condition)(noisy_action[None, None], step[None, None])
        errors.append((predicted.flatten() - noise).square())
    assert_close(model.losses.actor_loss(batch, None, drawn)[0], th.stack(errors).mean())


def test_the_actors_loss_is_cloning_plus_eta_times_the_q_term(batch):
    loss, metrics = actor_loss(make_model(eta=0.7), batch)
    assert_close(loss, metrics["bc_loss"] + 0.7 * metrics["q_loss"])


@pytest.mark.parametrize(
    ("values", "terms"),
    [((2.0, -5.0), {-2 / 5, 5 / 2}), ((2.0, -5.0, 8.0), {-2 / 5, 5 / 8, -8 / 2}), ((4.0,), {-1.0})],
    ids=["two heads", "three heads", "one head"],
)
def test_the_q_term_is_a_heads_value_by_the_size_of_anothers_each_in_turn(model, batch, values, terms):
    model.policy.critic = FixedCritic(*values)
    assert {round(actor_loss(model, batch)[1]["q_loss"].item(), 5) for _ in range(20)} == terms


def test_the_scale_of_the_q_term_is_the_mean_size_of_the_values_and_gets_no_gradient(model, batch):
    class Doubling(FixedCritic):
        def forward(self, features, prompts, actions):
            return th.stack([actions.sum(dim=-1), -4 * actions.sum(dim=-1)])

    action = th.full((N_PROMPTS, N_ROWS, 2), 0.5, requires_grad=True)
    model.policy.critic = Doubling(0.0, 0.0)
    loss = model.losses.q_loss(action, model.losses.encode_for_critic(batch), th.tensor(0))
    (gradient,) = th.autograd.grad(loss, action)
    # d/da of -Q_0 / E|Q_1| = -1 / 4 per row of 24; with the scale's own gradient it would be 0.
    assert round(gradient.sum().item() / 2, 5) == -0.25


def test_diffusion_ql_sends_a_gradient_to_every_step_of_the_chain(batch, monkeypatch):
    model, steps = tiny_model(), []
    for weights in model.actor.denoiser.trunk[-1].parameters():
        weights.data *= 0.05  # small predictions on small noise: a clipped action passes no gradient
    embed = model.actor.denoiser.step_embeddings
    monkeypatch.setattr(model.actor.denoiser, "step_embeddings", lambda: steps.append(embed()) or steps[-1])
    quiet = noise_of(model, batch)._replace(new_actions=th.zeros(N_STEPS, N_PROMPTS, N_ROWS, 2))
    q_loss = actor_loss(model, batch, quiet)[1]["q_loss"]
    (gradient,) = th.autograd.grad(q_loss, steps[-1])  # (K, width); the last call is the chain's
    assert (gradient.abs().sum(dim=1) > 0).tolist() == [True] * N_STEPS


@pytest.mark.parametrize(("objective", "n"), [("diffusion_ql", 1 + N_STEPS), ("action_approximation", 1)])
def test_the_denoiser_is_called_once_to_clone_and_for_each_step_of_a_chain(objective, n, batch):
    model = make_model(policy_objective=objective)
    calls = record_calls(model.actor.denoiser)
    actor_loss(model, batch)
    assert len(calls) == n


def test_action_approximation_values_the_action_from_which_the_noise_was_taken(batch, monkeypatch):
    model = make_model(policy_objective="action_approximation")
    noise, calls = noise_of(model, batch), record_calls(model.critic)
    told = noise.actions.flatten(0, 1)  # all of it
    monkeypatch.setattr(model.actor.denoiser, "given", lambda _: lambda *_: told)
    actor_loss(model, batch, noise)
    ((_, _, valued_actions),) = calls
    assert_close(valued_actions.flatten(0, 1), batch.actions, atol=1e-5, rtol=0)


def test_noise_on_the_prompt_reaches_the_actor_and_not_the_critic(batch, monkeypatch):
    model, told = make_model(prompt_noise=0.5), []
    condition, calls = model.actor.condition, record_calls(model.critic)

    def listen(features, prompts):
        told.append(prompts.vectors)
        return condition(features, prompts)

    monkeypatch.setattr(model.actor, "condition", listen)
    encoded, noise = model.losses.encode_for_critic(batch), noise_of(model, batch)
    model.losses.actor_loss(batch, encoded, noise)
    assert_close(told[0], model.actor.encode_prompts(batch.prompts).vectors + 0.5 * noise.prompt_vectors)
    assert_close(calls[0][1].vectors, encoded.prompts.vectors)


def moved(network: nn.Module) -> set[str]:
    """Name the weights that a backward pass gave a gradient other than zero."""
    return {name for name, each in network.named_parameters() if each.grad is not None and each.grad.any()}


def names(network: nn.Module) -> set[str]:
    return {name for name, _ in network.named_parameters()}


def with_gradients(model: LLMDPD) -> set[str]:
    """Name the networks of which any weight has a gradient, be it zero."""
    networks = networks_of(model).items()
    return {name for name, net in networks if any(each.grad is not None for each in net.parameters())}


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_the_actors_loss_moves_the_whole_actor_and_its_encoders(conditioning):
    model = make_model(policy_kwargs=dict(conditioning=conditioning))
    actor_loss(model, without_parts(model.replay_buffer.sample(24)))[0].backward()
    assert moved(model.actor) == names(model.actor)


@pytest.mark.parametrize("objective", RANGES["policy_objective"].choices)
def test_the_actors_loss_moves_neither_critic_nor_targets(objective, batch):
    model = make_model(policy_objective=objective)
    actor_loss(model, batch)[0].backward()
    assert with_gradients(model) == {"actor"}


def test_the_critics_loss_moves_the_whole_critic_and_neither_actor_nor_encoders_nor_targets(model, batch):
    critic_loss(model, batch)[0].backward()
    # A constant on all inputs of a head is learned by its biases; all else by the data.
    assert moved(model.critic) == names(model.critic)
    assert with_gradients(model) == {"critic"}


def test_the_critic_can_learn_again_after_the_actors_loss_froze_it(model, batch):
    actor_loss(model, batch)
    assert all(weights.requires_grad for weights in model.critic.parameters())


def test_without_a_q_term_the_critic_is_neither_asked_nor_trained():
    model = tiny_model(eta=0.0)
    weights = [*model.critic.parameters(), *model.critic_target.parameters()]
    before, calls = [each.clone() for each in weights], record_calls(model.critic)
    model.learn(3, log_interval=None)
    assert calls == []
    assert all(th.equal(old, new) for old, new in zip(before, weights, strict=True))


class NoWaiting(TorchDispatchMode):
    """Raise on what makes the host wait for the device: Python values, shapes that depend on values."""

    waits = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "unique", "equal")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = [index for index in args[1] if index is not None] if name == "index" else []
        if name in self.waits or any(index.dtype is th.bool for index in indices):
            raise AssertionError(f"a step waits for the device at {func}")
        return func(*args, **(kwargs or {}))


def test_cloning_learns_at_the_steps_that_the_process_draws(monkeypatch):
    model = make_model(eta=0.0, policy_kwargs=dict(step_distribution="signal"))
    learned = []
    monkeypatch.setattr(
        model.actor.denoiser, "given", lambda _: lambda noisy, steps: learned.append(steps) or noisy
    )
    model.generator.manual_seed(0)
    batch = model.replay_buffer.sample(2400)
    model.losses.actor_loss(batch, None, noise_of(model, batch))
    share = (learned[0] == 0).float().mean().item()
    assert share == pytest.approx(0.557, abs=0.04)  # a fifth, were all drawn alike


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go the way that has nothing to wait for, which a CPU need not go."""
    monkeypatch.setattr(NearestSteps, "project", StateReader.project)


@pytest.mark.parametrize(
    "wait", [th.Tensor.item, bool, th.nonzero, lambda x: x[x > 0]], ids=["item", "if", "nonzero", "mask"]
)
def test_waiting_for_the_device_is_noticed(wait):
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        wait(th.ones(1))


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("objective", RANGES["policy_objective"].choices)
def test_no_loss_waits_for_the_device(objective, conditioning, monkeypatch):
    as_on_a_gpu(monkeypatch)
    how = dict(policy_objective=objective, policy_kwargs=dict(conditioning=conditioning))
    model = make_model(prompt_noise=0.1, **how)
    batch = model.replay_buffer.sample(24)
    with NoWaiting():
        model._metrics.add(model.gradient_step.update(batch, noise_of(model, batch), 0.5))
    assert model._metrics.n_steps == 1


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_a_prompt_that_is_never_shown_is_not_encoded_and_changes_nothing(conditioning):
    """One model drops every prompt; the draws tell the other, of the same weights, to do the same."""
    models = [
        make_model(text_dropout=p, trajectory_dropout=p, policy_kwargs=dict(conditioning=conditioning))
        for p in (1.0, 0.5)
    ]
    batch = models[0].replay_buffer.sample(24)
    noise = noise_of(models[0], batch)._replace(dropout=th.zeros(2, 3))  # below each share
    calls = record_calls(models[0].actor.prompt_encoder.text)
    metrics, expected = (model.gradient_step.update(batch, noise, 0.5) for model in models)
    assert calls == []
    assert_close({name: metrics[name] for name in expected}, dict(expected))
    assert_close(*(list(model.policy.parameters()) for model in models))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_metrics_are_scalars_on_the_device(eta):
    model = tiny_model(eta=eta)
    batch = model.replay_buffer.sample(24)
    if eta:
        metrics = actor_loss(model, batch)[1] | critic_loss(model, batch)[1]
    else:
        metrics = model.losses.actor_loss(batch, None, noise_of(model, batch))[1]
    assert {(type(value), value.shape) for value in metrics.values()} == {(th.Tensor, th.Size())}
