"""Readers of a state beside its example: the state alone, with cross-attention, or by the nearest steps."""

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_llmdpd.type_aliases import PromptEncoding

CONDITIONINGS = ("concat", "cross_attention", "nearest_steps")
"""Names of the readers, see `make_state_reader`."""

_SHARPNESS = (0.6, 1.6, 4.5)
"""Initial scales of the heads of `NearestSteps`, in inverse standard deviations of a feature.

The first averages over a phase of a motion; under the last, a centimetre decides."""
_AHEAD = (1, 3)
"""Look-aheads of `NearestSteps`, in steps of the example."""
_FINE_SCALE = 0.1
"""In standard deviations of a feature: differences small beside a whole motion's decide a grasp."""


class StateReader(nn.Module):
    """Input of a network: a state beside its example. The first layer of the network reads it.

    :param output_dim: size of what is read of a state.
    """

    def __init__(self, output_dim: int) -> None:
        super().__init__()
        self.output_dim = output_dim

    def project(self, layer: nn.Linear, features: th.Tensor, prompts: PromptEncoding) -> th.Tensor:
        """Apply the first layer of a network to what is read.

        :param layer: linear map from ``output_dim`` to the network's width.
        :param features: (M, N, feature_dim), normalised.
        :param prompts: M encoded prompts.
        :return: (M, N, width).
        """
        return layer(self(features, prompts))


class StateAlone(StateReader):
    """The state as it is; the prompt speaks through its vectors alone.

    :param feature_dim: size of a state's features.
    """

    def __init__(self, feature_dim: int) -> None:
        super().__init__(feature_dim)

    def forward(self, features: th.Tensor, prompts: PromptEncoding) -> th.Tensor:
        """Return the features.

        :param features: (M, N, feature_dim), normalised.
        :param prompts: M encoded prompts, which are not read.
        :return: (M, N, feature_dim).
        """
        return features


