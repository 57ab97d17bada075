"""An ensemble of Q-networks evaluated in one batched product per layer, the network behind the critic."""

import math
from itertools import pairwise

import torch as th
from torch import nn


class EnsembleLinear(nn.Module):
    """One linear map for each member of an ensemble.

    :param n_members: size of the ensemble.
    :param n_in: input size.
    :param n_out: output size.
    """

    def __init__(self, n_members: int, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(n_in)  # the default of nn.Linear
        self.weight = nn.Parameter(th.empty(n_members, n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(th.empty(n_members, 1, n_out).uniform_(-bound, bound))

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Apply each member's map to its own rows.

        :param x: (n_members, B, n_in).
        :return: (n_members, B, n_out).
        """
        return th.baddbmm(self.bias, x, self.weight)


class QEnsemble(nn.Module):
    """Q_j(s, a, prompt), j = 1..n; independent members of one shape.

    :param action_dim: size of an action.
    :param feature_dim: size of a state's features (with the attended example, if any).
    :param prompt_dim: size of a prompt vector.
    :param n_critics: members; 2 for the usual twin critic.
    :param net_arch: widths of the hidden layers; without any it is a linear map.
    :param activation_fn: activation class.
    :param layer_norm: whether a layer norm (without learned scale) stands before each activation.
    """

    def __init__(
        self,
        action_dim: int,
        feature_dim: int,
        prompt_dim: int,
        n_critics: int,
        net_arch: list[int],
        activation_fn: type[nn.Module],
        layer_norm: bool,
    ) -> None:
        super().__init__()
        self.n_critics = n_critics
        sizes = [*net_arch, 1]
        width = sizes[0]
        # As in the denoiser, the first layer is a sum of maps, and the prompt's is computed once per prompt.
        self.from_state = nn.Linear(feature_dim, n_critics * width)
        self.from_prompt = nn.Linear(prompt_dim, n_critics * width, bias=False)
        self.from_action = nn.Linear(action_dim, n_critics * width, bias=False)
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.LayerNorm(n_in, elementwise_affine=False)] if layer_norm else []
            layers += [activation_fn(), EnsembleLinear(n_critics, n_in, n_out)]
        self.trunk = nn.Sequential(*layers)

    def condition(self, state: th.Tensor, prompt_vectors: th.Tensor) -> th.Tensor:
        """The share of state and prompt in the first layer, the same for every action.

        :param state: (M, N, n_critics * width), what ``from_state`` makes of the states.
        :param prompt_vectors: (M, prompt_dim).
        :return: (M, N, n_critics * width).
        """
        return state + self.from_prompt(prompt_vectors).unsqueeze(1)

    def forward(self, condition: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """The value of each action under each member.

        :param condition: (M, N, n_critics * width), from `condition`.
        :param actions: (M, N, action_dim), in [-1, 1].
        :return: (n_critics, M, N).
        """
        first = condition + self.from_action(actions)
        # (M, N, n_critics * width) -> (n_critics, M * N, width)
        hidden = first.reshape(-1, self.n_critics, first.shape[-1] // self.n_critics).transpose(0, 1)
        return self.trunk(hidden).view(self.n_critics, *actions.shape[:-1])
