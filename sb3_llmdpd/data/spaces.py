"""Spaces of logged data: as float32, without nesting, of examples alone, and the scaling of actions."""

import math
from typing import Any, TypeVar

import numpy as np
import torch as th
from gymnasium import Space, spaces
from gymnasium.spaces.utils import flatten_space

from sb3_llmdpd.data.checks import Observations, entries_of, parts_of

_LARGEST_WHOLE = 2**24
"""Number up to which a float32 has all whole ones."""

AnySpace = TypeVar("AnySpace", bound=Space[Any])
Array = TypeVar("Array", np.ndarray, th.Tensor)


def scale_actions(actions: Array, low: Array, high: Array) -> Array:
    """Scale actions to the range that the networks work in.

    :param actions: environment units, in any shape that the bounds broadcast to.
    :param low: lower bound of each entry.
    :param high: upper bound of each entry, larger than ``low``.
    :return: the actions in [-1, 1].
    """
    return 2.0 * (actions - low) / (high - low) - 1.0


def unscale_actions(actions: Array, low: Array, high: Array) -> Array:
    """Undo `scale_actions`: actions in [-1, 1] become actions in environment units."""
    return low + 0.5 * (actions + 1.0) * (high - low)


def actions_in_space(scaled: np.ndarray, space: spaces.Box) -> np.ndarray:
    """Make actions of the environment of those of a network.

    :param scaled: (..., *action_shape), in [-1, 1].
    :param space: action space of the environment.
    :return: the actions in environment units and of the space's dtype, each within its bounds; in a space of
        whole numbers the nearest one.
    :raises ValueError: when one is not finite; names the first row.
    """
    if not np.isfinite(scaled).all():
        shape = scaled.shape[: scaled.ndim - len(space.shape)]
        finite = np.isfinite(scaled).reshape(math.prod(shape), -1).all(axis=1)
        raise ValueError(
            f"the action of row {finite.argmin()} of {len(finite)} is not finite: look for NaN or very large"
            " numbers in its observation and its prompt; if they are sound, the weights are not, so load an"
            " earlier model file"
        )
    low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    actions = unscale_actions(scaled.astype(np.float32), low, high)
    if space.dtype.kind in "iu":
        actions = np.rint(actions)
    # Once in single precision, so that none leaves the range of whole numbers, and once in the space's own.
    return np.clip(np.clip(actions, low, high).astype(space.dtype), space.low, space.high)


def float32_space(space: AnySpace) -> AnySpace:
    """Return a space with every Box of floats, also in a Dict, in float32, as episodes have them."""
    if isinstance(space, spaces.Dict):
        parts = {key: float32_space(part) for key, part in space.items()}
        return spaces.Dict(parts)  # type: ignore[return-value]
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        return spaces.Box(low, high, dtype=np.float32)  # type: ignore[return-value]
    return space


def check_flat(name: str, space: Space[Any]) -> None:
    """Refuse a source's observations by a ValueError when they are neither an array nor a Dict of arrays."""
    for key, part in parts_of(space).items():
        if isinstance(part, spaces.Dict | spaces.Tuple | spaces.Text | spaces.Sequence | spaces.Graph):
            raise ValueError(
                f"{name}: observations must be one array or a flat Dict of arrays, got {part} {key}."
                " Where all its parts are numbers, `flatten` makes one vector of them"
            )


def flat_space(name: str, space: Space[Any]) -> Space[Any]:
    """Compute the space of `flat_observations`, a Box of one axis; a space that is no Dict stays as it is.

    :param name: name of the source, for the message.
    :param space: space of observations as they were recorded.
    :raises ValueError: when a part of a Dict is no Box.
    """
    if not isinstance(space, spaces.Dict):
        return space
    if others := [part for part in _leaves(space) if not isinstance(part, spaces.Box)]:
        raise ValueError(
            f"{name}: only a Dict of Boxes can be flattened, and this one has a {others[0]}: keep it as it is"
        )
    return float32_space(flatten_space(space))


