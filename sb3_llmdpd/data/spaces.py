"""Spaces of logged data: as float32, without nesting, and what several sources share."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatten_space

from sb3_llmdpd.data.checks import Observations

AnySpace = TypeVar("AnySpace", bound=spaces.Space[Any])


class HasSpaces(Protocol):
    """Anything with a name and spaces."""

    name: str
    observation_space: spaces.Space[Any]
    action_space: spaces.Box
    bounds_from_data: bool
    """Whether no bounds of actions are recorded, and these are the smallest and largest values."""


def float32_space(space: AnySpace) -> AnySpace:
    """The same space with floats as episodes have them.

    :param space: any; the parts of a Dict are changed, too.
    :return: the space with every Box of floats in float32.
    """
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: float32_space(part) for key, part in space.items()})  # type: ignore[return-value]
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)  # type: ignore[return-value]
    return space


def check_flat(name: str, space: spaces.Space[Any]) -> None:
    """Refuse observations that no policy reads.

    :param name: of the source, for the message.
    :param space: of its observations.
    :raises ValueError: when they are neither one array nor a Dict of arrays.
    """
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    for key, part in parts.items():
        if isinstance(part, spaces.Dict | spaces.Tuple | spaces.Text | spaces.Sequence | spaces.Graph):
            raise ValueError(
                f"{name}: observations must be one array or a flat Dict of arrays, got {part} {key}."
                " Where all its parts are numbers, `flatten` makes one vector of them"
            )


def flat_space(name: str, space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The space of `flat_observations`.

    :param name: of the source, for the message.
    :param space: of observations as they were recorded.
    :return: a Box of one axis; a space that is no Dict as it came.
    :raises ValueError: when a part of a Dict is no Box.
    """
    if not isinstance(space, spaces.Dict):
        return space
    others = [part for part in _leaves(space) if not isinstance(part, spaces.Box)]
    if others:
        raise ValueError(
            f"{name}: only a Dict of Boxes can be flattened, and this one has a {others[0]}: keep it as it is"
        )
    return float32_space(flatten_space(space))


def flat_observations(space: spaces.Space[Any], observations: Any, source: str) -> Any:
    """The entries of Dict observations side by side, in the order of the space.

    :param space: of one observation as it was recorded.
    :param observations: (n, ...) arrays in the structure of the space.
    :param source: named first in the error message.
    :return: (n, size); observations that are no Dict as they came.
    :raises ValueError: when an entry is missing.
    """
    if not isinstance(space, spaces.Dict):
        return observations
    if not isinstance(observations, dict) or set(observations) != set(space.spaces):
        found = sorted(observations) if isinstance(observations, dict) else type(observations).__name__
        raise ValueError(
            f"{source}: `observations` must be a dict with the keys {sorted(space.spaces)}, got {found}"
        )
    parts = [np.asarray(flat_observations(part, observations[key], source)) for key, part in space.items()]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def joint_spaces(sources: Sequence[HasSpaces]) -> tuple[spaces.Space[Any], spaces.Box]:
    """The spaces that all share. Bounds of observations may differ, as nothing is scaled by them, and those of actions where
    all have theirs from their data.

    :param sources: at least one.
    :return: of observations, and of actions.
    :raises ValueError: when they differ; names two sources that do.
    """
    first, *others = sources
    observation_space, action_space = first.observation_space, first.action_space
    measured = all(source.bounds_from_data for source in sources)
    for other in others:
        actions = _joint_space(action_space, other.action_space)
        if actions is None or not (measured or other.action_space == action_space):
            raise ValueError(
                f"data sets that are read together must share their action space: {first.name} has {first.action_space},"
                f" {other.name} has {other.action_space}"
            )
        observations = _joint_space(observation_space, other.observation_space)
        if observations is None:
            raise ValueError(
                f"data sets that are read together must share their observation space: {first.name} has"
                f" {first.observation_space}, {other.name} has {other.observation_space}"
            )
        observation_space, action_space = observations, actions
    return observation_space, action_space


def _joint_space(one: spaces.Space[Any], other: spaces.Space[Any]) -> Any:
    """The smallest space that holds both, None when they differ in more than bounds."""
    if isinstance(one, spaces.Box) and isinstance(other, spaces.Box):
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            return None
        return spaces.Box(
            np.minimum(one.low, other.low), np.maximum(one.high, other.high), dtype=one.dtype.type
        )
    if isinstance(one, spaces.Dict) and isinstance(other, spaces.Dict) and set(one) == set(other):
        parts = {key: _joint_space(one[key], other[key]) for key in one}
        return None if None in parts.values() else spaces.Dict(parts)
    return one if one == other else None


def _leaves(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    return (
        [leaf for part in space.values() for leaf in _leaves(part)]
        if isinstance(space, spaces.Dict)
        else [space]
    )


def unbounded_box(observations: np.ndarray) -> spaces.Box:
    """The space of observations of which nothing is known but examples.

    :param observations: (n, *obs_shape).
    :return: bytes from 0 to 255, or any float32.
    """
    if observations.dtype == np.uint8:
        return spaces.Box(0, 255, observations.shape[1:], np.uint8)
    return spaces.Box(-np.inf, np.inf, observations.shape[1:], np.float32)


def unbounded_space(observations: Observations) -> spaces.Space[Any]:
    """The same for observations that may be a dict of arrays.

    :param observations: (n, *obs_shape), or a dict of such arrays.
    :return: see `unbounded_box`.
    """
    if isinstance(observations, dict):
        return spaces.Dict({key: unbounded_box(value) for key, value in observations.items()})
    return unbounded_box(observations)
