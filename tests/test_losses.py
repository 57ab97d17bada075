"""The losses against the paper's equations computed by hand, and which weights they may move."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch as th
from factories import tiny_model
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.llmdpd.losses import POLICY_OBJECTIVES, StepNoise
from sb3_llmdpd.networks.attention import CONDITIONINGS, NearestSteps, StateReader
from sb3_llmdpd.type_aliases import PromptBatch, PromptReplayBufferSamples

N_PROMPTS, N_ROWS, N_STEPS = 3, 8, 5
"""M, N and K of `model`: a batch is 3 prompts with 8 transitions each, a chain has 5 steps."""


def scatter(modules: Iterable[nn.Module], seed: int = 0) -> None:
    """Move all weights, so that targets differ from what they follow and heads from each other."""
    generator = th.Generator().manual_seed(seed)
    with th.no_grad():
        for module in modules:
            for weights in module.parameters():
                weights += 0.3 * th.randn(weights.shape, generator=generator)


def make_model(**kwargs: Any) -> LLMDPD:
    model = tiny_model(gamma=0.9, **kwargs)
    scatter([model.actor, model.actor_target, model.critic, model.critic_target])
    return model


@pytest.fixture
def model() -> LLMDPD:
    return make_model()


@pytest.fixture
def batch(model: LLMDPD) -> PromptReplayBufferSamples:
    """Where every third transition ended its task, and not every prompt has both its parts."""
    batch = model.replay_buffer.sample(N_PROMPTS * N_ROWS)
    prompts = batch.prompts.dropped(th.tensor([True, False, False]), th.tensor([False, True, False]))
    return batch._replace(dones=(th.arange(24) % 3 == 0).float()[:, None], prompts=prompts)


def one_prompt(prompts: PromptBatch, m: int) -> PromptBatch:
    window = prompts.actions.shape[1]
    return PromptBatch(
        prompts.text_vectors[m : m + 1],
        prompts.has_text[m : m + 1],
        prompts.observations[m * window : (m + 1) * window],
        prompts.actions[m : m + 1],
        prompts.has_trajectory[m : m + 1],
    )


def noise_of(model: LLMDPD, batch: PromptReplayBufferSamples) -> StepNoise:
    n_prompts = len(batch.prompts.has_text)
    n = len(batch.actions) // n_prompts
    return model.losses.draw_noise(n_prompts, n, n, model.generator)


def actor_loss(model: LLMDPD, batch: PromptReplayBufferSamples) -> tuple[th.Tensor, dict[str, th.Tensor]]:
    return model.losses.actor_loss(batch, model.losses.encode_for_critic(batch), noise_of(model, batch))


def critic_loss(model: LLMDPD, batch: PromptReplayBufferSamples) -> tuple[th.Tensor, dict[str, th.Tensor]]:
    return model.losses.critic_loss(batch, model.losses.encode_for_critic(batch), noise_of(model, batch))


class FixedCritic(nn.Module):
    """Head j always says ``values[j]``."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.n_critics = len(values)
        self.values = nn.Parameter(th.tensor(values))

    def forward(self, features: th.Tensor, prompts: Any, actions: th.Tensor) -> th.Tensor:
        return self.values[:, None, None] + 0.0 * actions.sum(dim=-1)


class CountCalls:
    """How often a module is called, and what it is told."""

    def __init__(self, module: nn.Module) -> None:
        self.inputs: list[tuple[Any, ...]] = []
        module.register_forward_pre_hook(lambda _, inputs: self.inputs.append(inputs))

    def __len__(self) -> int:
        return len(self.inputs)


