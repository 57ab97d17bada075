"""`SegmentBuffer`, which draws segments of episodes with their returns-to-go for policies with a memory."""

from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_llmdpd.data.episodes import OfflineDataset
from sb3_llmdpd.replay.buffer import PromptReplayBuffer
from sb3_llmdpd.type_aliases import PromptBatch


class Segments(NamedTuple):
    """B = M * N segments of K steps: rows m * N to (m + 1) * N belong to prompt m. The last step is real."""

    observations: th.Tensor
    """(B, K, *obs_shape), environment units."""
    actions: th.Tensor
    """(B, K, action_dim), in [-1, 1]."""
    returns_to_go: th.Tensor
    """(B, K), sums of scaled rewards from each step to the end of its episode."""
    is_step: th.Tensor
    """(B, K), bool; False before an episode's first step."""


class SegmentBuffer(PromptReplayBuffer):
    """A `PromptReplayBuffer` that also draws the K - 1 steps before each transition.

    :param dataset: checked episodes with their spaces
    :param context: K, steps of a segment
    :param kwargs: arguments of `PromptReplayBuffer`
    """

    def __init__(self, dataset: OfflineDataset, context: int, **kwargs: Any) -> None:
        super().__init__(dataset, **kwargs)
        self.context = context
        index = self._index
        self._first_rows = np.sort(index.episode_row)
        rewards = self._outcomes[:, 0].cpu().numpy().astype(np.float64)
        returns_to_go = np.zeros_like(rewards)  # the row after an episode has no reward
        for first, end in zip(index.episode_row, index.episode_row + index.episode_length, strict=True):
            returns_to_go[first:end] = rewards[first:end][::-1].cumsum()[::-1]
        self._returns_to_go = self._tensor(returns_to_go)
        returns = returns_to_go[index.episode_row]
        of_task = [returns[index.episode_task == task] for task in range(len(self.tasks))]
        self.best_returns = np.array([own.max() for own in of_task])
        """(n_tasks,), largest return of an episode of each task, in scaled rewards."""

    def sample_segments(self, batch_size: int) -> tuple[Segments, PromptBatch]:
        """Draw prompts and segments of other episodes of their tasks.

        :param batch_size: B, a multiple of M = min(prompts_per_batch, B)
        :return: B segments and M prompts
        :raises ValueError: when B is not a positive multiple of M
        """
        draw = self._draw(batch_size, self.generator)
        steps = draw.rows[:, None] + np.arange(1 - self.context, 1)  # (B, K)
        episodes = np.searchsorted(self._first_rows, draw.rows, side="right") - 1
        first_rows = self._first_rows[episodes][:, None]
        flat = np.maximum(steps, first_rows).ravel()
        observations, actions = self._storage.take(flat)
        assert isinstance(observations, th.Tensor)  # PromptDT refuses other observations
        segments = Segments(
            observations.unflatten(0, steps.shape),
            actions.unflatten(0, steps.shape),
            self._rows(self._returns_to_go, flat).unflatten(0, steps.shape),
            th.from_numpy(steps >= first_rows).to(self.device),
        )
        return segments, self._prompts(draw)
