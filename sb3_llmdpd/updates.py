"""Algorithm 1: the gradient step of critic, actor and targets, and the ways to take it faster."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import nn

from sb3_llmdpd.acceleration import Acceleration, GraphedUpdate
from sb3_llmdpd.buffers import PromptReplayBuffer
from sb3_llmdpd.losses import PromptedLosses, StepNoise
from sb3_llmdpd.policies import LLMDPDPolicy
from sb3_llmdpd.type_aliases import Metrics, PromptBatch, PromptReplayBufferSamples

_FOREACH = ("cpu", "cuda")
"""Devices on which norms are taken over lists of tensors; PyTorch itself would do so on a GPU alone."""


class GradientSteps(PromptedLosses):
    """The gradient step of `LLMDPD`."""

    policy: LLMDPDPolicy
    replay_buffer: PromptReplayBuffer | None
    acceleration: dict[str, Any] | None
    q_batch_size: int | None
    text_dropout: float
    trajectory_dropout: float
    pair_dropout: float
    max_grad_norm: float
    ema_decay: float
    _accumulate: Callable[[Metrics], None]
    _accelerated: Acceleration
    _graphed_update: GraphedUpdate | None = None
    """While it learns, where a CUDA graph was asked for."""

    def _accelerate(self) -> None:
        """Make the losses what was asked for."""
        self._accelerated = Acceleration.of(self.acceleration)
        self._critic_loss = self._accelerated.of_loss(self.critic_loss, self.device)
        self._actor_loss = self._accelerated.of_loss(self.actor_loss, self.device)

    @contextmanager
    def _accelerating(self) -> Iterator[None]:
        """All that was asked for beside the losses, inside the block and not behind it."""
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        with self._accelerated.matmuls(), self._accelerated.graph(self._update, optimizers, self.device) as update:
            self._graphed_update = update
            try:
                yield
            finally:
                self._graphed_update = None

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """Algorithm 1, several times.

        :param gradient_steps: how often.
        :param batch_size: transitions in each.
        """
        assert self.replay_buffer is not None  # `learn` has checked
        self.policy.set_training_mode(True)
        self._update_learning_rate([])
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size)
            n_prompts = len(batch.prompts.has_text)
            noise = self.draw_noise(n_prompts, batch_size // n_prompts, (self.q_batch_size or batch_size) // n_prompts)
            self._n_updates += 1
            # What the averaged actor keeps of itself: little in the beginning, when there is little to keep.
            decay = min(self.ema_decay, (1 + self._n_updates) / (10 + self._n_updates))
            update = self._graphed_update or self._update
            self._accumulate(update(batch, noise, decay))

    def _update(self, batch: PromptReplayBufferSamples, noise: StepNoise, decay: float | th.Tensor) -> Metrics:
        """The critic's step, the actor's step, the targets: a function of tensors, which waits for none of them."""
        batch = batch._replace(prompts=self._drop_prompts(batch.prompts, noise.dropout))
        metrics: Metrics = {}
        encoded = None
        if self.eta > 0:
            critic_batch = batch.leading((self.q_batch_size or len(batch.actions)) // len(batch.prompts.has_text))
            encoded = self.encode_for_critic(critic_batch)
            critic_loss, metrics = self._critic_loss(critic_batch, encoded, noise)
            self._step(self.critic.optimizer, critic_loss)
        actor_loss, actor_metrics = self._actor_loss(batch, encoded, noise)
        self._step(self.actor.optimizer, actor_loss)
        self._update_targets(decay)
        return {**metrics, **actor_metrics}

    def _drop_prompts(self, prompts: PromptBatch, draws: th.Tensor) -> PromptBatch:
        if self.trajectory_dropout == 1:
            prompts = prompts.without_examples()
        return prompts.dropped_at_random(draws, self.text_dropout, self.trajectory_dropout, self.pair_dropout)

    def _step(self, optimizer: th.optim.Optimizer, loss: th.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        foreach = True if self.device.type in _FOREACH else None
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], self.max_grad_norm, foreach=foreach)
        optimizer.step()

    @th.no_grad()
    def _update_targets(self, decay: float | th.Tensor) -> None:
        """Move the targets.

        :param decay: what the averaged actor keeps of itself.
        """
        pairs: list[tuple[nn.Module, nn.Module, float | th.Tensor]] = [(self.actor_target, self.actor, 1.0 - decay)]
        if self.eta > 0:
            pairs.append((self.critic_target, self.critic, self.tau))
        for target, network, step in pairs:
            averages: list[th.Tensor] = list(target.parameters())
            latest: list[th.Tensor] = list(network.parameters())
            if isinstance(step, th.Tensor):  # which a CUDA graph reads
                th._foreach_lerp_(averages, latest, [step] * len(latest))
            else:
                th._foreach_lerp_(averages, latest, step)
            for statistics, newest in zip(target.buffers(), network.buffers(), strict=True):  # of a batch norm, say
                statistics.copy_(newest)
