"""Arguments of constructors as JSON: what a model file says instead of pickling them."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch as th
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule
from torch import nn

from sb3_llmdpd.common.schedules import CosineSchedule
from sb3_llmdpd.networks.features import FEATURES_EXTRACTORS
from sb3_llmdpd.networks.perceptrons import Mish

CustomObjects = Callable[[str, str], Any]
"""(name of an argument, what stood there) -> the object that only the user has."""


def _named_classes(module: Any, base: type, prefix: str) -> dict[str, type]:
    classes = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base)
    }
    return {f"{prefix}.{name}": value for name, value in classes.items()}


KNOWN_CLASSES: dict[str, type] = {
    **_named_classes(nn.modules.activation, nn.Module, "torch.nn"),
    **_named_classes(th.optim, th.optim.Optimizer, "torch.optim"),
    **{f"features.{name}": extractor for name, extractor in FEATURES_EXTRACTORS.items()},
    "sb3_llmdpd.Mish": Mish,
}
"""Classes that a model file may name. A closed list: a name from a file must never decide what gets
imported."""

SCHEDULES: dict[str, tuple[type, tuple[str, ...]]] = {
    "constant": (ConstantSchedule, ("val",)),
    "cosine": (CosineSchedule, ("initial", "final", "warmup")),
    "linear": (LinearSchedule, ("start", "end", "end_fraction")),
}
"""Schedules that a model file may name, and the arguments that make them again."""


def to_json(value: Any) -> Any:
    """Encode an argument of a constructor.

    :param value: JSON values, numbers without end, known classes, schedules; nested.
    :return: JSON. A class or function that is not known becomes a note that `from_json` can only answer with
        a custom object.
    """
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(entry) for entry in value]
    for name, (schedule, arguments) in SCHEDULES.items():
        if type(value) is schedule:
            return {
                ":schedule:": name,
                **{argument: to_json(getattr(value, argument)) for argument in arguments},
            }
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
    """Decode what `to_json` encoded.

    :param value: JSON.
    :param name: of the argument, for error messages and custom objects.
    :param custom: answers for objects that only the user has.
    :return: the value.
    :raises ValueError: on a class that is not known.
    """
    if isinstance(value, list):
        return [from_json(entry, name, custom) for entry in value]
    if not isinstance(value, dict):
        return value
    if ":custom:" in value:
        return custom(name, str(value[":custom:"]))
    if ":schedule:" in value:
        if value[":schedule:"] not in SCHEDULES:
            raise ValueError(
                f"the model file names a schedule {value[':schedule:']!r} for `{name}` that this version does not know"
            )
        schedule, arguments = SCHEDULES[value[":schedule:"]]
        return schedule(**{argument: from_json(value[argument], name, custom) for argument in arguments})
    if ":float:" in value:
        return float(value[":float:"])
    if ":class:" in value:
        if value[":class:"] not in KNOWN_CLASSES:
            raise ValueError(
                f"the model file names a class {value[':class:']!r} for `{name}` that this version does not know"
            )
        return KNOWN_CLASSES[value[":class:"]]
    return {key: from_json(entry, key, custom) for key, entry in value.items()}


def no_custom_objects(name: str, what: str) -> NoReturn:
    """The answer where there can be none.

    :param name: of the argument.
    :param what: stood there.
    :raises ValueError: always.
    """
    raise ValueError(f"the model file has {what} for `{name}`, where only plain values can stand")


def custom_objects(known: Mapping[str, Any]) -> CustomObjects:
    """Answers from what the user passed.

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
