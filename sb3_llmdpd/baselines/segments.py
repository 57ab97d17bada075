"""`SegmentBuffer`, which draws stretches of episodes with their returns-to-go, for policies that read what came before."""

from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_llmdpd.data.episodes import OfflineDataset
from sb3_llmdpd.replay.buffer import PromptReplayBuffer
from sb3_llmdpd.type_aliases import PromptBatch


class Segments(NamedTuple):
    """B = M * N stretches of K steps: rows m * N to (m + 1) * N belong to prompt m. The last step is always a real one."""

    observations: th.Tensor
    """(B, K, *obs_shape), environment units."""
    actions: th.Tensor
    """(B, K, action_dim), in [-1, 1]."""
    returns_to_go: th.Tensor
    """(B, K), sums of scaled rewards from each step to the end of its episode."""
    is_step: th.Tensor
    """(B, K), bool; False before an episode's first step."""


class SegmentBuffer(PromptReplayBuffer):
    """Prompts as `PromptReplayBuffer` draws them, and for each the K steps up to and with each of its transitions.

    :param dataset: checked episodes with their spaces.
    :param context: K, steps of a stretch.
    :param kwargs: see `PromptReplayBuffer`.
    """

    def __init__(self, dataset: OfflineDataset, context: int, **kwargs: Any) -> None:
        super().__init__(dataset, **kwargs)
        self.context = context
        index = self._index
        self._first_rows = np.sort(index.episode_row)
        rewards = self._outcomes[:, 0].cpu().numpy().astype(np.float64)
        returns_to_go = np.zeros_like(rewards)  # the row behind an episode has no reward
        for first, end in zip(index.episode_row, index.episode_row + index.episode_length, strict=True):
            returns_to_go[first:end] = rewards[first:end][::-1].cumsum()[::-1]
        self._returns_to_go = self._tensor(returns_to_go)
        returns = returns_to_go[index.episode_row]
        self.best_returns = np.array(
            [returns[index.episode_task == task].max() for task in range(len(self.tasks))]
        )
        """(n_tasks,): largest return of an episode of each task, in scaled rewards."""

    def sample_segments(self, batch_size: int) -> tuple[Segments, PromptBatch]:
        """Draw prompts and stretches of other episodes of their tasks.

        :param batch_size: B, a multiple of M = min(prompts_per_batch, B).
        :return: B stretches and M prompts.
        :raises ValueError: when B is not a positive multiple of M.
        """
        draw = self._draws(batch_size, self.generator)
        rows = draw.rows
        steps = rows[:, None] + np.arange(1 - self.context, 1)  # (B, K)
        first_rows = self._first_rows[np.searchsorted(self._first_rows, rows, side="right") - 1][:, None]
        is_step = steps >= first_rows
        flat = np.maximum(steps, first_rows).ravel()
        shape = (len(rows), self.context)
        observations, actions = self._steps.take(flat)
        assert isinstance(observations, th.Tensor)  # the policy has seen to it
        return (
            Segments(
                observations.unflatten(0, shape),
                actions.unflatten(0, shape),
                self._rows(self._returns_to_go, flat).unflatten(0, shape),
                th.from_numpy(is_step).to(self.device),
            ),
            self._prompts(draw),
        )
