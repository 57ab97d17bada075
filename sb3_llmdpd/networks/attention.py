"""Cross-attention: the current state asks the encoded steps of the example what to do."""

import torch as th
from torch import nn
from torch.nn import functional as F


class TrajectoryAttention(nn.Module):
    """One layer of multi-head attention from states to the steps of their example.

    :param feature_dim: size of a state's features.
    :param token_dim: size of an encoded step; also of the result.
    :param n_heads: heads; must divide ``token_dim``.
    """

    def __init__(self, feature_dim: int, token_dim: int, n_heads: int = 4) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(feature_dim, token_dim)
        self.key_value = nn.Linear(token_dim, 2 * token_dim)
        self.output = nn.Linear(token_dim, token_dim)
        self.null = nn.Parameter(th.zeros(token_dim))

    def forward(self, features: th.Tensor, tokens: th.Tensor, has_trajectory: th.Tensor) -> th.Tensor:
        """What the example says about each state; a learned null where there is no example.

        :param features: (M, N, feature_dim), normalised.
        :param tokens: (M, L, token_dim).
        :param has_trajectory: (M,), bool.
        :return: (M, N, token_dim).
        """
        queries = self._heads(self.query(features))  # (M, heads, N, token_dim / heads)
        keys, values = (self._heads(part) for part in self.key_value(tokens).chunk(2, dim=-1))
        attended = F.scaled_dot_product_attention(queries, keys, values)
        context = self.output(attended.transpose(1, 2).flatten(2))  # (M, N, token_dim)
        return th.where(has_trajectory[:, None, None], context, self.null)

    def _heads(self, x: th.Tensor) -> th.Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
