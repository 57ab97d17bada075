"""Observation and action spaces as JSON."""

import math
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_llmdpd.checkpoint.values import from_json, no_custom_objects, to_json

MAX_ENTRIES = 2**24
"""Entries of a space, one-hot categories counted: a few bytes in a file must not ask for all of the memory."""


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """Encode a space.

    :param space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these.
    :return: JSON, from which `space_from_json` makes an equal space.
    :raises ValueError: on another kind, which Stable-Baselines3 cannot read either.
    """
    if isinstance(space, spaces.Dict):
        return {
            "type": "Dict",
            "spaces": {name: space_to_json(subspace) for name, subspace in space.spaces.items()},
        }
    if isinstance(space, spaces.Box):
        bounds = {name: _bound(bound) for name, bound in (("low", space.low), ("high", space.high))}
        return {"type": "Box", "dtype": str(space.dtype), "shape": list(space.shape), **bounds}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        parts = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
        return {"type": "MultiDiscrete", "dtype": str(space.dtype), **parts}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": to_json(space.n)}
    raise ValueError(
        f"a model file cannot hold the space {space}: use Box, Discrete, MultiDiscrete, MultiBinary or Dict"
    )


def space_from_json(value: Any) -> spaces.Space[Any]:
    """Decode a space.

    :param value: from `space_to_json`.
    :return: the space.
    :raises ValueError: when it is none, or has more than ``MAX_ENTRIES`` entries.
    """
    kind = value["type"]
    if kind == "Dict":
        return spaces.Dict({name: space_from_json(subspace) for name, subspace in value["spaces"].items()})
    if kind == "Box":
        dtype, shape = np.dtype(value["dtype"]), _shape(value["shape"])
        low, high = (_bound_from_json(value[name], shape, dtype) for name in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(_counted(value["n"]), start=int(value["start"]))
    if kind == "MultiDiscrete":
        nvec = np.array(value["nvec"])
        _counted(int(nvec.sum(dtype=object)))
        return spaces.MultiDiscrete(nvec, np.dtype(value["dtype"]).type, start=np.array(value["start"]))
    if kind == "MultiBinary":
        n = value["n"]
        return spaces.MultiBinary(_shape(n) if isinstance(n, list) else _counted(n))
    raise ValueError(f"the model file has a space of type {kind!r}, which this version does not know")


def _bound(array: np.ndarray) -> Any:
    """One number where all entries are the same, as in an image."""
    return to_json(array.flat[0] if array.size and (array == array.flat[0]).all() else array.tolist())


def _bound_from_json(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    bound = np.array(from_json(value, "bound", no_custom_objects), dtype)
    return bound.reshape(shape) if isinstance(value, list) else np.full(shape, bound)


def _shape(sizes: Any) -> tuple[int, ...]:
    _counted(math.prod(sizes))
    return tuple(sizes)


def _counted(n: Any) -> int:
    if not isinstance(n, int) or not 0 <= n <= MAX_ENTRIES:
        raise ValueError(f"the model file has a space of {n} entries, and at most {MAX_ENTRIES} are read")
    return n