def test_the_critics_loss_is_the_squared_distance_to_the_target_by_hand(model, batch):
    """Eq. (6), one transition at a time: r + gamma (1 - d) min_i Q'_i(s', a'), with a' of the EMA actor's chain."""
    drawn = noise_of(model, batch)
    noise = drawn.next_actions
    losses = []
    for row in range(N_PROMPTS * N_ROWS):
        m, n = divmod(row, N_ROWS)
        with th.no_grad():
            prompt = model.actor_target.encode_prompts(one_prompt(batch.prompts, m))
            features, next_features = (
                model.actor_target.encode_observations(observations[row : row + 1])[None]
                for observations in (batch.observations, batch.next_observations)
            )
            next_action = model.actor_target(
                batch.next_observations[row : row + 1], prompt, noise[:, m : m + 1, n : n + 1]
            )
            next_value = model.critic_target(next_features, prompt, next_action).min()
            target = batch.rewards[row, 0] + 0.9 * (1 - batch.dones[row, 0]) * next_value
            values = model.critic(features, prompt, batch.actions[row][None, None]).flatten()  # (n_critics,)
        losses.append((values - target).square().sum())
    assert_close(
        model.losses.critic_loss(batch, model.losses.encode_for_critic(batch), drawn)[0].detach(),
        th.stack(losses).mean(),
    )


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
    """|| eps - eps_theta(sqrt(abar_k) a + sqrt(1 - abar_k) eps, k, s, z) ||^2, one transition at a time."""
    drawn = noise_of(model, batch)
    noise, steps = drawn.actions, drawn.steps
    errors = []
    for row in range(N_PROMPTS * N_ROWS):
        m, n = divmod(row, N_ROWS)
        abar = model.actor.diffusion.alphas_bar[steps[m, n]]
        noisy_action = abar.sqrt() * batch.actions[row] + (1 - abar).sqrt() * noise[m, n]
        features = model.actor.encode_observations(batch.observations[row : row + 1])[None]
        condition = model.actor.condition(features, model.actor.encode_prompts(one_prompt(batch.prompts, m)))
        predicted = model.actor.predict_noise(noisy_action[None, None], steps[m, n][None, None], condition)
        errors.append((predicted.flatten() - noise[m, n]).square())
    assert_close(model.losses.actor_loss(batch, None, drawn)[0], th.stack(errors).mean())


def test_the_actors_loss_is_cloning_plus_eta_times_the_q_term(batch):
    loss, metrics = actor_loss(make_model(eta=0.7), batch)
    assert_close(loss, metrics["bc_loss"] + 0.7 * metrics["q_loss"])


@pytest.mark.parametrize(
    ("values", "terms"),
    [((2.0, -5.0), {-2 / 5, 5 / 2}), ((2.0, -5.0, 8.0), {-2 / 5, 5 / 8, -8 / 2}), ((4.0,), {-1.0})],
    ids=["two heads", "three heads", "one head"],
)
def test_the_q_term_is_one_heads_value_by_the_size_of_anothers_and_every_head_has_its_turn(
    model, batch, values, terms
):
    model.policy.critic = FixedCritic(*values)
    assert {round(actor_loss(model, batch)[1]["q_loss"].item(), 5) for _ in range(20)} == {
        round(term, 5) for term in terms
    }


def test_the_scale_of_the_q_term_is_the_mean_size_of_the_values_and_gets_no_gradient(model, batch):
    action = th.full((N_PROMPTS, N_ROWS, 2), 0.5, requires_grad=True)

    class Doubling(FixedCritic):
        def forward(self, features: th.Tensor, prompts: Any, actions: th.Tensor) -> th.Tensor:
            return th.stack([actions.sum(dim=-1), -4 * actions.sum(dim=-1)])

    model.policy.critic = Doubling(0.0, 0.0)
    loss = model.losses.q_loss(action, model.losses.encode_for_critic(batch), th.tensor(0))
    (gradient,) = th.autograd.grad(loss, action)
    # d/da of -Q_0 / E|Q_1| = -1 / 4 per row of 24; with the scale's own gradient it would be 0.
    assert round(gradient.sum().item() / 2, 5) == -0.25


