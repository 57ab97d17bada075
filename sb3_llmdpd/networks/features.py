"""Features extractors that the package adds to SB3's, and the names under which a checkpoint knows them all."""

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

HAND, GRIPPER, OBJECT, OTHER_OBJECT, GOAL = (
    slice(0, 3),
    slice(3, 4),
    slice(4, 7),
    slice(11, 14),
    slice(36, 39),
)
"""Where Meta-World's 39 numbers hold positions (metres) and the gripper's opening."""
ORIENTATIONS = [*range(7, 11), *range(14, 18)]
"""Quaternions of the two objects."""
FINE_SCALES = (0.03, 0.1)
"""Metres. Whether a grasp or a goal is missed is decided at these scales, and how to get there at ten times as much."""
PREVIOUS = 18
"""Entries 18 to 36 repeat the first 18 of one step earlier."""


class MetaWorldRelativeExtractor(BaseFeaturesExtractor):
    """Meta-World's observation as geometry between hand, objects and goal, which means the same in every task and place.

    Gives object - hand, goal - hand, goal - object, other object - hand (metres; zeros where the simulator gives no such
    thing), the same at the fine scales of a grasp, the last step's displacement of hand and object, the hand's height, the
    gripper's opening and the objects' orientations. Absolute positions are left out: a few demonstrations show too few of
    them, and a policy that can remember where it saw a goal does not learn to go where the goal is.

    :param observation_space: Box of shape (39,).
    :param positions: whether those of hand and objects stand beside the relations after all (metres): with the goal hidden,
        only they say where an example's goal is.
    :raises ValueError: on any other space.
    """

    def __init__(self, observation_space: gym.Space[Any], positions: bool = False) -> None:
        if observation_space.shape != (39,):
            raise ValueError(
                "the features extractor 'metaworld_relative' reads Meta-World's observations, Box of shape (39,);"
                f" got {observation_space}"
            )
        super().__init__(observation_space, features_dim=52 + (9 if positions else 0))
        self.positions = positions

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Write the relations out.

        :param observations: (B, 39), metres.
        :return: (B, 52), or (B, 61) with the positions.
        """
        hand, thing = observations[:, HAND], observations[:, OBJECT]
        other, goal = observations[:, OTHER_OBJECT], observations[:, GOAL]
        previous = observations[:, PREVIOUS:]
        offsets = th.cat(
            [thing - hand, _relative(goal, hand), _relative(goal, thing), _relative(other, hand)], dim=1
        )  # (B, 12)
        displacements = [hand - previous[:, HAND], thing - previous[:, OBJECT]]
        fine = [th.tanh(offsets / scale) for scale in FINE_SCALES]
        pose = [hand[:, 2:], observations[:, GRIPPER], observations[:, ORIENTATIONS]]
        positions = [hand, thing, other] if self.positions else []
        return th.cat([offsets, *fine, *displacements, *pose, *positions], dim=1)


def _relative(position: th.Tensor, origin: th.Tensor) -> th.Tensor:
    """(B, 3): zeros where the position is all zeros, which is how Meta-World says that there is none."""
    return th.where((position != 0).any(dim=1, keepdim=True), position - origin, 0.0)


FEATURES_EXTRACTORS: dict[str, type[BaseFeaturesExtractor]] = {
    "flatten": FlattenExtractor,
    "combined": CombinedExtractor,
    "nature_cnn": NatureCNN,
    "metaworld_relative": MetaWorldRelativeExtractor,
}


def features_extractor_named(extractor: str | type[BaseFeaturesExtractor]) -> type[BaseFeaturesExtractor]:
    """The class behind a name; a class is its own answer.

    :param extractor: a key of ``FEATURES_EXTRACTORS``, or a class.
    :return: the class.
    :raises ValueError: on an unknown name.
    """
    if not isinstance(extractor, str):
        return extractor
    if extractor not in FEATURES_EXTRACTORS:
        raise ValueError(
            f"`features_extractor_class` must be a class or one of {sorted(FEATURES_EXTRACTORS)}, got {extractor!r}"
        )
    return FEATURES_EXTRACTORS[extractor]


def is_fixed_function(module: nn.Module) -> bool:
    """Whether a module has nothing to learn, so that statistics of its output can be fitted once and for all.

    :param module: any module.
    :return: True without parameters.
    """
    return next(module.parameters(), None) is None
