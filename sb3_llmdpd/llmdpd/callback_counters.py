"""Counters of SB3's callbacks, so that a resumed run knows when to evaluate next and what was best so far."""

import inspect
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any, NamedTuple

from stable_baselines3.common.callbacks import BaseCallback

from sb3_llmdpd.checkpoint.values import from_json, no_custom_objects

_CHILDREN = ("callbacks", "callback", "callback_on_new_best")
"""Attributes in which SB3's callbacks keep the callbacks that they call."""


class Counters(NamedTuple):
    """Counters of one callback."""

    callback: str
    """Name of the callback's class."""
    numbers: dict[str, Any]
    """Attributes that are numbers or lists of numbers."""


def counters_of(callback: BaseCallback | None) -> list[Counters]:
    """Collect the counters of a callback and of all that it calls.

    :param callback: the outermost callback
    :return: counters from the outside in, without the arguments of constructors, which are settings
    """
    return [Counters(type(each).__name__, _numbers(each)) for each in _tree(callback)]


def give_back(callback: BaseCallback, counted: Sequence[Counters], step: int) -> list[BaseCallback]:
    """Let callbacks count on from where those of an earlier run were.

    :param callback: the outermost callback
    :param counted: counters from `counters_of`, which go to callbacks of the same class, in order
    :param step: step at which the model was saved
    :return: callbacks that have yet to see this step, since they came after the one that saved
    """
    left, late = list(counted), []
    for each in _tree(callback):
        found = next((entry for entry in left if entry.callback == type(each).__name__), None)
        if found is not None:
            left.remove(found)
            known = _numbers(each)
            for name, value in found.numbers.items():
                if name in known and isinstance(value, list) == isinstance(known[name], list):
                    setattr(each, name, value)
            if any(each is member for member in _members(callback)) and each.num_timesteps < step:
                late.append(each)
    return late


def counters_from_json(value: Any) -> Counters:
    """Decode the counters of one callback.

    :param value: JSON of the fields of `Counters`
    :return: the counters
    :raises ValueError: when they are not all numbers
    """
    counters = Counters(**from_json(value, "callbacks", no_custom_objects))
    if not all(_is_numeric(number) for number in counters.numbers.values()):
        raise ValueError("the counters of a callback are not all numbers")
    return counters


def _tree(callback: BaseCallback | None) -> Iterator[BaseCallback]:
    if callback is None:
        return
    yield callback
    for name in _CHILDREN:
        children = getattr(callback, name, None)
        for child in children if isinstance(children, list) else [children]:
            if isinstance(child, BaseCallback):
                yield from _tree(child)


def _members(callback: BaseCallback) -> Iterator[BaseCallback]:
    """Callbacks that are called at each step."""
    for member in getattr(callback, "callbacks", ()):
        yield member
        yield from _members(member)


def _numbers(callback: BaseCallback) -> dict[str, Any]:
    settings = {name for cls in type(callback).__mro__ for name in inspect.signature(cls).parameters}
    return {
        name: value for name, value in vars(callback).items() if name not in settings and _is_numeric(value)
    }


def _is_numeric(value: Any) -> bool:
    return all(_is_numeric(entry) for entry in value) if isinstance(value, list) else isinstance(value, Real)
