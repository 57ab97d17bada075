"""The losses of the paper, as functions of a batch."""

from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from sb3_llmdpd.llmdpd.actor import PromptedDiffusionActor
from sb3_llmdpd.llmdpd.critic import PromptedCritic, PromptedStateValue
from sb3_llmdpd.type_aliases import Metrics, PromptEncoding, PromptReplayBufferSamples

POLICY_OBJECTIVES = ("diffusion_ql", "action_approximation")
CRITIC_OBJECTIVES = ("td", "expectile")


class EncodedBatch(NamedTuple):
    """A batch as the EMA actor sees it; what the critic reads."""

    features: th.Tensor
    """(M, N, features_dim), of the observations."""
    prompts: PromptEncoding
    """M prompts."""


class StepNoise(NamedTuple):
    """Everything random in a gradient step but its batch, drawn beforehand, so that the losses are functions of tensors."""

    dropout: th.Tensor
    """(2, M), uniform in [0, 1): which prompts lose their text and their trajectory."""
    next_actions: th.Tensor | None
    """(K, M, N, action_dim), of the chain of the critic's target; None where nothing is sampled for it."""
    prompt_vectors: th.Tensor | None
    """(M, prompt_dim), on the prompt vectors; None without prompt noise."""
    actions: th.Tensor
    """(M, N, action_dim), which cloning adds to the data's actions."""
    steps: th.Tensor
    """(M, N), int64 in [0, K): the diffusion steps at which it does."""
    new_actions: th.Tensor | None
    """(K, M, N, action_dim), of the chain of the actor's own actions; None where no chain is run."""
    head: th.Tensor
    """(), int64: by which Q-network the actor improves."""