def _leaves(space: Space[Any]) -> list[Space[Any]]:
    if not isinstance(space, spaces.Dict):
        return [space]
    return [leaf for part in space.values() for leaf in _leaves(part)]


def flat_observations(space: Space[Any], observations: Any, source: str) -> Any:
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


def in_space(observations: Observations, space: Space[Any], source: str) -> Observations:
    """Give observations the dtypes of their space, floats float32; what has them already is not copied.

    :param observations: (n, *obs_shape), or a dict of such arrays.
    :param space: space of one observation; entries without a part of their own stay as they are.
    :param source: named first in the error message.
    :return: the same numbers, read-only.
    :raises ValueError: when a number would change: a fraction in a space of whole numbers, one that its
        dtype cannot hold, or a whole number that a float would round.
    """
    parts = parts_of(space)
    converted = {
        key: _in_dtype(f"observations[{key!r}]" if key else "observations", rows, parts.get(key), source)
        for key, rows in entries_of(observations).items()
    }
    return converted if isinstance(observations, dict) else converted[""]


def _in_dtype(name: str, rows: np.ndarray, part: Space[Any] | None, source: str) -> np.ndarray:
    dtype = None if part is None else float32_space(part).dtype
    if dtype is None or rows.dtype == dtype:
        return rows
    with np.errstate(invalid="ignore", over="ignore"):  # what does not fit is refused below
        converted = rows.astype(dtype)
    if rows.dtype.kind == "f" and converted.dtype.kind == "f":  # rounding alone
        same = np.isfinite(converted)
    elif converted.dtype.kind == "f":
        same = np.abs(rows.astype(np.float64)) <= _LARGEST_WHOLE
    else:
        same = converted == rows
    if not same.all():
        step = int(np.argwhere(~same)[0][0])
        value = rows[step][~same[step]].flat[0] if rows.ndim > 1 else rows[step]
        raise ValueError(
            f"{source}: `{name}` holds {value} at step {step}, of {rows.dtype}, and the space is of {dtype},"
            " which cannot hold it: give the space or all episodes a type that holds all of their numbers"
        )
    converted.setflags(write=False)
    return converted


def widened(low: np.ndarray, high: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Widen the extremes of each entry to those of further rows; what is not finite does not count.

    :param low: smallest value so far, infinite at first.
    :param high: largest value so far.
    :param rows: (n, ...), further rows, n at least 1.
    :return: both anew.
    """
    known = np.isfinite(rows)
    lowest, highest = (np.where(known, rows, end) for end in (np.inf, -np.inf))
    return np.minimum(low, lowest.min(axis=0)), np.maximum(high, highest.max(axis=0))


def space_of_extremes(low: np.ndarray, high: np.ndarray) -> spaces.Box:
    """Make the space of actions of which nothing is known but their smallest and largest values.

    :param low: smallest value of each entry, infinite where there is none.
    :param high: largest value of each entry.
    :return: a Box of these bounds. An entry that never moved has room of 1 to either side, since it could not
        be scaled to [-1, 1].
    """
    low, high = np.where(low <= high, low, 0.0), np.where(low <= high, high, 0.0)
    # A very large float32 is the same as its sum with 1.
    room = np.where(low < high, 0.0, np.maximum(1.0, np.spacing(np.abs(low))))
    return spaces.Box((low - room).astype(np.float32), (high + room).astype(np.float32), dtype=np.float32)


def unbounded_space(observations: Observations) -> Space[Any]:
    """Make the space of observations of which nothing is known but examples.

    :param observations: (n, *obs_shape), or a dict of such arrays. Only shapes and dtypes are read.
    :return: bytes from 0 to 255, or any float32; a Dict of such spaces for a dict.
    """
    parts: dict[str, Space[Any]] = {
        key: spaces.Box(0, 255, rows.shape[1:], np.uint8)
        if rows.dtype == np.uint8
        else spaces.Box(-np.inf, np.inf, rows.shape[1:], np.float32)
        for key, rows in entries_of(observations).items()
    }
    return spaces.Dict(parts) if isinstance(observations, dict) else parts[""]
