"""The noise predictor eps_theta(a_k, k, state, prompt), the network behind the actor."""

import math
from itertools import pairwise

import torch as th
from torch import nn


class Denoiser(nn.Module):
    """A multilayer perceptron whose first layer is a sum of linear maps, one for each input.

    That is the same function as one linear map of the concatenation, but the share of the state and the prompt is
    computed once for a whole chain, the prompt's once for all transitions that share it, and the step's K times instead
    of once per row.

    :param action_dim: size of an action.
    :param feature_dim: size of a state's features (with the attended example, if any).
    :param prompt_dim: size of a prompt vector.
    :param n_steps: K.
    :param net_arch: widths of the hidden layers; without any it is a linear map.
    :param activation_fn: activation class.
    :param layer_norm: whether a layer norm stands before each activation.
    :param step_dim: size of the sinusoidal step embedding.
    """

    step_table: th.Tensor

    def __init__(
        self,
        action_dim: int,
        feature_dim: int,
        prompt_dim: int,
        n_steps: int,
        net_arch: list[int],
        activation_fn: type[nn.Module],
        layer_norm: bool,
        step_dim: int = 16,
    ) -> None:
        super().__init__()
        self.action_dim = action_dim
        sizes = [*net_arch, action_dim]
        width = sizes[0]
        self.from_state = nn.Linear(feature_dim, width)
        self.from_prompt = nn.Linear(prompt_dim, width, bias=False)
        self.from_action = nn.Linear(action_dim, width, bias=False)
        self.from_step = nn.Sequential(
            nn.Linear(step_dim, 2 * step_dim), activation_fn(), nn.Linear(2 * step_dim, width, bias=False)
        )
        self.register_buffer("step_table", sinusoidal_embedding(n_steps, step_dim), persistent=False)
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.LayerNorm(n_in)] if layer_norm else []
            layers += [activation_fn(), nn.Linear(n_in, n_out)]
        self.trunk = nn.Sequential(*layers)

    def condition(self, state: th.Tensor, prompt_vectors: th.Tensor) -> th.Tensor:
        """The share of state and prompt in the first layer, the same for every diffusion step.

        :param state: (M, N, width), what ``from_state`` makes of the states.
        :param prompt_vectors: (M, prompt_dim).
        :return: (M, N, width).
        """
        return state + self.from_prompt(prompt_vectors).unsqueeze(1)

    def step_embeddings(self) -> th.Tensor:
        """The share of each diffusion step in the first layer.

        :return: (K, width).
        """
        return self.from_step(self.step_table)

    def forward(self, noisy_actions: th.Tensor, step_embedding: th.Tensor, condition: th.Tensor) -> th.Tensor:
        """Predict the noise in actions.

        :param noisy_actions: (M, N, action_dim).
        :param step_embedding: (M, N, width) or (width,): rows of `step_embeddings`.
        :param condition: (M, N, width), from `condition`.
        :return: (M, N, action_dim).
        """
        return self.trunk(self.from_action(noisy_actions) + step_embedding + condition)


def sinusoidal_embedding(n_positions: int, dim: int) -> th.Tensor:
    """Sines and cosines of geometrically spaced frequencies (Vaswani et al., 2017).

    :param n_positions: positions 0 .. n - 1.
    :param dim: size of an embedding, even, at least 4.
    :return: (n_positions, dim).
    """
    half = dim // 2
    frequencies = th.exp(-math.log(10_000.0) / (half - 1) * th.arange(half))
    angles = th.arange(n_positions)[:, None] * frequencies[None]
    return th.cat([angles.sin(), angles.cos()], dim=1)
