"""Diffusion-QL's gradient step written by hand, with all that is known to make it fast, to compare ours with.

Eager PyTorch and nothing else: an exact Mish without softplus, and one packed array of transitions that is
gathered once. Adam is one fused kernel; clipping and averaging go over lists of tensors. The state's share of
the first layer is computed once for a whole chain. The critic has no weight gradients in the actor's pass,
and the chain of the target no graph. Nothing waits for a number.
"""

import copy
import math
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple, Self

import torch as th
from torch import nn

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.llmdpd.actor import PromptedActor
from sb3_llmdpd.llmdpd.critic import PromptedCritic
from sb3_llmdpd.networks.layers import Mish
from sb3_llmdpd.type_aliases import PromptBatch, PromptReplayBufferSamples


class Draws(NamedTuple):
    """All random numbers of a step but those that choose its transitions."""

    target_chain: th.Tensor
    """(K, B, action_dim), noise of the next action's chain."""
    noise: th.Tensor
    """(B, action_dim), noise of the data's actions."""
    steps: th.Tensor
    """(B,), step of the chain for each row."""
    actor_chain: th.Tensor
    """(K, B, action_dim), noise of the actor's own chain."""
    head: th.Tensor
    """(), number of the Q-network that the actor learns from."""

    @classmethod
    def new(cls, n_steps: int, batch_size: int, action_dim: int, n_critics: int = 2) -> Self:
        """Draw all of them."""
        return cls(
            th.randn(n_steps, batch_size, action_dim),
            th.randn(batch_size, action_dim),
            th.randint(n_steps, (batch_size,)),
            th.randn(n_steps, batch_size, action_dim),
            th.randint(n_critics, ()),
        )


class ReferenceActor(nn.Module):
    """eps(a, k, s): the layers of Diffusion-QL's denoiser, its first one cut into a share of each input."""

    def __init__(self, actor: PromptedActor, prompted: bool) -> None:
        super().__init__()
        denoiser, alphas_bar = actor.denoiser, actor.process.alphas_bar
        self.from_state, self.from_action = copied(denoiser.from_state), copied(denoiser.from_action)
        self.from_step = nn.Sequential(*map(copied, denoiser.from_step))
        self.trunk = nn.Sequential(*map(copied, denoiser.trunk))
        self.encoder = copied(actor.prompt_encoder) if prompted else None
        self.from_prompt = copied(denoiser.from_prompt) if prompted else None
        self.step_table = denoiser.step_table
        self.signal, self.noise = alphas_bar.sqrt(), (1 - alphas_bar).sqrt()
        bars = [1.0, *alphas_bar.double().tolist()]
        self.constants = [
            (
                math.sqrt(here),
                math.sqrt(1 - here),
                math.sqrt(there) * (1 - here / there) / (1 - here),
                math.sqrt(here / there) * (1 - there) / (1 - here),
                math.sqrt((1 - here / there) * (1 - there) / (1 - here)),
            )
            for there, here in pairwise(bars)
        ]

    def condition(self, states: th.Tensor, prompts: th.Tensor | None) -> th.Tensor:
        """(B, width): the share of state and prompt, the same for all steps."""
        share = self.from_state(states)
        if prompts is None or self.from_prompt is None:
            return share
        of_prompts = self.from_prompt(prompts)  # (M, width)
        return (share.unflatten(0, (len(prompts), -1)) + of_prompts[:, None]).flatten(0, 1)

    def bc(self, actions: th.Tensor, condition: th.Tensor, draws: Draws) -> th.Tensor:
        """Mean squared error of the predicted noise."""
        noisy = self.signal[draws.steps, None] * actions + self.noise[draws.steps, None] * draws.noise
        embeddings = nn.functional.embedding(draws.steps, self.from_step(self.step_table))
        predicted = self.trunk(self.from_action(noisy) + embeddings + condition)
        return nn.functional.mse_loss(predicted, draws.noise)

    def sample(self, condition: th.Tensor, noise: th.Tensor) -> th.Tensor:
        """(B, action_dim): the whole chain."""
        embeddings, actions = self.from_step(self.step_table), noise[0]
        for k in reversed(range(len(noise))):
            signal, sigma, of_start, of_noisy, spread = self.constants[k]
            predicted = self.trunk(self.from_action(actions) + embeddings[k] + condition)
            start = ((actions - sigma * predicted) / signal).clamp(-1, 1)
            actions = of_start * start + of_noisy * actions
            if k > 0:
                actions = actions + spread * noise[len(noise) - k]
        return actions


