"""The steps of a prompt's examples as nearest steps read them: their places, and what lies ahead of them."""

from typing import NamedTuple, Self

import torch as th

LOOK_AHEADS = (1 / 16, 3 / 16)
"""Shares of an example: a step is seen beside those that so much later lie ahead of it."""


FAR = 1e9
"""Square of the length of what is no step."""
FAR_AWAY = 100.0
"""Distance that is larger than any between standardised, clipped features."""


class StepPlaces(NamedTuple):
    """Places of a prompt's S steps in its examples, which lie one after the other."""

    is_step: th.Tensor
    """(M, S), bool; False for rows behind the last step."""
    place: th.Tensor
    """(M, S), int64: number of the step in its example."""
    length: th.Tensor
    """(M, S), int64: steps of its example."""

    @classmethod
    def of(cls, lengths: th.Tensor, n_steps: int) -> Self:
        """Find the places.

        :param lengths: (M, E), steps of each example; zeros behind the last one.
        :param n_steps: S, at least the steps of all examples of a prompt.
        """
        ends = lengths.cumsum(dim=1)  # (M, E)
        rows = th.arange(n_steps, device=lengths.device).expand(len(lengths), -1)
        if not ends.shape[1]:
            return cls(rows < 0, rows, rows)
        is_step = rows < ends[:, -1:]
        example = th.searchsorted(ends, rows.contiguous(), right=True).clamp(max=ends.shape[1] - 1)
        length = lengths.gather(1, example)
        return cls(is_step, rows - ends.gather(1, example) + length, length)


def example_steps(features: th.Tensor, actions: th.Tensor, places: StepPlaces) -> th.Tensor:
    """Lay out what nearest steps read of each step.

    :param features: (M, S, F), normalised.
    :param actions: (M, S, A), in [-1, 1].
    :param places: places of the steps.
    :return: (M, S, (1 + len(LOOK_AHEADS)) F + A + 1): the features, those of the steps ahead, at most of the
        example's last, the action, and the step's time in [0, 1].
    """
    left = (places.length - 1 - places.place).clamp(min=0)  # steps to the example's end
    rows = th.arange(features.shape[1], device=features.device)
    ways = [features]
    for share in LOOK_AHEADS:
        ahead = (places.length * share).round().long().clamp(min=1)
        at = (rows + th.minimum(ahead, left)).clamp(max=max(len(rows) - 1, 0))
        ways.append(features.gather(1, at.unsqueeze(-1).expand_as(features)))
    time = places.place / (places.length - 1).clamp(min=1)
    return th.cat([*ways, actions, time.unsqueeze(-1)], dim=-1)


def example_keys(features: th.Tensor, is_step: th.Tensor) -> th.Tensor:
    """Lay the states out so that one product with (2 q, -1) tells the nearest to a query q.

    It gives 2 q s - |s|^2, which is |q|^2 less the squared distance; what is no step lies far away.

    :param features: (M, S, F), normalised.
    :param is_step: (M, S), bool.
    :return: (M, F + 1, S).
    """
    features = features.masked_fill(~is_step.unsqueeze(-1), 0.0)
    squares = features.square().sum(dim=-1).masked_fill(~is_step, FAR)
    # Steps along the last axis: a product with one query reads all keys, in the order of memory.
    return th.cat([features, squares.unsqueeze(-1)], dim=-1).transpose(1, 2).contiguous()


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
    nearness, at = (queries @ keys).topk(n, dim=2)
    squares = features.square().sum(dim=-1, keepdim=True) - nearness
    return at, (squares.clamp(min=0.0) / features.shape[-1]).sqrt()
