"""Arguments of constructors and spaces as JSON, which a model file holds instead of pickles."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule
from torch import nn

from sb3_llmdpd.common.schedules import CosineSchedule
from sb3_llmdpd.networks.features import FEATURES_EXTRACTORS
from sb3_llmdpd.networks.layers import Mish

CustomObjects = Callable[[str, str], Any]
"""(name of an argument, note in its place) -> the object that only the user has."""


def _named_classes(module: Any, base: type, prefix: str) -> dict[str, type]:
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return {f"{prefix}.{name}": value for name, value in classes.items() if issubclass(value, base)}


KNOWN_CLASSES: dict[str, type] = {
    **_named_classes(nn.modules.activation, nn.Module, "torch.nn"),
    **_named_classes(th.optim, th.optim.Optimizer, "torch.optim"),
    **{f"features.{name}": extractor for name, extractor in FEATURES_EXTRACTORS.items()},
    "sb3_llmdpd.Mish": Mish,
}
"""Classes that a model file may name. A closed list: a file must never decide what gets imported."""

SCHEDULES: dict[str, tuple[type, tuple[str, ...]]] = {
    "constant": (ConstantSchedule, ("val",)),
    "cosine": (CosineSchedule, ("initial", "final", "warmup")),
    "linear": (LinearSchedule, ("start", "end", "end_fraction")),
}
"""Schedules that a model file may name, and the arguments that make them again."""

SPACES = ("observation_space", "action_space")
"""Names of the spaces in a model file, and of the constructors' arguments."""

MAX_ENTRIES = 2**24
"""Entries of a space, one-hot categories counted: a small file must not ask for all of the memory."""


def to_json(value: Any) -> Any:
    """Encode an argument of a constructor.

    :param value: JSON values, infinite numbers, known classes, schedules; nested.
    :return: JSON. An unknown class or function becomes a note that `from_json` answers with a custom object.
    """
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(entry) for entry in value]
    for name, (schedule, arguments) in SCHEDULES.items():
        if type(value) is schedule:
            own = {argument: to_json(getattr(value, argument)) for argument in arguments}
            return {":schedule:": name, **own}
    if isinstance(value, type):
        known = next((name for name, known_class in KNOWN_CLASSES.items() if known_class is value), None)
        return {":class:": known} if known else {":custom:": f"{value.__module__}.{value.__qualname__}"}
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # a numpy or torch scalar
    if isinstance(value, float) and not math.isfinite(value):
        return {":float:": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return {":custom:": f"{type(value).__module__}.{type(value).__qualname__} object"}


def from_json(value: Any, name: str, custom: CustomObjects) -> Any:
    """Decode the JSON of `to_json`.

    :param value: JSON.
    :param name: name of the argument, for error messages and custom objects.
    :param custom: answers for objects that only the user has.
    :return: the value.
    :raises ValueError: on a class or schedule that is not known.
    """
    if isinstance(value, list):
        return [from_json(entry, name, custom) for entry in value]
    if not isinstance(value, dict):
        return value
    if ":custom:" in value:
        return custom(name, str(value[":custom:"]))
    if ":schedule:" in value:
        schedule, arguments = _known(SCHEDULES, "schedule", value[":schedule:"], name)
        return schedule(**{argument: from_json(value[argument], name, custom) for argument in arguments})
    if ":float:" in value:
        return float(value[":float:"])
    if ":class:" in value:
        return _known(KNOWN_CLASSES, "class", value[":class:"], name)
    return {key: from_json(entry, key, custom) for key, entry in value.items()}


def _known(known: Mapping[str, Any], kind: str, what: Any, name: str) -> Any:
    if what not in known:
        raise ValueError(
            f"the model file names a {kind} {what!r} for `{name}` that this version does not know"
        )
    return known[what]


def no_custom_objects(name: str, what: str) -> NoReturn:
    """Raise a ValueError: for this argument, there can be no custom objects."""
    raise ValueError(f"the model file has {what} for `{name}`, where only plain values can stand")


def custom_objects(known: Mapping[str, Any]) -> CustomObjects:
    """Answer from the objects that the user passed.

    :param known: objects by the name of the argument.
    :return: the answers; a ValueError that says what to pass where one is missing.
    """

    def find(name: str, what: str) -> Any:
        if name not in known:
            raise ValueError(
                f"the model was built with {what} of its user for `{name}`, which a model file does not hold:"
                f" pass custom_objects={{{name!r}: ...}} when loading"
            )
        return known[name]

    return find


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """Encode a space.

    :param space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these.
    :return: JSON, from which `space_from_json` makes an equal space.
    :raises ValueError: on another kind, which Stable-Baselines3 cannot read either.
    """
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {name: space_to_json(part) for name, part in space.spaces.items()}}
    if isinstance(space, spaces.Box):
        bounds = {"low": _bound(space.low), "high": _bound(space.high)}
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

    :param value: JSON of `space_to_json`.
    :return: the space.
    :raises ValueError: when it is none, or has more than ``MAX_ENTRIES`` entries.
    """
    kind = value["type"]
    if kind == "Dict":
        return spaces.Dict({name: space_from_json(part) for name, part in value["spaces"].items()})
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
    """Write one number where all entries are the same, as in an image."""
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
