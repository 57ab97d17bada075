"""The losses of the paper, as pure functions of a batch and the noise of a step."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import torch as th
from torch import nn
from torch.func import functional_call

from sb3_llmdpd.llmdpd.augmentation import N_DRAWS
from sb3_llmdpd.llmdpd.critic import PromptedStateValue
from sb3_llmdpd.llmdpd.policies import LLMDPDPolicy
from sb3_llmdpd.networks.layers import FLOAT
from sb3_llmdpd.type_aliases import Metrics, PromptEncoding, PromptReplayBufferSamples


class EncodedBatch(NamedTuple):
    """A batch as the EMA actor sees it; the critic reads it."""

    features: th.Tensor
    """(M, N, features_dim), of the observations."""
    prompts: PromptEncoding
    """M prompts."""


class StepNoise(NamedTuple):
    """Everything random in a gradient step but its batch, drawn beforehand so that losses are pure."""

    dropout: th.Tensor
    """(2, M), uniform in [0, 1): which prompts lose their text and their trajectory."""
    next_actions: th.Tensor | None
    """(S, M, N, action_dim), of the chain of the critic's target; None where nothing is sampled for it."""
    prompt_vectors: th.Tensor | None
    """(M, prompt_dim), on the prompt vectors; None without prompt noise."""
    actions: th.Tensor
    """(M, N, action_dim), which cloning adds to the data's actions."""
    times: th.Tensor
    """(M, N, ...), int64: the diffusion steps, or the times of the flow, at which it does."""
    new_actions: th.Tensor | None
    """(S, M, N, action_dim), of the chain of the actor's own actions; None where no chain is run."""
    head: th.Tensor
    """(), int64: the Q-network by which the actor improves."""
    augmentation: th.Tensor | None
    """(N_DRAWS, M), uniform in [0, 1): how prompts are augmented; None where they are not."""


class TDObjective:
    """The critic's target asks the EMA actor for the next action (paper, Eq. 6).

    :param policy: policy whose critic learns.
    """

    samples_next_actions = True

    def __init__(self, policy: LLMDPDPolicy) -> None:
        self.policy = policy

    def next_values(
        self, next_features: th.Tensor, prompts: PromptEncoding, noise: th.Tensor | None
    ) -> th.Tensor:
        """Value the next states by the target critics at an action of the EMA actor.

        :param next_features: (M, N, features_dim).
        :param prompts: M prompts.
        :param noise: (S, M, N, action_dim), of the chain that draws the actions.
        :return: (M, N), the smaller of the critics' values.
        """
        actor = self.policy.actor_target
        assert noise is not None  # drawn, since `samples_next_actions`
        next_actions = actor.sample(actor.condition(next_features, prompts), noise)
        return self.policy.critic_target(next_features, prompts, next_actions).min(dim=0).values

    def further_loss(
        self, encoded: EncodedBatch, actions: th.Tensor, expectile: float
    ) -> tuple[th.Tensor | None, Metrics]:
        """Return no loss beside that of Q."""
        return None, {}


class ExpectileObjective:
    """The critic's target asks V, an expectile of Q over the data's own actions (IQL): no policy is asked.

    :param policy: policy whose critic and V learn.
    """

    samples_next_actions = False

    def __init__(self, policy: LLMDPDPolicy) -> None:
        self.policy = policy

    @property
    def state_value(self) -> PromptedStateValue:
        """V of the policy."""
        assert self.policy.state_value is not None  # LLMDPD asks the policy for one
        return self.policy.state_value

    def next_values(
        self, next_features: th.Tensor, prompts: PromptEncoding, noise: th.Tensor | None
    ) -> th.Tensor:
        """Value the next states by V: (M, N)."""
        return self.state_value(next_features, prompts)

    def further_loss(
        self, encoded: EncodedBatch, actions: th.Tensor, expectile: float
    ) -> tuple[th.Tensor | None, Metrics]:
        """Regress V on an expectile of the values of the data's actions (IQL, Eq. 5).

        :param encoded: observations and prompts.
        :param actions: (M, N, action_dim), of the data.
        :param expectile: in (0, 1).
        :return: scalar loss, and metrics.
        """
        with th.no_grad():
            data_values = self.policy.critic_target(*encoded, actions).min(dim=0).values  # (M, N)
        values = self.state_value(*encoded)
        loss = expectile_loss(data_values - values, expectile)
        return loss, {"value_loss": loss, "value": values.mean()}


