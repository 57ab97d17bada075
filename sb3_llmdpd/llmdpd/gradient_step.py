"""Algorithm 1: the gradient step of critic, actor and targets, and the ways to take it faster."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch as th
from torch import nn

from sb3_llmdpd.llmdpd.acceleration import Acceleration, GraphedUpdate
from sb3_llmdpd.llmdpd.losses import PromptedLosses, StepNoise
from sb3_llmdpd.llmdpd.policies import LLMDPDPolicy
from sb3_llmdpd.replay.buffer import PromptReplayBuffer
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
    _asked: Acceleration
    _followers: "tuple[Follower, Follower]"
    _graphed_update: GraphedUpdate | None = None
    """While it learns, where a CUDA graph was asked for."""

    def _prepare_steps(self) -> None:
        """Prepare the steps."""
        self._asked = Acceleration.of(self.acceleration)
        self._followers = (Follower(self.actor_target, self.actor), Follower(self.critic_target, self.critic))

    @cached_property
    def _critic_loss(self) -> Callable[..., tuple[th.Tensor, Metrics]]:
        return self._asked.of_loss(self.critic_loss, self.device)

    @cached_property
    def _actor_loss(self) -> Callable[..., tuple[th.Tensor, Metrics]]:
        return self._asked.of_loss(self.actor_loss, self.device)

    def __getstate__(self) -> dict[str, Any]:
        """Without the losses that were made of this model's: a copy makes its own."""
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_critic_loss", "_actor_loss")
        }

    @contextmanager
    def _accelerating(self) -> Iterator[None]:
        """All that was asked for beside the losses, inside the block and not behind it."""
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        with self._asked.matmuls(), self._asked.graph(self._update, optimizers, self.device) as update:
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
        if not self.policy.training:
            self.policy.set_training_mode(True)
        self._update_learning_rate([])
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size)
            n_prompts = len(batch.prompts.has_text)
            noise = self.draw_noise(
                n_prompts, batch_size // n_prompts, (self.q_batch_size or batch_size) // n_prompts
            )
            self._n_updates += 1
            # What the averaged actor keeps of itself: little in the beginning, when there is little to keep.
            decay = min(self.ema_decay, (1 + self._n_updates) / (10 + self._n_updates))
            update = self._graphed_update or self._update
            self._accumulate(update(batch, noise, decay))

    def _update(
        self, batch: PromptReplayBufferSamples, noise: StepNoise, decay: float | th.Tensor
    ) -> Metrics:
        """The critic's step, the actor's step, the targets: a function of tensors, which waits for none of them."""
        batch = batch._replace(prompts=self._drop_prompts(batch.prompts, noise.dropout))
        metrics: Metrics = {}
        encoded = None
        if self.eta > 0:
            critic_batch = batch.leading(
                (self.q_batch_size or len(batch.actions)) // len(batch.prompts.has_text)
            )
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
        if self.text_dropout == 1:
            prompts = prompts.without_texts()
        return prompts.dropped_at_random(draws, self.text_dropout, self.trajectory_dropout, self.pair_dropout)

    def _step(self, optimizer: th.optim.Optimizer, loss: th.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        foreach = True if self.device.type in _FOREACH else None
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], self.max_grad_norm, foreach=foreach)
        optimizer.step()

    def _update_targets(self, decay: float | th.Tensor) -> None:
        """Move the targets.

        :param decay: what the averaged actor keeps of itself.
        """
        actor, critic = self._followers
        actor.move(1.0 - decay)
        if self.eta > 0:
            critic.move(self.tau)


class Follower:
    """A network whose weights follow those of another one. The weights are listed once: a walk through the modules takes
    longer than the move.

    :param target: that follows.
    :param network: of the same shape.
    """

    def __init__(self, target: nn.Module, network: nn.Module) -> None:
        self._averages: list[th.Tensor] = list(target.parameters())
        self._latest: list[th.Tensor] = list(network.parameters())
        self._statistics = list(zip(target.buffers(), network.buffers(), strict=True))
        """Of a batch norm, say."""

    @th.no_grad()
    def move(self, step: float | th.Tensor) -> None:
        """Move a part of the way.

        :param step: the part, in [0, 1].
        """
        if isinstance(step, th.Tensor):  # which a CUDA graph reads
            th._foreach_lerp_(self._averages, self._latest, [step] * len(self._latest))
        else:
            th._foreach_lerp_(self._averages, self._latest, step)
        for followed, latest in self._statistics:
            followed.copy_(latest)
