"""Features extractors that the package adds to SB3's, and the names of all in a checkpoint."""

from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
)
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


FEATURES_EXTRACTORS: dict[str, type[BaseFeaturesExtractor]] = {
    "flatten": FlattenExtractor,
    "combined": CombinedExtractor,
    "nature_cnn": NatureCNN,
    "metaworld_relative": MetaWorldRelativeExtractor,
}


def features_extractor_named(extractor: str | type[BaseFeaturesExtractor]) -> type[BaseFeaturesExtractor]:
    """Look up a features extractor by its name; a class stands for itself.

    :param extractor: a key of ``FEATURES_EXTRACTORS``, or a class.
    :return: the class.
    :raises ValueError: on an unknown name.
    """
    if not isinstance(extractor, str):
        return extractor
    if extractor not in FEATURES_EXTRACTORS:
        known = sorted(FEATURES_EXTRACTORS)
        raise ValueError(f"`features_extractor_class` must be a class or one of {known}, got {extractor!r}")
    return FEATURES_EXTRACTORS[extractor]


def is_fixed_function(module: nn.Module) -> bool:
    """Tell if a module has no parameters, so that statistics of its output can be fitted once."""
    return next(module.parameters(), None) is None
