"""Features extractors that the package adds to SB3's, and the names under which a checkpoint knows them all."""

from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, NatureCNN
from torch import nn

HAND, OBJECT, OTHER_OBJECT, GOAL = slice(0, 3), slice(4, 7), slice(11, 14), slice(36, 39)
"""Where Meta-World's 39 numbers hold positions (metres); entries 18 to 36 repeat the first 18 of one step earlier."""
PREVIOUS = 18


class MetaWorldRelativeExtractor(BaseFeaturesExtractor):
    """Meta-World's observation with the geometry between hand, objects and goal written out.

    Appends object - hand, goal - hand, goal - object, other object - hand (metres), and the last step's displacement of
    hand and object. What to do next depends on these far more than on absolute positions, and they mean the same in
    a task that was never seen.

    :param observation_space: Box of shape (39,).
    :raises ValueError: on any other space.
    """

    def __init__(self, observation_space: gym.Space[Any]) -> None:
        if observation_space.shape != (39,):
            raise ValueError(
                "the features extractor 'metaworld_relative' reads Meta-World's observations, Box of shape (39,);"
                f" got {observation_space}"
            )
        super().__init__(observation_space, features_dim=39 + 18)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Append the relations.

        :param observations: (B, 39), metres.
        :return: (B, 57).
        """
        hand, thing = observations[:, HAND], observations[:, OBJECT]
        other, goal = observations[:, OTHER_OBJECT], observations[:, GOAL]
        previous = observations[:, PREVIOUS:]
        relations = [
            thing - hand,
            goal - hand,
            goal - thing,
            other - hand,
            hand - previous[:, HAND],
            thing - previous[:, OBJECT],
        ]
        return th.cat([observations, *relations], dim=1)


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
