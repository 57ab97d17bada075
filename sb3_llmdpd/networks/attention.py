"""Readers of a state beside its example: the state alone, with cross-attention, or by the nearest steps."""

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_llmdpd.type_aliases import PromptEncoding

CONDITIONINGS = ("concat", "cross_attention", "nearest_steps", "retrieval")
"""Names of the readers, see `make_state_reader`."""

LOOK_AHEADS = (1 / 16, 3 / 16)
"""Shares of an example: a step is seen beside those that so much later lie ahead of it."""
FAR = 1e9
"""Square of the length of what is no step."""
_MANY, _N_BLOCKED = 1_024, 16
"""Numbers from which on their largest are found by blocks, and the size of a block."""
FAR_AWAY = 100.0
"""Distance that is larger than any between standardised, clipped features."""

_SHARPNESS = (0.6, 1.6, 4.5)
"""Initial scales of the heads of `NearestSteps`, in inverse standard deviations of a feature.

The first averages over a phase of a motion; under the last, a centimetre decides."""
_SPREAD, _SPREAD_OF_RETRIEVAL = 0.3, 1.0
"""Standard deviations of the logarithms of these scales. With the larger one, a head sees some features and
hardly others: what is nearest by the object alone decides how to reach for it, wherever the goal lies."""
_FINE_SCALE = 0.1
"""In standard deviations of a feature: differences small beside a whole motion's decide a grasp."""
_NEAR = (0.03, 0.1, 0.3, 1.0)
"""Distances at which the nearness of the nearest step falls to 1 / e, in standard deviations of a feature."""
N_RETRIEVED = 32
"""Steps that retrieval weighs, of all."""


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
        # A prompt without an example has no step to attend to, and is not read: it attends to all rows.
        seen = prompts.is_step | ~prompts.has_trajectory[:, None]
        attended = F.scaled_dot_product_attention(queries, keys, values, seen[:, None, None])
        context = self.output(attended.transpose(1, 2).flatten(2))  # (M, N, token_dim)
        return th.cat([features, th.where(prompts.has_trajectory[:, None, None], context, self.null)], dim=-1)

    def _heads(self, x: th.Tensor) -> th.Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class NearestSteps(StateReader):
    """The state as its difference to the nearest steps of its examples; as it is without one.

    With states s and steps (s_j, a_j) of all examples, ``w_j = softmax(-|c * (s - s_j)|^2)``. The reader
    gives the means under w of s_j - s, of s_{j+h} - s for each look-ahead h, of a_j, and of the time of j in
    its example; and the differences once more at a fine scale. Only the scales c are learned, for each of a
    few heads: the first looks around, the last at one step. A difference to an example means the same in a
    task that was never seen. The features do not: they tell a known task, and a policy that has them learns
    its actions.

    With ``retrieves``, weights go over the nearest steps alone, and the nearest one's action and nearness are
    read as they are: an average of several actions is none of them, and a near step is to be trusted. There
    are more heads, and no fine scale: what they read is as long.

    :param feature_dim: size of a state's features.
    :param action_dim: size of an action.
    :param retrieves: whether to do so.
    """

    def __init__(self, feature_dim: int, action_dim: int, retrieves: bool = False) -> None:
        self.action_dim, self.retrieves = action_dim, retrieves
        # Retrieval has two heads of each sharpness.
        sharpness, spread = (_SHARPNESS, _SPREAD) if not retrieves else (2 * _SHARPNESS, _SPREAD_OF_RETRIEVAL)
        n_heads = len(sharpness)
        n_scales = 1 if retrieves else 2
        self.example_dim = n_heads * (n_scales * (1 + len(LOOK_AHEADS)) * feature_dim + action_dim + 1)
        if retrieves:
            self.example_dim += action_dim + len(_NEAR)
        super().__init__(feature_dim + self.example_dim + 1)
        log_scales = th.tensor(sharpness).log()[:, None].expand(n_heads, feature_dim)
        self.log_scales = nn.Parameter(log_scales + spread * th.randn(n_heads, feature_dim))

    def forward(self, features: th.Tensor, prompts: PromptEncoding) -> th.Tensor:
        """Compare each state with the examples. Each row holds three parts.

        The features, zeros where there is an example. Zeros where there is none; else for each head: the
        differences to the nearest step and to those ahead of it, the same at the fine scale, the step's
        action, and its time in [0, 1]; with ``retrieves``, not at the fine scale, and behind all heads action
        and nearness of the nearest step. And 1 where there is an example, else 0.

        :param features: (M, N, feature_dim), normalised.
        :param prompts: M encoded prompts.
        :return: (M, N, output_dim).
        """
        shown = prompts.has_trajectory[:, None, None].to(features.dtype)  # (M, 1, 1)
        read = self._beside(features, prompts.keys, prompts.steps)
        return th.cat([features * (1.0 - shown), read * shown, shown.expand(*features.shape[:2], 1)], dim=-1)

    def project(self, layer: nn.Linear, features: th.Tensor, prompts: PromptEncoding) -> th.Tensor:
        """Apply the first layer, see `StateReader.project`; on a CPU the zeros are left out of the products.

        Elsewhere they are not: the host would wait for the number of prompts with an example. Nor are they
        when compiled, which wants shapes that do not depend on values.
        """
        if features.device.type != "cpu" or th.compiler.is_compiling():
            return super().project(layer, features, prompts)
        of_state, of_example, of_flag = layer.weight.split([features.shape[-1], self.example_dim, 1], dim=1)
        shown = prompts.has_trajectory.nonzero().squeeze(1)
        if len(shown) == len(features):  # as in acting: nothing is copied
            read = self._beside(features, prompts.keys, prompts.steps)
            return F.linear(read, of_example, layer.bias + of_flag.squeeze(1))
        alone = (~prompts.has_trajectory).nonzero().squeeze(1)
        parts = (part.index_select(0, shown) for part in (features, prompts.keys, prompts.steps))
        of_parts = [
            F.linear(features.index_select(0, alone), of_state, layer.bias),
            F.linear(self._beside(*parts), of_example, layer.bias + of_flag.squeeze(1)),
        ]
        return th.cat(of_parts).index_select(0, th.cat([alone, shown]).argsort())

    def _beside(self, features: th.Tensor, keys: th.Tensor, steps: th.Tensor) -> th.Tensor:
        """Read the examples' steps, (M, S, step_dim), beside each state: (M, N, example_dim)."""
        if not steps.shape[1]:
            return features.new_zeros(*features.shape[:2], self.example_dim)
        feature_dim, n_ways = features.shape[-1], 1 + len(LOOK_AHEADS)
        near, is_step = self._nearest(features, keys, steps)  # (M, N, k, step_dim), (M, N, k)
        squares = (near[..., :feature_dim] - features.unsqueeze(2)).square()  # (M, N, k, F)
        nearness = -squares @ self.log_scales.exp().square().T  # (M, N, k, heads)
        # Not by infinity: a prompt without a step would have no number as its weights.
        nearness = nearness.masked_fill(~is_step.unsqueeze(-1), -FAR)
        read = th.softmax(nearness, dim=2).transpose(2, 3) @ near  # (M, N, heads, step_dim)
        targets, beside = read.tensor_split([n_ways * feature_dim], dim=-1)
        differences = targets - th.cat([features] * n_ways, dim=-1).unsqueeze(2)
        fine = [] if self.retrieves else [th.tanh(differences / _FINE_SCALE)]
        by_head = th.cat([differences, *fine, beside], dim=-1).flatten(2)
        if not self.retrieves:
            return by_head
        nearest = near[:, :, 0, -1 - self.action_dim : -1]
        # Of the differences themselves: `distances` are rounded where they are small.
        distance = squares[:, :, 0].detach().mean(dim=-1, keepdim=True).sqrt()
        return th.cat([by_head, nearest, *(th.exp(-distance / scale) for scale in _NEAR)], dim=-1)

    def _nearest(self, features: th.Tensor, keys: th.Tensor, steps: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Gather the nearest steps of each state, nearest first; and tell which of them are steps."""
        n_steps = steps.shape[1]
        n_nearest = min(N_RETRIEVED, n_steps) if self.retrieves else n_steps
        at, distances = nearest_steps(features, keys, n_nearest)  # (M, N, k)
        first = n_steps * th.arange(len(steps), device=steps.device)[:, None, None]
        rows = steps.flatten(0, 1).index_select(0, (first + at).flatten())
        return rows.view(*at.shape, steps.shape[-1]), distances < FAR_AWAY


def nearest_steps(features: th.Tensor, keys: th.Tensor, n: int = 1) -> tuple[th.Tensor, th.Tensor]:
    """Find the steps whose states are nearest to each query.

    :param features: (M, N, F), the queries, normalised.
    :param keys: (M, F + 1, S), see `example_keys`; S at least 1.
    :param n: number of steps to find, at most S.
    :return: the numbers of the steps, (M, N, n), the nearest first; and their distances, (M, N, n): root
        mean squares of the differences, above ``FAR_AWAY`` of what is no step.
    """
    # Which steps are nearest has no gradient; those that weigh them compare them again.
    features, keys = features.detach(), keys.detach()
    queries = th.cat([2.0 * features, features.new_full((*features.shape[:2], 1), -1.0)], dim=-1)
    nearness, at = _largest(queries @ keys, n)
    squares = features.square().sum(dim=-1, keepdim=True) - nearness
    return at, (squares.clamp(min=0.0) / features.shape[-1]).sqrt()


def _largest(numbers: th.Tensor, n: int) -> tuple[th.Tensor, th.Tensor]:
    """Find the n largest along the last axis, as `torch.topk` does; of many numbers in half the time.

    Each of the n largest is in one of the n blocks with the largest maxima: only these are searched.
    """
    if th.compiler.is_exporting():  # a program is for any number
        return numbers.topk(n, dim=-1)
    n_blocks = -(-numbers.shape[-1] // _N_BLOCKED)
    if numbers.shape[-1] < _MANY or n > n_blocks:
        return numbers.topk(n, dim=-1)
    padded = nn.functional.pad(numbers, (0, n_blocks * _N_BLOCKED - numbers.shape[-1]), value=-th.inf)
    # A block is a column of this matrix: maxima over rows are taken many columns at a time.
    maxima = padded.unflatten(-1, (_N_BLOCKED, n_blocks)).amax(dim=-2)
    blocks = maxima.topk(n, dim=-1, sorted=False).indices  # (..., n)
    rows = n_blocks * th.arange(_N_BLOCKED, device=numbers.device)
    places = (blocks.unsqueeze(-1) + rows).flatten(-2)  # (..., n * _N_BLOCKED)
    largest, found = padded.gather(-1, places).topk(n, dim=-1)
    return largest, places.gather(-1, found)


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
    if conditioning in ("nearest_steps", "retrieval"):
        return NearestSteps(feature_dim, action_dim, retrieves=conditioning == "retrieval")
    return StateAlone(feature_dim)