CRITIC_OBJECTIVES: dict[str, type[TDObjective] | type[ExpectileObjective]] = {
    "td": TDObjective,
    "expectile": ExpectileObjective,
}


class Losses:
    """The losses of critic and actor.

    :param policy: policy that learns.
    :param settings: arguments of `LLMDPD` by name, as of the current step; ``gamma``, ``eta``, ``expectile``
        and ``prompt_noise`` are read at each call, the two objectives once.
    """

    def __init__(self, policy: LLMDPDPolicy, settings: SimpleNamespace) -> None:
        self.policy, self.settings = policy, settings
        self.critic_objective = CRITIC_OBJECTIVES[settings.critic_objective](policy)
        through_chain = settings.policy_objective == "diffusion_ql"
        self.improves_through_chain = through_chain or not policy.actor.process.estimates_actions

    def draw_noise(self, n_prompts: int, n: int, n_for_critic: int, generator: th.Generator) -> StepNoise:
        """Draw all that is random in a gradient step.

        :param n_prompts: M.
        :param n: N, transitions of each prompt.
        :param n_for_critic: how many of them the critic and the Q term see.
        :param generator: source of the draws.
        :return: the draws, on the device.
        """
        actor, device = self.policy.actor, generator.device

        def normal(*shape: int) -> th.Tensor:
            return th.randn(shape, generator=generator, device=device, dtype=FLOAT)

        chain = (actor.process.n_steps, n_prompts, n_for_critic, actor.denoiser.action_dim)
        improves = self.settings.eta > 0
        noisy_prompts = self.settings.prompt_noise > 0
        return StepNoise(
            dropout=th.rand((2, n_prompts), generator=generator, device=device, dtype=FLOAT),
            next_actions=normal(*chain) if improves and self.critic_objective.samples_next_actions else None,
            prompt_vectors=normal(n_prompts, actor.prompt_encoder.vector_dim) if noisy_prompts else None,
            actions=normal(n_prompts, n, chain[-1]),
            times=actor.process.draw_times((n_prompts, n), generator),
            new_actions=normal(*chain) if improves and self.improves_through_chain else None,
            head=th.randint(self.policy.critic.n_critics, (), generator=generator, device=device),
            augmentation=th.rand((N_DRAWS, n_prompts), generator=generator, device=device, dtype=FLOAT)
            if self.settings.augmentation is not None
            else None,
        )

    @th.no_grad()
    def encode_for_critic(self, batch: PromptReplayBufferSamples) -> EncodedBatch:
        """Encode observations and prompts with the EMA actor, once for both losses.

        :param batch: B = M * N transitions with M prompts.
        :return: what the critic reads.
        """
        actor, n_prompts = self.policy.actor_target, len(batch.prompts.actions)
        features = actor.encode_observations(batch.observations).unflatten(0, (n_prompts, -1))
        return EncodedBatch(features, actor.encode_prompts(batch.prompts))

    def critic_loss(
        self, batch: PromptReplayBufferSamples, encoded: EncodedBatch, noise: StepNoise
    ) -> tuple[th.Tensor, Metrics]:
        """Temporal-difference loss of the twin Q (paper, Eq. 6); with the expectile objective also that of V.

        :param batch: B = M * N transitions.
        :param encoded: the same, encoded by `encode_for_critic`.
        :param noise: draws of the step.
        :return: scalar loss, and metrics.
        """
        features, prompts = encoded
        shape = features.shape[:2]  # (M, N)
        actions = batch.actions.view(*shape, -1)
        with th.no_grad():
            next_features = self.policy.actor_target.encode_observations(batch.next_observations)
            not_done = 1.0 - batch.dones.view(shape)
            next_values = self.critic_objective.next_values(
                next_features.unflatten(0, shape), prompts, noise.next_actions
            )
            target_q_values = batch.rewards.view(shape) + not_done * self.settings.gamma * next_values
        q_values = self.policy.critic(features, prompts, actions)  # (n_critics, M, N)
        loss = (q_values - target_q_values).square().mean(dim=(1, 2)).sum()
        metrics = {"critic_loss": loss, "q_value": q_values.mean(), "target_q_value": target_q_values.mean()}
        further, its_metrics = self.critic_objective.further_loss(encoded, actions, self.settings.expectile)
        return loss if further is None else loss + further, {**metrics, **its_metrics}

    def actor_loss(
        self, batch: PromptReplayBufferSamples, encoded: EncodedBatch | None, noise: StepNoise
    ) -> tuple[th.Tensor, Metrics]:
        """Behaviour cloning by taking noise out, plus policy improvement by the critic (paper, Eq. 8).

        :param batch: B = M * N transitions with M prompts.
        :param encoded: the same, or the leading transitions of each prompt, encoded by `encode_for_critic`;
            None for cloning alone.
        :param noise: draws of the step.
        :return: scalar loss, and metrics.
        """
        actor, shape = self.policy.actor, (len(batch.prompts.actions), -1)
        features = actor.encode_observations(batch.observations).unflatten(0, shape)
        prompts = actor.encode_prompts(batch.prompts)
        if noise.prompt_vectors is not None:
            vectors = prompts.vectors + self.settings.prompt_noise * noise.prompt_vectors
            prompts = prompts._replace(vectors=vectors)
        condition = actor.condition(features, prompts)

        # Behaviour cloning: take the noise out of a noised action of the data.
        actions = batch.actions.view(*features.shape[:2], -1)
        bc_loss, new_actions = actor.cloning_loss(condition, actions, noise.actions, noise.times)
        if encoded is None:
            return bc_loss, {"actor_loss": bc_loss, "bc_loss": bc_loss}

        # Policy improvement: raise the value of the actor's actions, through the chain or estimated.
        leading = slice(encoded.features.shape[1])  # the transitions that the critic has encoded
        if noise.new_actions is not None:
            new_actions = actor.sample(condition[:, leading], noise.new_actions)
        else:
            assert new_actions is not None  # else a chain would run
            new_actions = new_actions[:, leading]
        q_loss = self.q_loss(new_actions, encoded, noise.head)
        loss = bc_loss + self.settings.eta * q_loss
        return loss, {"actor_loss": loss, "bc_loss": bc_loss, "q_loss": q_loss}

    def q_loss(self, new_actions: th.Tensor, encoded: EncodedBatch, head: th.Tensor) -> th.Tensor:
        """-Q_i / E|Q_j|, i and j two different heads (Diffusion-QL's normalisation).

        :param new_actions: (M, N, action_dim), of the actor.
        :param encoded: observations and prompts.
        :param head: (), int64, i.
        :return: scalar.
        """
        q_values = _constant(self.policy.critic, *encoded, new_actions).float().flatten(1)  # (n_critics, B)
        heads = th.arange(len(q_values), device=q_values.device)
        # Tensors instead of a Python branch: the step must not wait for the device.
        other = (head + 1) % len(q_values)
        value = (q_values.mean(dim=1) * (heads == head)).sum()
        scale = (q_values.detach().abs().mean(dim=1) * (heads == other)).sum()
        return -value / scale.clamp(min=1e-6)


def expectile_loss(errors: th.Tensor, expectile: float) -> th.Tensor:
    """Mean asymmetric square, least at the expectile: 0.5 gives the mean, towards 1 the maximum.

    :param errors: of any shape, target minus prediction.
    :param expectile: weight of errors above 0; those below have the rest to 1.
    :return: scalar.
    """
    # Of two numbers `where` makes the default dtype, whatever the errors have.
    weights = th.where(errors > 0, expectile, 1.0 - expectile).to(errors.dtype)
    return (weights * errors.square()).mean()


def _constant(network: nn.Module, *inputs: Any) -> Any:
    """Run a network without gradients for its weights; those of the inputs still flow."""
    weights = {name: weight.detach() for name, weight in network.named_parameters()}
    return functional_call(network, weights, inputs)
