"""Spaces of logged data: as float32, without nesting, of several sources, and the scaling of actions."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.spaces.utils import flatten_space

from sb3_llmdpd.data.checks import Observations, entries_of

AnySpace = TypeVar("AnySpace", bound=spaces.Space[Any])
Array = TypeVar("Array", np.ndarray, th.Tensor)


class SourceSpaces(Protocol):
    """A source as `joint_spaces` reads it."""

    name: str
    observation_space: spaces.Space[Any]
    action_space: spaces.Box
    bounds_from_data: bool
    """True where the bounds of actions are the smallest and largest values, since none are recorded."""


def scale_actions(actions: Array, low: Array, high: Array) -> Array:
    """Scale actions to the range that the networks work in.

    :param actions: environment units, in any shape that the bounds broadcast to.
    :param low: lower bound of each entry.
    :param high: upper bound of each entry, larger than ``low``.
    :return: the actions in [-1, 1].
    """
    return 2.0 * (actions - low) / (high - low) - 1.0


def unscale_actions(actions: Array, low: Array, high: Array) -> Array:
    """Undo `scale_actions`.

    :param actions: in [-1, 1].
    :param low: lower bound of each entry.
    :param high: upper bound of each entry.
    :return: the actions in environment units.
    """
    return low + 0.5 * (actions + 1.0) * (high - low)


def float32_space(space: AnySpace) -> AnySpace:
    """Give a space the floats that episodes have.

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

    :param name: name of the source, for the message.
    :param space: space of its observations.
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
    """Compute the space of `flat_observations`.

    :param name: name of the source, for the message.
    :param space: space of observations as they were recorded.
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


def _leaves(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    if not isinstance(space, spaces.Dict):
        return [space]
    return [leaf for part in space.values() for leaf in _leaves(part)]


def flat_observations(space: spaces.Space[Any], observations: Any, source: str) -> Any:
    """Put the entries of Dict observations side by side, in the order of the space.

    :param space: space of one observation as it was recorded.
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


def joint_spaces(sources: Sequence[SourceSpaces]) -> tuple[spaces.Space[Any], spaces.Box]:
    """Find the spaces that all sources share.

    Bounds of observations may differ: nothing is scaled by them. Those of actions may if all are from data.

    :param sources: at least one.
    :return: the smallest spaces of observations and of actions that hold those of all sources.
    :raises ValueError: when they differ; names two sources that do.
    """
    first, *others = sources
    observation_space, action_space = first.observation_space, first.action_space
    measured = all(source.bounds_from_data for source in sources)
    for other in others:
        actions = _joint_space(action_space, other.action_space)
        if actions is None or not (measured or other.action_space == action_space):
            raise _differing("action", first.name, first.action_space, other.name, other.action_space)
        observations = _joint_space(observation_space, other.observation_space)
        if observations is None:
            ours, theirs = first.observation_space, other.observation_space
            raise _differing("observation", first.name, ours, other.name, theirs)
        observation_space, action_space = observations, actions
    return observation_space, action_space


def _differing(kind: str, name: str, space: Any, other: str, its: Any) -> ValueError:
    both = f"{name} has {space}, {other} has {its}"
    return ValueError(f"data sets that are read together must share their {kind} space: {both}")


def _joint_space(one: spaces.Space[Any], other: spaces.Space[Any]) -> Any:
    """Find the smallest space that holds both; None when they differ in more than bounds."""
    if isinstance(one, spaces.Box) and isinstance(other, spaces.Box):
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            return None
        low, high = np.minimum(one.low, other.low), np.maximum(one.high, other.high)
        return spaces.Box(low, high, dtype=one.dtype.type)
    if isinstance(one, spaces.Dict) and isinstance(other, spaces.Dict) and set(one) == set(other):
        parts = {key: _joint_space(one[key], other[key]) for key in one}
        return None if None in parts.values() else spaces.Dict(parts)
    return one if one == other else None


def unbounded_space(observations: Observations) -> spaces.Space[Any]:
    """Make the space of observations of which nothing is known but examples.

    :param observations: (n, *obs_shape), or a dict of such arrays. Only shapes and dtypes are read.
    :return: bytes from 0 to 255, or any float32; a Dict of such spaces for a dict.
    """
    parts: dict[str, spaces.Space[Any]] = {
        key: spaces.Box(0, 255, rows.shape[1:], np.uint8)
        if rows.dtype == np.uint8
        else spaces.Box(-np.inf, np.inf, rows.shape[1:], np.float32)
        for key, rows in entries_of(observations).items()
    }
    return spaces.Dict(parts) if isinstance(observations, dict) else parts[""]
