"""The acting network as one program of PyTorch's own, which runs without this package."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch as th
from torch import nn

from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.diffusion.process import ChainStep
from sb3_llmdpd.llmdpd.actor import PromptedDiffusionActor, count_rows
from sb3_llmdpd.type_aliases import PromptEncoding, TensorObs


class ActingNetwork(nn.Module):
    """Observations in, actions out, for one prompt that is a part of the network.

    :param actor: that acts; its weights are shared.
    :param prompt: one, encoded by it.
    :param chain: how it goes from noise to actions.
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
        low, high = actor.action_space.low, actor.action_space.high  # type: ignore[attr-defined]  # a Box
        self.register_buffer("low", th.as_tensor(low, device=actor.device))
        self.register_buffer("high", th.as_tensor(high, device=actor.device))

    def forward(self, observations: TensorObs, noise: th.Tensor | None = None) -> th.Tensor:
        """Act.

        :param observations: (n, *obs_shape) of the model's observation space, or a dict of such tensors; environment units.
        :param noise: (S, n, action_dim), standard normal; None for the deterministic action of each row.
        :return: (n, *action_shape), environment units.
        """
        prompt = PromptEncoding(*(getattr(self, name) for name in PromptEncoding._fields))
        if noise is None:
            noise = self.low.new_zeros(
                len(self.chain), count_rows(observations, 1), self.actor.denoiser.action_dim
            )
        actions = self.actor(observations, prompt, noise.unsqueeze(1), self.chain)
        scaled = actions.reshape(-1, *self.low.shape)
        return self.low + 0.5 * (scaled + 1.0) * (self.high - self.low)


def export_network(network: ActingNetwork, path: str | Path, deterministic: bool) -> Path:
    """Write the network for `torch.export.load`, whole or not at all.

    :param network: to write.
    :param path: of the file; ``.pt2`` is added where there is no suffix.
    :param deterministic: whether the program takes observations alone, or noise beside them.
    :return: the file.
    """
    place = Path(path).expanduser()
    place = place if place.suffix else place.with_suffix(".pt2")
    rows, n_examples = th.export.Dim("rows"), 3
    space, device = network.actor.observation_space, network.actor.device
    drawn = [space.sample() for _ in range(n_examples)]
    observations: TensorObs = (
        {key: th.as_tensor(np.stack([one[key] for one in drawn]), device=device) for key in drawn[0]}
        if isinstance(drawn[0], dict)
        else th.as_tensor(np.stack(drawn), device=device)
    )
    along = {key: {0: rows} for key in observations} if isinstance(observations, dict) else {0: rows}
    noise = th.zeros(len(network.chain), n_examples, network.actor.denoiser.action_dim, device=device)
    inputs, shapes = (
        ((observations,), (along,)) if deterministic else ((observations, noise), (along, {1: rows}))
    )
    with th.no_grad():
        program = th.export.export(network, inputs, dynamic_shapes=shapes)
    with whole_file(place) as temporary:
        th.export.save(program, temporary)
    return place
