"""Features extractors that the package adds to SB3's, and the names of all in a checkpoint."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import torch as th
from gymnasium import spaces
from stable_baselines3.common import torch_layers
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import TensorDict
from torch import nn

from sb3_llmdpd.networks import metaworld_layout as layout

FINE_SCALES = (0.03, 0.1)
"""Metres. These scales decide if a grasp or a goal is missed; the way there is ten times as long."""


class MetaWorldRelativeExtractor(BaseFeaturesExtractor):
    """Meta-World's observation as geometry of hand, objects and goal: the same in every task and place.

    The features are object - hand, goal - hand, goal - object and other object - hand (metres; zeros where
    the simulator has no such thing), the same at the fine scales of a grasp, the last displacements of hand
    and object, the hand's height, the gripper's opening and the objects' orientations. Absolute positions are
    left out. A few demonstrations show too few of them, and a policy that can remember where it saw a goal
    does not learn to go where the goal is.

    :param observation_space: Box of shape (39,).
    :param positions: True to append positions of hand and objects (metres): only they tell a hidden goal.
    :raises ValueError: on any other space.
    """

    def __init__(self, observation_space: gym.Space[Any], positions: bool = False) -> None:
        if observation_space.shape != layout.SHAPE:
            raise ValueError(
                "the features extractor 'metaworld_relative' reads Meta-World's observations, Box of shape"
                f" (39,); got {observation_space}"
            )
        super().__init__(observation_space, features_dim=52 + (9 if positions else 0))
        self.positions = positions

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Write the relations out.

        :param observations: (B, 39), metres.
        :return: (B, 52), or (B, 61) with the positions.
        """
        hand, thing = observations[:, layout.HAND], observations[:, layout.OBJECT]
        other, goal = observations[:, layout.OTHER_OBJECT], observations[:, layout.GOAL]
        previous = observations[:, layout.PREVIOUS]
        offsets = th.cat(
            [thing - hand, _relative(goal, hand), _relative(goal, thing), _relative(other, hand)], dim=1
        )  # (B, 12)
        displacements = [hand - previous[:, layout.HAND], thing - previous[:, layout.OBJECT]]
        fine = [th.tanh(offsets / scale) for scale in FINE_SCALES]
        pose = [hand[:, 2:], observations[:, [layout.GRIPPER, *layout.ORIENTATIONS]]]
        positions = [hand, thing, other] if self.positions else []
        return th.cat([offsets, *fine, *displacements, *pose, *positions], dim=1)


def _relative(position: th.Tensor, origin: th.Tensor) -> th.Tensor:
    """(B, 3): zeros where the position is all zeros, by which Meta-World says that there is none."""
    return th.where((position != 0).any(dim=1, keepdim=True), position - origin, 0.0)


class CombinedExtractor(torch_layers.CombinedExtractor):
    """SB3's extractor of dicts, for any keys: PyTorch refuses a module of the name ``observation.state``.

    :param observation_space: Dict.
    :param cnn_output_dim: size of the features of each image.
    :param normalized_image: True for images that are floats already, which any Box of three axes then is.
    """

    def __init__(
        self, observation_space: spaces.Dict, cnn_output_dim: int = 256, normalized_image: bool = False
    ) -> None:
        names = _module_names(observation_space.spaces)
        # Ordered, as gymnasium sorts the keys of another dict.
        parts = OrderedDict((names[key], part) for key, part in observation_space.spaces.items())
        super().__init__(spaces.Dict(parts), cnn_output_dim, normalized_image)
        self._observation_space = observation_space
        self._names = names

    def forward(self, observations: TensorDict) -> th.Tensor:
        """Compute the features of all parts, side by side.

        :param observations: (B, *part_shape) by key.
        :return: (B, features_dim).
        """
        return super().forward({name: observations[key] for key, name in self._names.items()})


def _module_names(keys: Iterable[str]) -> dict[str, str]:
    """Name a module for each key: by the key itself, where PyTorch takes it as a name."""
    of_torch = nn.ModuleDict()
    names = {key: key for key in keys if key and "." not in key and not hasattr(of_torch, key)}
    for key in keys:
        name = names.get(key) or key.replace(".", "_") or "_"
        while key not in names and (name in names.values() or hasattr(of_torch, name)):
            name += "_"
        names[key] = name
    return names


FEATURES_EXTRACTORS: dict[str, type[BaseFeaturesExtractor]] = {
    "flatten": FlattenExtractor,
    "combined": CombinedExtractor,
    "nature_cnn": NatureCNN,
    "metaworld_relative": MetaWorldRelativeExtractor,
}


def features_extractor_named(extractor: str | type[BaseFeaturesExtractor]) -> type[BaseFeaturesExtractor]:
    """Look up a features extractor by its name; a class stands for itself.

    :param extractor: a key of ``FEATURES_EXTRACTORS``, or a class.
    :return: the class; for SB3's `CombinedExtractor`, ours, which is the same for more keys.
    :raises ValueError: on an unknown name.
    """
    if extractor is torch_layers.CombinedExtractor:
        return CombinedExtractor
    if not isinstance(extractor, str):
        return extractor
    if extractor not in FEATURES_EXTRACTORS:
        known = sorted(FEATURES_EXTRACTORS)
        raise ValueError(f"`features_extractor_class` must be a class or one of {known}, got {extractor!r}")
    return FEATURES_EXTRACTORS[extractor]


class NoImagesError(ValueError, AssertionError):
    """Observations are no images; an `AssertionError`, too, which SB3 raises of them."""


def check_images(
    extractor: type[BaseFeaturesExtractor], space: gym.Space[Any], normalize_images: bool
) -> None:
    """Refuse a convolutional network for what are no images.

    :param extractor: class of the features extractor.
    :param space: space of the observations.
    :param normalize_images: True where images are bytes, False where they are floats already.
    :raises NoImagesError: when the network cannot read them.
    """
    if issubclass(extractor, NatureCNN) and not is_image_space(space, normalized_image=not normalize_images):
        kind = "uint8 in [0, 255]" if normalize_images else "floats"
        raise NoImagesError(
            f"`CnnPolicy`, or the extractor 'nature_cnn', reads images, a Box of three axes, {kind}; got"
            f" {space}. For vectors use 'MlpPolicy'"
        )


def is_fixed_function(module: nn.Module) -> bool:
    """Tell if a module has no parameters, so that statistics of its output can be fitted once."""
    return next(module.parameters(), None) is None
