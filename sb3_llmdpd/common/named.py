"""`function_named`, which looks functions up by the names that arguments and model files have for them."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def function_named(argument: str, given: str | Function, known: Mapping[str, Function]) -> Function:
    """Look up a function by its name; a function stands for itself.

    :param argument: name of the argument, for the message.
    :param given: key of ``known``, or a function.
    :param known: functions by name.
    :return: the function.
    :raises ValueError: on anything else.
    """
    if callable(given):
        return given
    if given not in known:
        raise ValueError(f"`{argument}` must be a function or one of {sorted(known)}, got {given!r}")
    return known[given]
