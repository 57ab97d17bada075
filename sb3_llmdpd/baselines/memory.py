"""`Memory`, a Prompt-DT in a block of episodes: the last steps of each row, and the return that is left to reach."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_llmdpd.baselines.prompt_dt_network import PromptDTNetwork
from sb3_llmdpd.baselines.segments import Segments
from sb3_llmdpd.type_aliases import PromptBatch


class Memory:
    """Acts in the rows of a block, which may end at different steps; see `Act`.

    :param network: which acts.
    :param action_space: of the environments.
    :param context: K, steps that are remembered.
    :param prompts: one for each row.
    :param targets: for each row the return to reach, as the network is told it, and what a raw reward of 1 takes from it.
    """

    def __init__(
        self,
        network: PromptDTNetwork,
        action_space: spaces.Box,
        context: int,
        prompts: PromptBatch,
        targets: Sequence[tuple[float, float]],
    ) -> None:
        n_rows = len(targets)
        self.network = network
        self.action_space = action_space
        self.prompts = prompts
        example = prompts.observations
        assert isinstance(example, th.Tensor)  # the policy has seen to it
        self._returns = th.tensor([target for target, _ in targets])
        self._units = th.tensor([unit for _, unit in targets])
        self._steps = Segments(
            th.zeros(n_rows, context, *example.shape[1:]),
            th.zeros(n_rows, context, prompts.actions.shape[-1]),
            th.zeros(n_rows, context),
            th.zeros(n_rows, context, dtype=th.bool),
        )
        """Of each row, the latest last."""

    @th.no_grad()
    def __call__(self, observations: Any, rows: Sequence[int], rewards: np.ndarray) -> np.ndarray:
        """Act in the rows that are not done.

        :param observations: (n, *obs_shape), environment units.
        :param rows: the n rows.
        :param rewards: (n,), raw, of the rows' last steps; 0 at the first.
        :return: (n, *action_shape), environment units.
        """
        at = th.as_tensor(list(rows))
        self._returns[at] -= self._units[at] * th.as_tensor(rewards, dtype=th.float32)
        now = (
            th.tensor(observations),
            th.zeros(len(at), self._steps.actions.shape[-1]),
            self._returns[at],
            True,
        )
        for memory, entry in zip(self._steps, now, strict=True):
            memory[at] = memory[at].roll(-1, dims=1)
            memory[at, -1] = th.as_tensor(entry, dtype=memory.dtype)
        device = self.prompts.actions.device
        recent = Segments(*(memory[at].to(device) for memory in self._steps))
        actions = self.network(recent, self._prompts_of(at.to(device)))[:, -1].cpu()  # (n, action_dim)
        self._steps.actions[at, -1] = actions
        low, high = self.action_space.low, self.action_space.high
        environment_units: np.ndarray = low + (actions.numpy().reshape(-1, *low.shape) + 1.0) / 2.0 * (
            high - low
        )
        return environment_units.astype(self.action_space.dtype)

    def _prompts_of(self, at: th.Tensor) -> PromptBatch:
        shape = self.prompts.actions.shape[:2]
        assert isinstance(self.prompts.observations, th.Tensor)
        return PromptBatch(
            self.prompts.text_vectors[at],
            self.prompts.has_text[at],
            self.prompts.observations.unflatten(0, shape)[at].flatten(0, 1),
            self.prompts.actions[at],
            self.prompts.has_trajectory[at],
        )