class ReferenceCritic(nn.Module):
    """Two Q-networks side by side."""

    def __init__(self, critic: PromptedCritic, prompted: bool) -> None:
        super().__init__()
        q_networks = critic.q_networks
        self.n_critics = q_networks.n_critics
        self.from_state, self.from_action = copied(q_networks.from_state), copied(q_networks.from_action)
        self.from_prompt = copied(q_networks.from_prompt) if prompted else None
        maps = [layer for layer in q_networks.trunk if not isinstance(layer, Mish)]
        self.weights = nn.ParameterList([nn.Parameter(layer.weight.detach().clone()) for layer in maps])
        self.biases = nn.ParameterList([nn.Parameter(layer.bias.detach().clone()) for layer in maps])
        self.activation = Mish()

    def forward(self, states: th.Tensor, prompts: th.Tensor | None, actions: th.Tensor) -> th.Tensor:
        """(n_critics, B)."""
        first = self.from_state(states) + self.from_action(actions)
        if prompts is not None and self.from_prompt is not None:
            of_prompts = self.from_prompt(prompts)[:, None]  # (M, 1, width)
            first = (first.unflatten(0, (len(prompts), -1)) + of_prompts).flatten(0, 1)
        return self.trunk(first)

    def trunk(self, first: th.Tensor) -> th.Tensor:
        """(n_critics, B), from the first layer's (B, n_critics * width)."""
        hidden = first.view(len(first), self.n_critics, -1).transpose(0, 1)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            hidden = th.baddbmm(bias, self.activation(hidden), weight)
        return hidden.squeeze(-1)


class ReferenceStep:
    """Takes gradient steps, beginning with the weights of a model.

    :param model: model with the paper's settings, whose buffer has the data.
    :param prompted: True for a reference with prompt encoders.
    """

    def __init__(self, model: LLMDPD, prompted: bool) -> None:
        assert model.replay_buffer is not None
        self.gamma, self.tau, self.eta = model.gamma, model.tau, model.eta
        self.max_grad_norm, self.ema_decay = model.max_grad_norm, model.ema_decay
        self.batch_size = model.batch_size
        self.actor = ReferenceActor(model.actor, prompted)
        self.actor_target = ReferenceActor(model.actor_target, prompted)
        self.critic = ReferenceCritic(model.critic, prompted)
        self.critic_target = ReferenceCritic(model.critic_target, prompted)
        self.optimizers = [
            th.optim.Adam(net.parameters(), lr=3e-4, fused=True) for net in (self.critic, self.actor)
        ]
        self.n_steps, self.action_dim = len(self.actor.constants), model.actor.denoiser.action_dim
        self.n_updates = 0
        self.features, self.standardised = model.actor.encode_observations, model.actor.text_normaliser

    def pack(self, model: LLMDPD, n_rows: int) -> None:
        """Lay transitions out as one array of rows."""
        assert model.replay_buffer is not None
        n_batches = -(-n_rows // model.batch_size)
        batches = [model.replay_buffer.sample(model.batch_size) for _ in range(n_batches)]
        self.rows = th.cat([self.rows_of(batch) for batch in batches])
        self.prompts = self.prompts_of(batches[0])

    @th.no_grad()
    def rows_of(self, batch: PromptReplayBufferSamples) -> th.Tensor:
        """(B, columns): state, next state, action, reward, not done."""
        states, next_states = self.features(batch.observations), self.features(batch.next_observations)
        return th.cat([states, next_states, batch.actions, batch.rewards, 1 - batch.dones], dim=1)

    @th.no_grad()
    def prompts_of(self, batch: PromptReplayBufferSamples) -> PromptBatch:
        """With standardised sentences."""
        return batch.prompts._replace(text_vectors=self.standardised(batch.prompts.text_vectors))

    def sample(self) -> th.Tensor:
        """(B, columns)."""
        return self.rows.index_select(0, th.randint(len(self.rows), (self.batch_size,)))

    def encode(self, actor: ReferenceActor, prompts: PromptBatch | None) -> th.Tensor | None:
        """(M, prompt_dim)."""
        if actor.encoder is None or prompts is None:
            return None
        features = self.features(prompts.observations).unflatten(0, prompts.actions.shape[:2])
        vectors: th.Tensor = actor.encoder(prompts, features).vectors
        return vectors

    def losses(
        self, rows: th.Tensor, prompts: PromptBatch | None, draws: Draws
    ) -> Iterable[tuple[str, th.Tensor]]:
        """Yield the critic's loss and, once its step was taken, the actor's."""
        size = (rows.shape[1] - self.action_dim - 2) // 2
        widths = [size, size, self.action_dim, 1, 1]
        states, next_states, actions, rewards, not_done = rows.split(widths, dim=1)
        with th.no_grad():
            encoded = self.encode(self.actor_target, prompts)
            condition = self.actor_target.condition(next_states, encoded)
            next_actions = self.actor_target.sample(condition, draws.target_chain)
            next_values = self.critic_target(next_states, encoded, next_actions).amin(dim=0)
            targets = rewards[:, 0] + self.gamma * not_done[:, 0] * next_values
        yield "critic_loss", (self.critic(states, encoded, actions) - targets).square().mean(dim=1).sum()
        condition = self.actor.condition(states, self.encode(self.actor, prompts))
        bc_loss = self.actor.bc(actions, condition, draws)
        new_actions = self.actor.sample(condition, draws.actor_chain)
        self.critic.requires_grad_(False)
        means = self.critic(states, encoded, new_actions)
        self.critic.requires_grad_(True)
        value, scale = means[draws.head].mean(), means[1 - draws.head].detach().abs().mean()
        yield "actor_loss", bc_loss - self.eta * value / scale

    def step(self, rows: th.Tensor, prompts: PromptBatch | None, draws: Draws) -> dict[str, th.Tensor]:
        """Minimise both losses once, and move the targets."""
        metrics = {}
        for optimizer, (name, loss) in zip(self.optimizers, self.losses(rows, prompts, draws), strict=True):
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], self.max_grad_norm, foreach=True)
            optimizer.step()
            metrics[name] = loss.detach()
        self.n_updates += 1
        decay = min(self.ema_decay, (1 + self.n_updates) / (10 + self.n_updates))
        with th.no_grad():
            self._move(self.actor_target, self.actor, 1 - decay)
            self._move(self.critic_target, self.critic, self.tau)
        return metrics

    @staticmethod
    def _move(target: nn.Module, network: nn.Module, share: float) -> None:
        th._foreach_lerp_(list(target.parameters()), list(network.parameters()), share)

    def __call__(self) -> None:
        """Take a step on a new batch."""
        draws = Draws.new(self.n_steps, self.batch_size, self.action_dim)
        self.step(self.sample(), self.prompts if self.actor.encoder is not None else None, draws)


