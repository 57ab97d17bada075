"""`Memory`, which lets a Prompt-DT act in a block of episodes and remembers the last steps of each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_llmdpd.baselines.prompt_dt_network import PromptDTNetwork
from sb3_llmdpd.baselines.segments import Segments
from sb3_llmdpd.data.spaces import actions_in_space
from sb3_llmdpd.type_aliases import PromptBatch


class Memory:
    """Acts in the rows of a block, which may end at different steps; see `Act`.

    :param network: network that acts
    :param action_space: space of the environments
    :param context: K, steps that are remembered
    :param prompts: a prompt for each row
    :param targets: for each row the return to reach, scaled, and how much a raw reward of 1 takes from it
    """

    def __init__(
        self,
        network: PromptDTNetwork,
        action_space: spaces.Box,
        context: int,
        prompts: PromptBatch,
        targets: Sequence[tuple[float, float]],
    ) -> None:
        assert isinstance(prompts.observations, th.Tensor)  # PromptDT refuses other observations
        self.network, self.action_space, self.prompts = network, action_space, prompts
        self._returns, self._units = th.tensor(targets).unbind(dim=1)
        shape = (len(targets), context)
        self._steps = Segments(
            th.zeros(*shape, *prompts.observations.shape[1:]),
            th.zeros(*shape, prompts.actions.shape[-1]),
            th.zeros(shape),
            th.zeros(shape, dtype=th.bool),
        )
        """Last steps of each row, the latest last."""

    @th.no_grad()
    def __call__(self, observations: Any, rows: Sequence[int], rewards: np.ndarray) -> np.ndarray:
        """Act in the rows that are not done.

        :param observations: (n, *obs_shape), environment units
        :param rows: the n rows
        :param rewards: (n,), raw rewards of the rows' last steps; 0 at the first
        :return: (n, *action_shape), environment units
        """
        at = th.as_tensor(list(rows))
        self._returns[at] -= self._units[at] * th.as_tensor(rewards, dtype=th.float32)
        no_action = th.zeros(self._steps.actions.shape[-1])
        latest = (th.tensor(observations), no_action, self._returns[at], True)
        for memory, entry in zip(self._steps, latest, strict=True):
            memory[at] = memory[at].roll(-1, dims=1)
            memory[at, -1] = th.as_tensor(entry, dtype=memory.dtype)
        device = self.prompts.actions.device
        recent = Segments(*(memory[at].to(device) for memory in self._steps))
        actions = self.network(recent, self._prompts_of(at.to(device)))[:, -1].cpu()  # (n, action_dim)
        self._steps.actions[at, -1] = actions
        space = self.action_space
        return actions_in_space(actions.numpy().reshape(-1, *space.shape), space)

    def _prompts_of(self, at: th.Tensor) -> PromptBatch:
        prompts = self.prompts
        assert isinstance(prompts.observations, th.Tensor)  # see the constructor
        examples = prompts.observations.unflatten(0, prompts.actions.shape[:2])
        return PromptBatch(
            prompts.text_vectors[at],
            prompts.has_text[at],
            examples[at].flatten(0, 1),
            prompts.actions[at],
            prompts.lengths[at],
            prompts.has_trajectory[at],
        )
