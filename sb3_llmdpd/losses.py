"""The losses of the paper, as functions of a batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import nn
from torch.nn import functional as F

from sb3_llmdpd.actor import PromptedDiffusionActor
from sb3_llmdpd.critic import PromptedCritic, PromptedStateValue
from sb3_llmdpd.type_aliases import Metrics, PromptEncoding, PromptReplayBufferSamples

POLICY_OBJECTIVES = ("diffusion_ql", "action_approximation")
CRITIC_OBJECTIVES = ("td", "expectile")


class EncodedBatch(NamedTuple):
    """A batch as the EMA actor sees it; what the critic reads."""

    features: th.Tensor
    """(M, N, features_dim), of the observations."""
    prompts: PromptEncoding
    """M prompts."""


class PromptedLosses(OffPolicyAlgorithm):
    """The losses of `LLMDPD`: no optimiser, no logger, and nothing that waits for the device."""

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

    @th.no_grad()
    def encode_for_critic(self, batch: PromptReplayBufferSamples) -> EncodedBatch:
        """Observations and prompts as the EMA actor encodes them, once for both losses.

        :param batch: B = M * N transitions with M prompts.
        :return: what the critic reads.
        """
        actor, n_prompts = self.actor_target, len(batch.prompts.actions)
        features = actor.encode_observations(batch.observations).unflatten(0, (n_prompts, -1))
        return EncodedBatch(features, actor.encode_prompts(batch.prompts))

    def critic_loss(self, batch: PromptReplayBufferSamples, encoded: EncodedBatch) -> tuple[th.Tensor, Metrics]:
        """Temporal-difference loss of the twin Q (paper, Eq. 6); with the expectile objective also that of V.

        :param batch: B = M * N transitions.
        :param encoded: the same, encoded by `encode_for_critic`.
        :return: scalar loss, and metrics.
        """
        features, prompts = encoded
        shape = features.shape[:2]  # (M, N)
        actions = batch.actions.view(*shape, -1)
        with th.no_grad():
            next_features = self.actor_target.encode_observations(batch.next_observations).unflatten(0, shape)
            not_done = 1.0 - batch.dones.view(shape)
            target_q_values = batch.rewards.view(shape) + not_done * self.gamma * self._next_values(next_features, prompts)
        q_values = self.critic(features, prompts, actions)  # (n_critics, M, N)
        loss = (q_values - target_q_values).square().mean(dim=(1, 2)).sum()
        metrics = {"critic_loss": loss, "q_value": q_values.mean(), "target_q_value": target_q_values.mean()}
        if self.critic_objective == "td":
            return loss, metrics
        value_loss, value = self._value_loss(features, prompts, actions)
        return loss + value_loss, {**metrics, "value_loss": value_loss, "value": value}

    def _next_values(self, next_features: th.Tensor, prompts: PromptEncoding) -> th.Tensor:
        """What the next states are worth: for an action of the EMA actor, or by V, which asks no policy. (M, N)."""
        if self.critic_objective == "expectile":
            assert self.state_value is not None  # the policy was told to have one
            return self.state_value(next_features, prompts)
        next_condition = self.actor_target.condition(next_features, prompts)
        next_actions = self.actor_target.sample(next_condition, self._chain_noise(next_features.shape[:2]))  # (M, N, A)
        return self.critic_target(next_features, prompts, next_actions).min(dim=0).values

    def _value_loss(self, features: th.Tensor, prompts: PromptEncoding, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Expectile regression of V on the values of the data's actions (IQL, Eq. 5), and the mean of V."""
        assert self.state_value is not None  # the policy was told to have one
        with th.no_grad():
            data_values = self.critic_target(features, prompts, actions).min(dim=0).values  # (M, N)
        values = self.state_value(features, prompts)
        return expectile_loss(data_values - values, self.expectile), values.mean()

    def actor_loss(self, batch: PromptReplayBufferSamples, encoded: EncodedBatch | None) -> tuple[th.Tensor, Metrics]:
        """Behaviour cloning by denoising, plus policy improvement by the critic (paper, Eq. 8).

        :param batch: B = M * N transitions with M prompts.
        :param encoded: the same, or the leading transitions of each prompt, encoded by `encode_for_critic`; may be None
            when eta is 0.
        :return: scalar loss, and metrics.
        """
        actor, shape = self.actor, (len(batch.prompts.actions), -1)
        features = actor.encode_observations(batch.observations).unflatten(0, shape)
        condition = actor.condition(features, self._with_noise(actor.encode_prompts(batch.prompts)))

        # Behaviour cloning: predict the noise in a noised action of the data.
        actions = batch.actions.view(*features.shape[:2], -1)
        noise = th.randn(actions.shape, generator=self.generator, device=self.device)
        steps = actor.diffusion.draw_steps(actions.shape[:2], self.generator)
        noisy_actions = actor.diffusion.add_noise(actions, noise, steps)
        predicted_noise = actor.predict_noise(noisy_actions, steps, condition)
        bc_loss = F.mse_loss(predicted_noise, noise)
        if encoded is None:
            return bc_loss, {"actor_loss": bc_loss, "bc_loss": bc_loss}

        # Policy improvement: raise the value of the actor's own actions.
        shown = slice(encoded.features.shape[1])  # the leading transitions, which the critic has encoded
        if self.policy_objective == "diffusion_ql":
            new_actions = actor.sample(condition[:, shown], self._chain_noise(encoded.features.shape[:2]))
        else:
            new_actions = actor.diffusion.predict_start(noisy_actions[:, shown], predicted_noise[:, shown], steps[:, shown])
        q_loss = self._q_loss(new_actions, encoded)
        loss = bc_loss + self.eta * q_loss
        return loss, {"actor_loss": loss, "bc_loss": bc_loss, "q_loss": q_loss}

    def _q_loss(self, new_actions: th.Tensor, encoded: EncodedBatch) -> th.Tensor:
        """-Q_i / E|Q_j|, i and j two different heads, drawn anew in each step (Diffusion-QL's normalisation)."""
        with _frozen(self.critic):
            q_values = self.critic(encoded.features, encoded.prompts, new_actions).flatten(1)  # (n_critics, B)
        n_critics = len(q_values)
        heads = th.arange(n_critics, device=self.device)
        # Tensors instead of a Python branch: the step must not wait for the device.
        chosen = th.randint(n_critics, (), generator=self.generator, device=self.device)
        other = (chosen + 1) % n_critics
        value = (q_values.mean(dim=1) * (heads == chosen)).sum()
        scale = (q_values.detach().abs().mean(dim=1) * (heads == other)).sum()
        return -value / scale.clamp(min=1e-6)

    def _with_noise(self, prompts: PromptEncoding) -> PromptEncoding:
        if self.prompt_noise == 0:
            return prompts
        noise = th.randn(prompts.vectors.shape, generator=self.generator, device=self.device)
        return prompts._replace(vectors=prompts.vectors + self.prompt_noise * noise)

    def _chain_noise(self, shape: Sequence[int]) -> th.Tensor:
        """Noise of a whole chain: (K, M, N, action_dim)."""
        size = (self.actor.diffusion.n_steps, *shape, self.actor.denoiser.action_dim)
        return th.randn(size, generator=self.generator, device=self.device)


def expectile_loss(errors: th.Tensor, expectile: float) -> th.Tensor:
    """The asymmetric square whose least sum is at the expectile: 0.5 gives the mean, towards 1 it nears the maximum.

    :param errors: of any shape, target minus prediction.
    :param expectile: weight of errors above 0; those below have the rest to 1.
    :return: scalar.
    """
    weights = th.where(errors > 0, expectile, 1.0 - expectile)
    return (weights * errors.square()).mean()


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """No gradients for the weights inside the block; those of the inputs still flow."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