def test_diffusion_ql_sends_a_gradient_to_every_step_of_the_chain(batch):
    model = tiny_model()
    for weights in model.actor.denoiser.trunk[-1].parameters():
        weights.data *= (
            0.05  # small predictions on small noise: where an action is clipped, no gradient passes
        )
    steps: list[th.Tensor] = []
    original = model.actor.denoiser.step_embeddings
    model.actor.denoiser.step_embeddings = lambda: steps.append(original()) or steps[-1]
    quiet = noise_of(model, batch)._replace(new_actions=th.zeros(N_STEPS, N_PROMPTS, N_ROWS, 2))
    q_loss = model.losses.actor_loss(batch, model.losses.encode_for_critic(batch), quiet)[1]["q_loss"]
    (gradient,) = th.autograd.grad(q_loss, steps[-1])  # (K, width); the last call is the chain's
    assert (gradient.abs().sum(dim=1) > 0).tolist() == [True] * N_STEPS


@pytest.mark.parametrize(
    ("objective", "n_calls"), [("diffusion_ql", 1 + N_STEPS), ("action_approximation", 1)]
)
def test_the_denoiser_is_called_once_to_clone_and_for_each_step_of_a_chain(objective, n_calls, batch):
    model = make_model(policy_objective=objective)
    encoded, calls = model.losses.encode_for_critic(batch), CountCalls(model.actor.denoiser)
    model.losses.actor_loss(batch, encoded, noise_of(model, batch))
    assert len(calls) == n_calls


def test_action_approximation_values_the_action_from_which_the_noise_was_taken(batch):
    model = make_model(policy_objective="action_approximation")
    noise = noise_of(model, batch)
    model.actor.predict_noise = lambda noisy_actions, steps, condition: noise.actions  # all of it
    calls = CountCalls(model.critic)
    model.losses.actor_loss(batch, model.losses.encode_for_critic(batch), noise)
    ((_, _, valued_actions),) = calls.inputs
    assert_close(valued_actions.flatten(0, 1), batch.actions, atol=1e-5, rtol=0)


def test_noise_on_the_prompt_reaches_the_actor_and_not_the_critic(batch):
    model = make_model(prompt_noise=0.5)
    told: list[th.Tensor] = []
    original = model.actor.condition
    model.actor.condition = lambda features, prompts: (
        told.append(prompts.vectors) or original(features, prompts)
    )
    encoded, calls = model.losses.encode_for_critic(batch), CountCalls(model.critic)
    noise = noise_of(model, batch)
    model.losses.actor_loss(batch, encoded, noise)
    assert_close(told[0], model.actor.encode_prompts(batch.prompts).vectors + 0.5 * noise.prompt_vectors)
    assert_close(calls.inputs[0][1].vectors, encoded.prompts.vectors)


def moved(network: nn.Module) -> set[str]:
    """Names of the weights that a backward pass gave a gradient other than zero."""
    return {
        name
        for name, weights in network.named_parameters()
        if weights.grad is not None and weights.grad.any()
    }


def names(network: nn.Module) -> set[str]:
    return {name for name, _ in network.named_parameters()}


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_the_actors_loss_moves_the_whole_actor_and_its_encoders(conditioning):
    model = make_model(policy_kwargs=dict(conditioning=conditioning))
    batch = model.replay_buffer.sample(24)
    prompts = batch.prompts.dropped(th.tensor([True, False, False]), th.tensor([False, True, False]))
    actor_loss(model, batch._replace(prompts=prompts))[0].backward()
    assert moved(model.actor) == names(model.actor)


@pytest.mark.parametrize("objective", POLICY_OBJECTIVES)
def test_the_actors_loss_moves_neither_critic_nor_targets(objective, batch):
    model = make_model(policy_objective=objective)
    actor_loss(model, batch)[0].backward()
    assert all(weights.grad is None for net in others(model, "actor") for weights in net.parameters())


def test_the_critics_loss_moves_the_whole_critic(model, batch):
    critic_loss(model, batch)[0].backward()
    # A constant on all inputs of a head is learned by its biases; all else by the data.
    assert moved(model.critic) == names(model.critic)


def test_the_critics_loss_moves_neither_actor_nor_encoders_nor_targets(model, batch):
    critic_loss(model, batch)[0].backward()
    assert all(weights.grad is None for net in others(model, "critic") for weights in net.parameters())


def test_the_critic_can_learn_again_after_the_actors_loss_froze_it(model, batch):
    actor_loss(model, batch)
    assert all(weights.requires_grad for weights in model.critic.parameters())


