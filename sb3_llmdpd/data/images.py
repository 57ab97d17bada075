"""Images as the networks read them: channels first."""

from typing import Any

import numpy as np
from gymnasium import Space, spaces
from stable_baselines3.common.preprocessing import (
    is_image_space,
    is_image_space_channels_first,
    maybe_transpose,
)
from stable_baselines3.common.vec_env import VecTransposeImage

from sb3_llmdpd.data.checks import Observations


def channels_first_space(space: Space[Any]) -> Space[Any]:
    """Compute the space of `channels_first`, the same that SB3 gives to a wrapped environment.

    :param space: space of the data; images may have their channels last.
    :return: the space with the channels of images first; other spaces as they are.
    """
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: channels_first_space(subspace) for key, subspace in space.spaces.items()})
    if isinstance(space, spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space):
        return VecTransposeImage.transpose_space(space)
    return space


def channels_first(observations: Observations, space: Any) -> Observations:
    """Move the channels of images to the front.

    :param observations: (n, *obs_shape), images in either order, or a dict of such arrays.
    :param space: space of the model, from `channels_first_space`.
    :return: (n, *space.shape); arrays that are no images or do not fit stay as they came.
    """
    if isinstance(observations, dict):
        known = getattr(space, "spaces", {})
        return {key: _transposed(value, known.get(key)) for key, value in observations.items()}
    return _transposed(observations, space)


def _transposed(array: np.ndarray, space: Any) -> np.ndarray:
    return maybe_transpose(array, space) if array.ndim == 4 else array
