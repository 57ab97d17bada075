"""Standardisation with statistics of the training data, kept in the model file."""

import torch as th
from torch import nn

CLIP = 10.0
"""Largest standardised magnitude: what lies further out than the training data ever did must not blow up a network."""


class Normaliser(nn.Module):
    """(x - mean) / scale, clipped. Does nothing until `fit`.

    :param dim: size of the last axis.
    """

    mean: th.Tensor
    scale: th.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", th.zeros(dim))
        self.register_buffer("scale", th.ones(dim))

    def fit(self, data: th.Tensor) -> None:
        """Take mean and standard deviation from data. An entry that never varies is centred but not scaled.

        :param data: (n, dim), training data only.
        """
        deviation = data.double().std(dim=0, correction=0)
        self.mean.copy_(data.double().mean(dim=0))
        self.scale.copy_(th.where(deviation > 1e-6, deviation, 1.0))

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Standardise.

        :param x: (..., dim).
        :return: (..., dim), in [-10, 10].
        """
        return ((x - self.mean) / self.scale).clamp(-CLIP, CLIP)
