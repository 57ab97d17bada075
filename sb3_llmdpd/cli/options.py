"""How the commands read lists of names and numbers."""

from collections.abc import Callable
from typing import TypeVar

Entry = TypeVar("Entry")


def names(text: str, option: str) -> list[str]:
    """Read names between commas.

    :param text: e.g. ``"door-lock,door-unlock"``.
    :param option: named in the message.
    :return: the names.
    :raises ValueError: when one is empty.
    """
    return _listed(text, option, _name, "names between commas, as in door-lock,door-unlock")


def numbers(text: str, option: str) -> list[float]:
    """Read numbers between commas; see `names`."""
    return _listed(text, option, float, "numbers between commas, as in 0,0.1")


def whole_numbers(text: str, option: str) -> list[int]:
    """Read whole numbers between commas; see `names`."""
    return _listed(text, option, int, "whole numbers between commas, as in 256,256")


def _listed(text: str, option: str, read: Callable[[str], Entry], what: str) -> list[Entry]:
    try:
        return [read(entry.strip()) for entry in text.split(",")]
    except ValueError as error:
        raise ValueError(f"{option} takes {what}; got {text!r}") from error


def _name(text: str) -> str:
    if not text:
        raise ValueError("a name is empty")
    return text
