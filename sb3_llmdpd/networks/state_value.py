"""V(s, prompt), the network behind the expectile critic: what a state is worth, whatever is done in it."""

from itertools import pairwise

import torch as th
from torch import nn


class StateValue(nn.Module):
    """A multilayer perceptron whose first layer is a sum of linear maps, as in the denoiser.

    :param feature_dim: size of a state's features (with the attended example, if any).
    :param prompt_dim: size of a prompt vector.
    :param net_arch: widths of the hidden layers; without any it is a linear map.
    :param activation_fn: activation class.
    :param layer_norm: whether a layer norm (without learned scale) stands before each activation.
    """

    def __init__(
        self,
        feature_dim: int,
        prompt_dim: int,
        net_arch: list[int],
        activation_fn: type[nn.Module],
        layer_norm: bool,
    ) -> None:
        super().__init__()
        sizes = [*net_arch, 1]
        self.from_state = nn.Linear(feature_dim, sizes[0])
        self.from_prompt = nn.Linear(prompt_dim, sizes[0], bias=False)
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.LayerNorm(n_in, elementwise_affine=False)] if layer_norm else []
            layers += [activation_fn(), nn.Linear(n_in, n_out)]
        self.trunk = nn.Sequential(*layers)

    def forward(self, state: th.Tensor, prompt_vectors: th.Tensor) -> th.Tensor:
        """The value of each state.

        :param state: (M, N, width), what ``from_state`` makes of the states.
        :param prompt_vectors: (M, prompt_dim).
        :return: (M, N).
        """
        return self.trunk(state + self.from_prompt(prompt_vectors).unsqueeze(1)).squeeze(-1)
