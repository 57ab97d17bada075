"""Algorithm 1: the gradient step of critic, actor and targets, and the ways to take it faster."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import torch as th
from torch import nn

from sb3_llmdpd.llmdpd.acceleration import Acceleration, GraphedUpdate
from sb3_llmdpd.llmdpd.augmentation import augmentation_named
from sb3_llmdpd.llmdpd.losses import Losses, StepNoise
from sb3_llmdpd.type_aliases import Metrics, PromptBatch, PromptReplayBufferSamples

_FOREACH = ("cpu", "cuda")
"""Devices on which norms are taken over lists of tensors; PyTorch itself does so on a GPU alone."""


class GradientStep:
    """One step of all networks: drop and augment prompts, step the critic, step the actor, move the targets.

    :param losses: losses of the policy that learns.
    :param settings: arguments of `LLMDPD` by name, as of the current step.
    :param acceleration: ways to be faster.
    """

    def __init__(self, losses: Losses, settings: SimpleNamespace, acceleration: Acceleration) -> None:
        self.losses, self.settings, self.acceleration = losses, settings, acceleration
        self.policy = policy = losses.policy
        self._actor_follower = Follower(policy.actor_target, policy.actor)
        self._critic_follower = Follower(policy.critic_target, policy.critic)
        self.graphed_update: GraphedUpdate | None = None
        """The update as a CUDA graph, inside `accelerated` where that is asked for."""

    @contextmanager
    def accelerated(self) -> Iterator[None]:
        """Take the steps inside the block at the precision, and in the CUDA graph, that are asked for."""
        policy, acceleration = self.policy, self.acceleration
        optimizers = [policy.actor.optimizer, policy.critic.optimizer]
        with acceleration.matmuls(), acceleration.graph(self.update, optimizers, policy.device) as graph:
            self.graphed_update = graph
            try:
                yield
            finally:
                self.graphed_update = None

    def critic_batch_size(self, batch_size: int) -> int:
        """Transitions of a batch that the critic and the Q term see."""
        return self.settings.q_batch_size or batch_size

    def __call__(self, batch: PromptReplayBufferSamples, generator: th.Generator, n_updates: int) -> Metrics:
        """Take the step.

        :param batch: B transitions with M prompts.
        :param generator: source of all that is random in the step.
        :param n_updates: number of this step, from 1 on.
        :return: scalars, on the device.
        """
        n, n_prompts = len(batch.actions), len(batch.prompts.has_text)
        n_for_critic = self.critic_batch_size(n) // n_prompts
        noise = self.losses.draw_noise(n_prompts, n // n_prompts, n_for_critic, generator)
        # The averaged actor keeps little of itself in the beginning, when there is little to keep.
        decay = min(self.settings.ema_decay, (1 + n_updates) / (10 + n_updates))
        return (self.graphed_update or self.update)(batch, noise, decay)

    def update(self, batch: PromptReplayBufferSamples, noise: StepNoise, decay: float | th.Tensor) -> Metrics:
        """Take the step as a function of tensors, which waits for none of them.

        :param batch: B transitions with M prompts.
        :param noise: draws of the step.
        :param decay: share of itself that the averaged actor keeps.
        :return: scalars, on the device.
        """
        batch = batch._replace(prompts=self.drop_prompts(batch.prompts, noise.dropout))
        if noise.augmentation is not None:  # after that, since a prompt without an example stays as it is
            batch = augmentation_named(self.settings.augmentation)(batch, noise.augmentation)
        metrics: Metrics = {}
        encoded = None
        if self.settings.eta > 0:
            n_leading = self.critic_batch_size(len(batch.actions)) // len(batch.prompts.has_text)
            critic_batch = batch.leading(n_leading)
            encoded = self.losses.encode_for_critic(critic_batch)
            loss, metrics = self._loss("critic_loss")(critic_batch, encoded, noise)
            self.descend(self.policy.critic.optimizer, loss)
        loss, actor_metrics = self._loss("actor_loss")(batch, encoded, noise)
        self.descend(self.policy.actor.optimizer, loss)
        self.move_targets(decay)
        return {**metrics, **actor_metrics}

    def _loss(self, name: str) -> Callable[..., tuple[th.Tensor, Metrics]]:
        if not (self.acceleration.compile or self.acceleration.bfloat16):
            loss: Callable[..., tuple[th.Tensor, Metrics]] = getattr(self.losses, name)
            return loss
        accelerated = _accelerated(getattr(type(self.losses), name), self.acceleration, self.policy.device)
        return partial(accelerated, self.losses)

    def drop_prompts(self, prompts: PromptBatch, draws: th.Tensor) -> PromptBatch:
        """Drop the shares of texts and examples that the settings name.

        :param prompts: M prompts.
        :param draws: (2, M), uniform in [0, 1).
        :return: the prompts that remain.
        """
        settings = self.settings
        if settings.trajectory_dropout == 1:
            prompts = prompts.without_examples()
        if settings.text_dropout == 1:
            prompts = prompts.without_texts()
        shares = settings.text_dropout, settings.trajectory_dropout, settings.pair_dropout
        return prompts.dropped_at_random(draws, *shares)

    def descend(self, optimizer: th.optim.Optimizer, loss: th.Tensor) -> None:
        """Step an optimiser down the clipped gradient of a loss.

        :param optimizer: of the loss's weights.
        :param loss: scalar.
        """
        optimizer.zero_grad()
        loss.backward()
        foreach = True if loss.device.type in _FOREACH else None
        parameters = optimizer.param_groups[0]["params"]
        nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm, foreach=foreach)
        optimizer.step()

    def move_targets(self, decay: float | th.Tensor) -> None:
        """Move the averaged actor and the target critic towards the networks that learn.

        :param decay: share of itself that the averaged actor keeps.
        """
        self._actor_follower.move(1.0 - decay)
        if self.settings.eta > 0:
            self._critic_follower.move(self.settings.tau)


@cache
def _accelerated(
    loss: Callable[..., Any], acceleration: Acceleration, device: th.device
) -> Callable[..., Any]:
    """Accelerate a loss once for all models: a copied model must not call the losses of the original."""
    return acceleration.of_loss(loss, device)


class Follower:
    """A network whose weights follow those of another one.

    The weights are listed once: a walk through the modules takes longer than the move.

    :param target: network that follows.
    :param network: network of the same shape.
    """

    def __init__(self, target: nn.Module, network: nn.Module) -> None:
        self._averages: list[th.Tensor] = list(target.parameters())
        self._latest: list[th.Tensor] = list(network.parameters())
        # Statistics, such as those of a batch norm.
        self._buffers = list(zip(target.buffers(), network.buffers(), strict=True))

    @th.no_grad()
    def move(self, step: float | th.Tensor) -> None:
        """Move a part of the way.

        :param step: the part, in [0, 1].
        """
        if isinstance(step, th.Tensor):  # which a CUDA graph reads
            th._foreach_lerp_(self._averages, self._latest, [step] * len(self._latest))
        else:
            th._foreach_lerp_(self._averages, self._latest, step)
        for followed, latest in self._buffers:
            followed.copy_(latest)
