"""The transformer that reads the (state, action) steps of an example trajectory."""

import torch as th
from torch import nn


class TrajectoryEncoder(nn.Module):
    """One token per step, a transformer encoder over them, and the mean of its outputs.

    Windows are always full (`window_steps`), so there is no padding and no mask.

    :param feature_dim: size of a state's features.
    :param action_dim: size of an action.
    :param window: L, steps of an example.
    :param token_dim: width of the transformer.
    :param n_layers: its layers.
    :param n_heads: its heads; must divide ``token_dim``.
    """

    def __init__(
        self,
        feature_dim: int,
        action_dim: int,
        window: int,
        token_dim: int = 64,
        n_layers: int = 2,
        n_heads: int = 4,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(feature_dim + action_dim, token_dim)
        self.positions = nn.Parameter(0.02 * th.randn(window, token_dim))
        layer = nn.TransformerEncoderLayer(
            token_dim,
            n_heads,
            4 * token_dim,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.transformer = nn.TransformerEncoder(
            layer, n_layers, nn.LayerNorm(token_dim), enable_nested_tensor=False
        )

    def forward(self, steps: th.Tensor) -> th.Tensor:
        """Encode the steps.

        :param steps: (M, L, feature_dim + action_dim): normalised features, and actions in [-1, 1].
        :return: (M, L, token_dim).
        """
        return self.transformer(self.embed(steps) + self.positions)