def test_without_a_q_term_the_critic_is_neither_asked_nor_trained():
    model = tiny_model(eta=0.0)
    before = [weights.clone() for weights in [*model.critic.parameters(), *model.critic_target.parameters()]]
    calls = CountCalls(model.critic)
    model.learn(3, log_interval=None)
    after = [*model.critic.parameters(), *model.critic_target.parameters()]
    assert len(calls) == 0
    assert all(th.equal(old, new) for old, new in zip(before, after, strict=True))


def others(model: LLMDPD, trained: str) -> list[nn.Module]:
    return [
        getattr(model, name)
        for name in ("actor", "actor_target", "critic", "critic_target")
        if name != trained
    ]


class NoWaiting(TorchDispatchMode):
    """Raises on what makes the host wait for the device: values that become Python's, shapes that depend on values."""

    waits = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "unique", "equal")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = (
            [index for index in args[1] if index is not None and index.dtype is th.bool]
            if name == "index"
            else []
        )
        if name in self.waits or masks:
            raise AssertionError(f"a step waits for the device at {func}")
        return func(*args, **(kwargs or {}))


def test_cloning_learns_at_the_steps_that_the_process_draws(monkeypatch):
    model = make_model(eta=0.0, policy_kwargs=dict(step_distribution="signal"))
    learned: list[th.Tensor] = []

    def predict_noise(noisy_actions: th.Tensor, steps: th.Tensor, condition: th.Tensor) -> th.Tensor:
        learned.append(steps)
        return noisy_actions

    monkeypatch.setattr(model.actor, "predict_noise", predict_noise)
    model.generator.manual_seed(0)
    batch = model.replay_buffer.sample(2400)
    model.losses.actor_loss(batch, None, noise_of(model, batch))
    assert (learned[0] == 0).float().mean().item() == pytest.approx(
        0.557, abs=0.04
    )  # a fifth, were all drawn alike


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
@pytest.mark.parametrize("objective", POLICY_OBJECTIVES)
def test_no_loss_waits_for_the_device(objective, conditioning, monkeypatch):
    as_on_a_gpu(monkeypatch)
    model = make_model(
        policy_objective=objective, prompt_noise=0.1, policy_kwargs=dict(conditioning=conditioning)
    )
    batch = model.replay_buffer.sample(24)
    with NoWaiting():
        model._metrics.add(model.gradient_step.update(batch, noise_of(model, batch), 0.5))
    assert model._metrics.n_steps == 1


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_a_prompt_that_is_never_shown_is_not_encoded_and_changes_nothing(conditioning):
    """Two models of the same weights: one drops each text and example, of the other's draws all say so."""
    how: dict[str, Any] = dict(policy_kwargs=dict(conditioning=conditioning))
    never, dropped = (
        make_model(text_dropout=1.0, trajectory_dropout=1.0, **how),
        make_model(text_dropout=0.5, trajectory_dropout=0.5, **how),
    )
    batch = never.replay_buffer.sample(24)
    noise = noise_of(never, batch)._replace(dropout=th.zeros(2, 3))  # below each share
    calls = CountCalls(never.actor.prompt_encoder.text)
    metrics, expected = (
        never.gradient_step.update(batch, noise, 0.5),
        dropped.gradient_step.update(batch, noise, 0.5),
    )
    assert len(calls) == 0
    for name in expected:
        assert_close(metrics[name], expected[name])
    for one, other in zip(never.policy.parameters(), dropped.policy.parameters(), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_metrics_are_scalars_on_the_device(eta):
    model = tiny_model(eta=eta)
    batch = model.replay_buffer.sample(24)
    encoded = model.losses.encode_for_critic(batch) if eta else None
    noise = noise_of(model, batch)
    metrics = model.losses.actor_loss(batch, encoded, noise)[1] | (
        model.losses.critic_loss(batch, encoded, noise)[1] if encoded else {}
    )
    assert {(type(value), value.shape) for value in metrics.values()} == {(th.Tensor, th.Size())}