class TrajectoryAttention(StateReader):
    """The state, and beside it one layer of multi-head attention to the encoded steps of its example.

    :param feature_dim: size of a state's features.
    :param token_dim: size of an encoded step, and of what is read in them.
    :param n_heads: number of heads; must divide ``token_dim``.
    """

    def __init__(self, feature_dim: int, token_dim: int, n_heads: int = 4) -> None:
        super().__init__(feature_dim + token_dim)
        self.n_heads = n_heads
        self.query = nn.Linear(feature_dim, token_dim)
        self.key_value = nn.Linear(token_dim, 2 * token_dim)
        self.output = nn.Linear(token_dim, token_dim)
        self.null = nn.Parameter(th.zeros(token_dim))

    def forward(self, features: th.Tensor, prompts: PromptEncoding) -> th.Tensor:
        """Attend to the example; without one, a learned null stands in.

        :param features: (M, N, feature_dim), normalised.
        :param prompts: M encoded prompts.
        :return: (M, N, feature_dim + token_dim).
        """
        if not prompts.tokens.shape[1]:
            return th.cat([features, self.null.expand(*features.shape[:2], -1)], dim=-1)
        queries = self._heads(self.query(features))  # (M, heads, N, token_dim / heads)
        keys, values = (self._heads(part) for part in self.key_value(prompts.tokens).chunk(2, dim=-1))
        attended = F.scaled_dot_product_attention(queries, keys, values)
        context = self.output(attended.transpose(1, 2).flatten(2))  # (M, N, token_dim)
        return th.cat([features, th.where(prompts.has_trajectory[:, None, None], context, self.null)], dim=-1)

    def _heads(self, x: th.Tensor) -> th.Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class NearestSteps(StateReader):
    """The state as its difference to the nearest steps of its example; as it is without one.

    With states s and steps (s_j, a_j) of the example, ``w_j = softmax(-|c * (s - s_j)|^2)``. The reader gives
    the means under w of s_j - s, of s_{j+h} - s for each look-ahead h, of a_j, and of j / (L - 1); and the
    differences once more at a fine scale. Only the scales c are learned, for each of a few heads: the first
    looks around, the last at one step. A difference to the example means the same in a task that was never
    seen. The features do not: they tell a known task, and a policy that has them learns its actions.

    :param feature_dim: size of a state's features.
    :param action_dim: size of an action.
    """

    def __init__(self, feature_dim: int, action_dim: int) -> None:
        n_heads = len(_SHARPNESS)
        self.example_dim = n_heads * (2 * (1 + len(_AHEAD)) * feature_dim + action_dim + 1)
        super().__init__(feature_dim + self.example_dim + 1)
        log_scales = th.tensor(_SHARPNESS).log()[:, None].expand(n_heads, feature_dim)
        self.log_scales = nn.Parameter(log_scales + 0.3 * th.randn(n_heads, feature_dim))

    def forward(self, features: th.Tensor, prompts: PromptEncoding) -> th.Tensor:
        """Compare each state with the example. Each row holds three parts.

        The features, zeros where there is an example. Zeros where there is none; else for each head: the
        differences to the nearest step and to those ahead of it, the same at the fine scale, the step's
        action, and its time in [0, 1]. And 1 where there is an example, else 0.

        :param features: (M, N, feature_dim), normalised.
        :param prompts: M encoded prompts.
        :return: (M, N, output_dim).
        """
        shown = prompts.has_trajectory[:, None, None].to(features.dtype)  # (M, 1, 1)
        read = self._beside(features, prompts.steps)
        return th.cat([features * (1.0 - shown), read * shown, shown.expand(*features.shape[:2], 1)], dim=-1)

    def project(self, layer: nn.Linear, features: th.Tensor, prompts: PromptEncoding) -> th.Tensor:
        """Apply the first layer, see `StateReader.project`; on a CPU the zeros are left out of the products.

        Elsewhere they are not: the host would wait for the number of prompts with an example. Nor are they
        when compiled, which wants shapes that do not depend on values.
        """
        if features.device.type != "cpu" or th.compiler.is_compiling():
            return super().project(layer, features, prompts)
        of_state, of_example, of_flag = layer.weight.split([features.shape[-1], self.example_dim, 1], dim=1)
        alone = (~prompts.has_trajectory).nonzero().squeeze(1)
        shown = prompts.has_trajectory.nonzero().squeeze(1)
        read = self._beside(features.index_select(0, shown), prompts.steps.index_select(0, shown))
        parts = [
            F.linear(features.index_select(0, alone), of_state, layer.bias),
            F.linear(read, of_example, layer.bias + of_flag.squeeze(1)),
        ]
        return th.cat(parts).index_select(0, th.cat([alone, shown]).argsort())

    def _beside(self, features: th.Tensor, steps: th.Tensor) -> th.Tensor:
        """Read the examples, whose steps are (M, L, F + A), beside each state: (M, N, example_dim)."""
        feature_dim = features.shape[-1]
        states, actions = steps[..., :feature_dim], steps[..., feature_dim:]  # (M, L, F), (M, L, A)
        n_steps = states.shape[1]
        ways = th.cat([states, *(_shifted(states, ahead) for ahead in _AHEAD)], dim=-1)  # (M, L, (1 + h) F)
        times = th.linspace(0.0, 1.0, n_steps, device=states.device).expand(len(states), -1).unsqueeze(-1)
        weights = self._weights(features, states)  # (M, heads, N, L)
        read = th.cat([ways, actions, times], dim=-1).unsqueeze(1)
        nearest = weights @ read  # (M, heads, N, (1 + h) F + A + 1)
        targets, beside = nearest.tensor_split([ways.shape[-1]], dim=-1)
        differences = targets - th.cat([features] * (1 + len(_AHEAD)), dim=-1).unsqueeze(1)
        by_head = th.cat([differences, th.tanh(differences / _FINE_SCALE), beside], dim=-1)
        return by_head.transpose(1, 2).flatten(2)

    def _weights(self, features: th.Tensor, states: th.Tensor) -> th.Tensor:
        """Weigh each step for each state: (M, heads, N, L), summing to one over the steps."""
        scales = self.log_scales.exp()[:, None]  # (heads, 1, F)
        queries, keys = features.unsqueeze(1) * scales, states.unsqueeze(1) * scales  # (M, heads, N or L, F)
        # -|q - k|^2 less |q|^2, which is the same for all steps.
        return th.softmax(2.0 * queries @ keys.transpose(2, 3) - keys.square().sum(-1).unsqueeze(2), dim=-1)


def _shifted(states: th.Tensor, ahead: int) -> th.Tensor:
    """Move to the states some steps ahead, or to the last one: (M, L, F); [0, 1, 2, 3] by 3 is [3, 3, 3, 3].

    By slices: the gradient of an indexed tensor is summed in no certain order on several threads.
    """
    ahead = min(ahead, states.shape[1])
    return th.cat([states[:, ahead:], states[:, -1:].expand(-1, ahead, -1)], dim=1)


def make_state_reader(
    conditioning: str, feature_dim: int, action_dim: int, token_dim: int, n_heads: int
) -> StateReader:
    """Make the network that reads a state beside its example.

    :param conditioning: one of ``CONDITIONINGS``.
    :param feature_dim: size of a state's features.
    :param action_dim: size of an action.
    :param token_dim: size of an encoded step.
    :param n_heads: heads of the cross-attention.
    :return: a network from features (M, N, feature_dim) and prompts to (M, N, output_dim).
    """
    if conditioning == "cross_attention":
        return TrajectoryAttention(feature_dim, token_dim, n_heads)
    if conditioning == "nearest_steps":
        return NearestSteps(feature_dim, action_dim)
    return StateAlone(feature_dim)
