"""The batches that travel from the replay buffer and `predict` to the networks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch as th

TensorObs = th.Tensor | dict[str, th.Tensor]
"""Observations of a batch: (B, *obs_shape), or a dict of such tensors."""

Metrics = dict[str, th.Tensor]
"""Metrics of a loss: scalars that stay on the device until they are logged."""


class PromptBatch(NamedTuple):
    """M prompts. Nothing reads the values of a text or trajectory whose flag is False."""

    text_vectors: th.Tensor
    """(M, text_dim), raw vectors of the frozen text encoder; (M, 0) where no sentence is shown."""
    has_text: th.Tensor
    """(M,), bool."""
    observations: TensorObs
    """(M * S, *obs_shape), environment units: the steps of a prompt's examples one after the other, and rows
    that nobody reads up to S; prompt after prompt. S = 0 where no example is shown."""
    actions: th.Tensor
    """(M, S, action_dim), in [-1, 1]."""
    lengths: th.Tensor
    """(M, E), int64: steps of each example, in their order; zeros behind the last one."""
    has_trajectory: th.Tensor
    """(M,), bool."""

    def dropped(self, drop_text: th.Tensor, drop_trajectory: th.Tensor) -> "PromptBatch":
        """Take some texts and some trajectories away.

        :param drop_text: (M,), bool, True where the text is taken away.
        :param drop_trajectory: (M,), bool, True where the trajectory is taken away.
        :return: the prompts that remain.
        """
        return self._replace(
            has_text=self.has_text & ~drop_text, has_trajectory=self.has_trajectory & ~drop_trajectory
        )

    def without_examples(self) -> "PromptBatch":
        """Keep the sentences alone: S = 0, so that no step of an example has to be encoded."""
        return self._replace(
            observations=_map(lambda rows: rows[:0], self.observations),
            actions=self.actions[:, :0],
            lengths=self.lengths[:, :0],
            has_trajectory=th.zeros_like(self.has_trajectory),
        )

    def without_texts(self) -> "PromptBatch":
        """Keep the examples alone: text_dim = 0, so that no sentence has to be encoded."""
        return self._replace(text_vectors=self.text_vectors[:, :0], has_text=th.zeros_like(self.has_text))

    def dropped_at_random(
        self, draws: th.Tensor, text_dropout: float, trajectory_dropout: float, pair_dropout: float
    ) -> "PromptBatch":
        """Take a share of the texts and of the trajectories away, independently.

        A prompt that still has both then loses its text with a further probability.

        :param draws: (2, M), uniform in [0, 1).
        :param text_dropout: share of the texts.
        :param trajectory_dropout: share of the trajectories.
        :param pair_dropout: share of the pairs.
        :return: the prompts that remain.
        """
        drop_trajectory = draws[1] < trajectory_dropout
        is_pair = self.has_trajectory & ~drop_trajectory
        share = th.where(is_pair, 1.0 - (1.0 - text_dropout) * (1.0 - pair_dropout), text_dropout)
        return self.dropped(draws[0] < share, drop_trajectory)


class PromptReplayBufferSamples(NamedTuple):
    """B = M * N transitions: rows m * N to (m + 1) * N belong to prompt m. The first six names are SB3's."""

    observations: TensorObs
    """(B, *obs_shape), environment units."""
    actions: th.Tensor
    """(B, action_dim), in [-1, 1]."""
    next_observations: TensorObs
    """(B, *obs_shape), environment units."""
    dones: th.Tensor
    """(B, 1), 1.0 where the task itself ended; never at a time limit."""
    rewards: th.Tensor
    """(B, 1), scaled per task."""
    discounts: th.Tensor | None
    """Always None: rewards are of one step. Present for SB3's code."""
    prompts: PromptBatch
    """M prompts, each from another episode of its transitions' task."""

    def leading(self, n: int) -> "PromptReplayBufferSamples":
        """Keep the first transitions of each prompt.

        :param n: transitions to keep of each prompt.
        :return: M * n transitions.
        """
        n_prompts = len(self.prompts.has_text)

        def kept(rows: th.Tensor) -> th.Tensor:
            return rows.unflatten(0, (n_prompts, -1))[:, :n].flatten(0, 1)

        return self._replace(
            observations=_map(kept, self.observations),
            actions=kept(self.actions),
            next_observations=_map(kept, self.next_observations),
            dones=kept(self.dones),
            rewards=kept(self.rewards),
        )


class PromptEncoding(NamedTuple):
    """M encoded prompts."""

    vectors: th.Tensor
    """(M, prompt_dim): text and trajectory vectors side by side, or the text's vectors alone."""
    tokens: th.Tensor
    """(M, S, token_dim): the encoded steps of all examples; (M, S, 0) for nearest steps."""
    keys: th.Tensor
    """(M, features_dim + 1, S): the states by which nearest steps are found, see `example_keys`; (M, S, 0)
    for others."""
    steps: th.Tensor
    """(M, S, step_dim): the steps as nearest steps read them, see `example_steps`; (M, S, 0) for others."""
    is_step: th.Tensor
    """(M, S), bool; False for rows behind a prompt's last step."""
    has_trajectory: th.Tensor
    """(M,), bool."""


def to_device(observations: Any, device: th.device) -> TensorObs:
    """Move observations to a device, as tensors.

    :param observations: (n, *obs_shape), or a dict of such arrays or tensors.
    :param device: target device.
    :return: the same structure of tensors.
    """
    return _map(lambda rows: th.as_tensor(rows).to(device), observations)


def _map(function: Callable[[Any], th.Tensor], observations: Any) -> TensorObs:
    if isinstance(observations, dict):
        return {key: function(value) for key, value in observations.items()}
    return function(observations)