def copied(module: nn.Module) -> nn.Module:
    """Copy a module, with weights that learn."""
    return copy.deepcopy(module).requires_grad_(True)


class ReferenceActing:
    """Acting written by hand: the networks of a model for one prompt, tensors in and out.

    :param model: model with concatenated prompts.
    :param prompt: (1, prompt_dim), the encoded prompt.
    """

    def __init__(self, model: LLMDPD, prompt: th.Tensor) -> None:
        self.actor = ReferenceActor(model.actor_target, True)
        self.critic = ReferenceCritic(model.critic_target, True)
        self.prompt, self.features = prompt, model.actor_target.encode_observations
        self.n_steps, self.action_dim = len(self.actor.constants), model.actor.denoiser.action_dim

    @th.inference_mode()
    def forwards(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """The K forward passes alone, without the arithmetic between them."""
        condition = self.actor.condition(self.features(observations), self.prompt)
        embeddings = self.actor.from_step(self.actor.step_table)
        for k in reversed(range(self.n_steps)):
            actions = self.actor.trunk(self.actor.from_action(actions) + embeddings[k] + condition)
        return actions

    @th.inference_mode()
    def best_of(self, observation: th.Tensor, n_candidates: int) -> th.Tensor:
        """(1, action_dim): the best of some actions for an observation, whose share is computed once."""
        features = self.features(observation)
        noise = th.randn(self.n_steps, n_candidates, self.action_dim)
        actions = self.actor.sample(self.actor.condition(features, self.prompt), noise)
        shared = self.critic.from_state(features) + self.critic.from_prompt(self.prompt)
        first = shared + self.critic.from_action(actions)
        return actions[self.critic.trunk(first).amin(dim=0).argmax(dim=0, keepdim=True)]