class PromptedLosses(OffPolicyAlgorithm):
    """The losses of `LLMDPD`: no optimiser, no logger, no draw, and nothing that waits for the device."""

    actor: PromptedDiffusionActor
    actor_target: PromptedDiffusionActor
    critic: PromptedCritic
    critic_target: PromptedCritic
    state_value: PromptedStateValue | None
    generator: th.Generator
    eta: float
    policy_objective: str
    critic_objective: str
    expectile: float
    prompt_noise: float

    def draw_noise(self, n_prompts: int, n: int, n_for_critic: int) -> StepNoise:
        """Draw all that is random in a gradient step.

        :param n_prompts: M.
        :param n: N, transitions of each prompt.
        :param n_for_critic: how many of them the critic and the Q term see.
        :return: the draws, on the device.
        """
        actor, generator, device = self.actor, self.generator, self.device

        def normal(*shape: int) -> th.Tensor:
            return th.randn(shape, generator=generator, device=device)

        chain = (actor.diffusion.n_steps, n_prompts, n_for_critic, actor.denoiser.action_dim)
        improves = self.eta > 0
        return StepNoise(
            dropout=th.rand((2, n_prompts), generator=generator, device=device),
            next_actions=normal(*chain) if improves and self.critic_objective == "td" else None,
            prompt_vectors=normal(n_prompts, actor.prompt_encoder.vector_dim)
            if self.prompt_noise > 0
            else None,
            actions=normal(n_prompts, n, chain[-1]),
            steps=actor.diffusion.draw_steps((n_prompts, n), generator),
            new_actions=normal(*chain) if improves and self.policy_objective == "diffusion_ql" else None,
            head=th.randint(self.critic.n_critics, (), generator=generator, device=device),
        )

    @th.no_grad()
    def encode_for_critic(self, batch: PromptReplayBufferSamples) -> EncodedBatch:
        """Observations and prompts as the EMA actor encodes them, once for both losses.

        :param batch: B = M * N transitions with M prompts.
        :return: what the critic reads.
        """
        actor, n_prompts = self.actor_target, len(batch.prompts.actions)
        features = actor.encode_observations(batch.observations).unflatten(0, (n_prompts, -1))
        return EncodedBatch(features, actor.encode_prompts(batch.prompts))

    def critic_loss(
        self, batch: PromptReplayBufferSamples, encoded: EncodedBatch, noise: StepNoise
    ) -> tuple[th.Tensor, Metrics]:
        """Temporal-difference loss of the twin Q (paper, Eq. 6); with the expectile objective also that of V.

        :param batch: B = M * N transitions.
        :param encoded: the same, encoded by `encode_for_critic`.
        :param noise: of the step.
        :return: scalar loss, and metrics.
        """
        features, prompts = encoded
        shape = features.shape[:2]  # (M, N)
        actions = batch.actions.view(*shape, -1)
        with th.no_grad():
            next_features = self.actor_target.encode_observations(batch.next_observations).unflatten(0, shape)
            not_done = 1.0 - batch.dones.view(shape)
            next_values = self._next_values(next_features, prompts, noise)
            target_q_values = batch.rewards.view(shape) + not_done * self.gamma * next_values
        q_values = self.critic(features, prompts, actions)  # (n_critics, M, N)
        loss = (q_values - target_q_values).square().mean(dim=(1, 2)).sum()
        metrics = {"critic_loss": loss, "q_value": q_values.mean(), "target_q_value": target_q_values.mean()}
        if self.critic_objective == "td":
            return loss, metrics
        value_loss, value = self._value_loss(features, prompts, actions)
        return loss + value_loss, {**metrics, "value_loss": value_loss, "value": value}

    def _next_values(self, next_features: th.Tensor, prompts: PromptEncoding, noise: StepNoise) -> th.Tensor:
        """What the next states are worth: for an action of the EMA actor, or by V, which asks no policy. (M, N)."""
        if self.critic_objective == "expectile":
            assert self.state_value is not None  # the policy was told to have one
            return self.state_value(next_features, prompts)
        assert noise.next_actions is not None  # of this objective
        next_actions = self.actor_target.sample(
            self.actor_target.condition(next_features, prompts), noise.next_actions
        )
        return self.critic_target(next_features, prompts, next_actions).min(dim=0).values

    def _value_loss(
        self, features: th.Tensor, prompts: PromptEncoding, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor]:
        """Expectile regression of V on the values of the data's actions (IQL, Eq. 5), and the mean of V."""
        assert self.state_value is not None  # the policy was told to have one
        with th.no_grad():
            data_values = self.critic_target(features, prompts, actions).min(dim=0).values  # (M, N)
        values = self.state_value(features, prompts)
        return expectile_loss(data_values - values, self.expectile), values.mean()

    def actor_loss(
        self, batch: PromptReplayBufferSamples, encoded: EncodedBatch | None, noise: StepNoise
    ) -> tuple[th.Tensor, Metrics]:
        """Behaviour cloning by denoising, plus policy improvement by the critic (paper, Eq. 8).

        :param batch: B = M * N transitions with M prompts.
        :param encoded: the same, or the leading transitions of each prompt, encoded by `encode_for_critic`; may be None
            when eta is 0.
        :param noise: of the step.
        :return: scalar loss, and metrics.
        """
        actor, shape, steps = self.actor, (len(batch.prompts.actions), -1), noise.steps
        features = actor.encode_observations(batch.observations).unflatten(0, shape)
        prompts = actor.encode_prompts(batch.prompts)
        if noise.prompt_vectors is not None:
            prompts = prompts._replace(vectors=prompts.vectors + self.prompt_noise * noise.prompt_vectors)
        condition = actor.condition(features, prompts)

        # Behaviour cloning: predict the noise in a noised action of the data.
        actions = batch.actions.view(*features.shape[:2], -1)
        noisy_actions = actor.diffusion.add_noise(actions, noise.actions, steps)
        predicted_noise = actor.predict_noise(noisy_actions, steps, condition)
        bc_loss = F.mse_loss(predicted_noise, noise.actions)
        if encoded is None:
            return bc_loss, {"actor_loss": bc_loss, "bc_loss": bc_loss}

        # Policy improvement: raise the value of the actor's own actions.
        shown = slice(encoded.features.shape[1])  # the leading transitions, which the critic has encoded
        if noise.new_actions is not None:
            new_actions = actor.sample(condition[:, shown], noise.new_actions)
        else:
            new_actions = actor.diffusion.predict_start(
                noisy_actions[:, shown], predicted_noise[:, shown], steps[:, shown]
            )
        q_loss = self._q_loss(new_actions, encoded, noise.head)
        loss = bc_loss + self.eta * q_loss
        return loss, {"actor_loss": loss, "bc_loss": bc_loss, "q_loss": q_loss}

    def _q_loss(self, new_actions: th.Tensor, encoded: EncodedBatch, head: th.Tensor) -> th.Tensor:
        """-Q_i / E|Q_j|, i and j two different heads (Diffusion-QL's normalisation)."""
        q_values = _constant(self.critic, *encoded, new_actions).float().flatten(1)  # (n_critics, B)
        heads = th.arange(len(q_values), device=self.device)
        # Tensors instead of a Python branch: the step must not wait for the device.
        other = (head + 1) % len(q_values)
        value = (q_values.mean(dim=1) * (heads == head)).sum()
        scale = (q_values.detach().abs().mean(dim=1) * (heads == other)).sum()
        return -value / scale.clamp(min=1e-6)


def expectile_loss(errors: th.Tensor, expectile: float) -> th.Tensor:
    """The asymmetric square whose least sum is at the expectile: 0.5 gives the mean, towards 1 it nears the maximum.

    :param errors: of any shape, target minus prediction.
    :param expectile: weight of errors above 0; those below have the rest to 1.
    :return: scalar.
    """
    weights = th.where(errors > 0, expectile, 1.0 - expectile)
    return (weights * errors.square()).mean()


def _constant(network: nn.Module, *inputs: Any) -> Any:
    """What a network says, without gradients for its weights; those of the inputs still flow."""
    return functional_call(
        network, {name: weight.detach() for name, weight in network.named_parameters()}, inputs
    )
