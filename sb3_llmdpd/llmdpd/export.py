"""Export of the acting network as a program of PyTorch, which runs without this package."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from torch import nn

from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.data.spaces import unscale_actions
from sb3_llmdpd.diffusion.process import ChainStep
from sb3_llmdpd.llmdpd.actor import PromptedDiffusionActor, count_rows
from sb3_llmdpd.type_aliases import PromptEncoding, TensorObs, to_device


class ActingNetwork(nn.Module):
    """Observations in, actions out, for one prompt that is a part of the network.

    :param actor: actor, whose weights are shared
    :param prompt: one prompt that the actor encoded
    :param chain: steps from noise to actions
    """

    low: th.Tensor
    high: th.Tensor

    def __init__(
        self, actor: PromptedDiffusionActor, prompt: PromptEncoding, chain: Sequence[ChainStep]
    ) -> None:
        super().__init__()
        self.actor, self.chain = actor, list(chain)
        for name, value in prompt._asdict().items():
            self.register_buffer(name, value)
        space = actor.action_space
        self.is_whole = space.dtype.kind in "iu"
        for name, bound in (("low", space.low), ("high", space.high)):
            self.register_buffer(name, th.as_tensor(bound, device=actor.device))

    def forward(self, observations: TensorObs, noise: th.Tensor | None = None) -> th.Tensor:
        """Act.

        :param observations: (n, *obs_shape), or a dict of such tensors; environment units
        :param noise: (S, n, action_dim), standard normal; None for the deterministic action of each row
        :return: (n, *action_shape), environment units, of the action space's dtype and within its bounds
        """
        prompt = PromptEncoding(*(getattr(self, name) for name in PromptEncoding._fields))
        if noise is None:
            shape = len(self.chain), count_rows(observations, 1), self.actor.denoiser.action_dim
            noise = th.zeros(shape, device=self.low.device)
        actions = self.actor(observations, prompt, noise.unsqueeze(1), self.chain)
        # As `actions_in_space`.
        low, high = self.low.to(actions.dtype), self.high.to(actions.dtype)
        unscaled = unscale_actions(actions.reshape(-1, *low.shape), low, high)
        unscaled = (unscaled.round() if self.is_whole else unscaled).clamp(low, high)
        return unscaled.to(self.low.dtype).clamp(self.low, self.high)


def export_network(network: ActingNetwork, path: str | Path, deterministic: bool) -> Path:
    """Write the network for `torch.export.load`, whole or not at all.

    :param network: network to write
    :param path: path of the file; ``.pt2`` is added where there is no suffix
    :param deterministic: let the program take observations alone, and no noise beside them
    :return: path of the file
    """
    place = Path(path).expanduser()
    place = place if place.suffix else place.with_suffix(".pt2")
    rows, n_examples, actor = th.export.Dim("rows"), 3, network.actor
    drawn = [actor.observation_space.sample() for _ in range(n_examples)]
    if isinstance(drawn[0], dict):
        observations: Any = {key: np.stack([each[key] for each in drawn]) for key in drawn[0]}
        shapes: list[Any] = [{key: {0: rows} for key in observations}]
    else:
        observations, shapes = np.stack(drawn), [{0: rows}]
    inputs: list[Any] = [to_device(observations, actor.device)]
    if not deterministic:
        noise_shape = len(network.chain), n_examples, actor.denoiser.action_dim
        inputs.append(th.zeros(noise_shape, device=actor.device))
        shapes.append({1: rows})
    with th.no_grad():
        program = th.export.export(network, tuple(inputs), dynamic_shapes=tuple(shapes))
    with whole_file(place) as temporary:
        th.export.save(program, temporary)
    return place
