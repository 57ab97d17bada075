"""Standardisation with statistics of the training data, kept in the model file."""

from typing import TypeGuard

import torch as th
from gymnasium import spaces
from torch import nn

from sb3_llmdpd.type_aliases import TensorObs

CLIP = 10.0
"""Largest standardised magnitude: values far outside of the training data must not blow up a network."""


class Normaliser(nn.Module):
    """(x - mean) / scale, clipped; the identity until `fit`.

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
        """Standardise vectors.

        :param x: (..., dim).
        :return: (..., dim), in [-10, 10].
        """
        return ((x - self.mean) / self.scale).clamp(-CLIP, CLIP)


class ObservationNormaliser(nn.Module):
    """Standardises the vectors of real numbers in an observation, for an extractor that learns.

    Everything else stays as it is: images, categories, and any space but a one-dimensional Box of floats.

    :param observation_space: Dict, or any other.
    """

    def __init__(self, observation_space: spaces.Space) -> None:  # type: ignore[type-arg]  # of any kind
        super().__init__()
        parts = {"": observation_space}
        if isinstance(observation_space, spaces.Dict):
            parts = observation_space.spaces
        vectors = {key: space for key, space in parts.items() if _is_vector(space)}
        self.keys = list(vectors)
        # By number, since a key may hold what the name of a module may not.
        self.normalisers = nn.ModuleList(Normaliser(space.shape[0]) for space in vectors.values())

    def fit(self, observations: TensorObs) -> None:
        """Take mean and standard deviation from data.

        :param observations: (n, *obs_shape), training data only.
        """
        for key, normaliser in zip(self.keys, self.normalisers, strict=True):
            normaliser.fit(observations[key] if isinstance(observations, dict) else observations)  # type: ignore[operator]

    def forward(self, observations: TensorObs) -> TensorObs:
        """Standardise observations.

        :param observations: (n, *obs_shape).
        :return: the same, its vectors standardised.
        """
        if not isinstance(observations, dict):
            return self.normalisers[0](observations) if self.keys else observations
        pairs = zip(self.keys, self.normalisers, strict=True)
        return {**observations, **{key: normaliser(observations[key]) for key, normaliser in pairs}}


def _is_vector(space: spaces.Space) -> TypeGuard[spaces.Box]:  # type: ignore[type-arg]  # of any kind
    return isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype.kind == "f"
