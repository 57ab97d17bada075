"""Reads lists of names and numbers, and the name of a device, from options; options of several commands."""

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from sb3_llmdpd.llmdpd.arguments import device_named

Entry = TypeVar("Entry")

Processes = Annotated[int | None, typer.Option(help="Processes; by default one a CPU core.")]

TrustEncoder = Annotated[
    bool,
    typer.Option(
        "--trust-encoder",
        help="Read unknown sentences by the language model that the model file names, whatever it is. Without"
        " it one that is not built in is refused.",
    ),
]


def names(text: str, option: str) -> list[str]:
    """Read names between commas; an empty one is a ValueError that names the option."""
    return _listed(text, option, _name, "names between commas, as in door-lock,door-unlock")


def numbers(text: str, option: str) -> list[float]:
    """Read numbers between commas; see `names`."""
    return _listed(text, option, float, "numbers between commas, as in 0,0.1")


def whole_numbers(text: str, option: str) -> list[int]:
    """Read whole numbers between commas; see `names`."""
    return _listed(text, option, int, "whole numbers between commas, as in 256,256")


def check_device(device: str) -> None:
    """Refuse a device that is not there, by a ValueError, before anything is computed for it."""
    try:
        device_named(device)
    except ValueError as error:
        raise ValueError(f"--device: {error}") from error


def _listed(text: str, option: str, read: Callable[[str], Entry], what: str) -> list[Entry]:
    try:
        return [read(entry.strip()) for entry in text.split(",")]
    except ValueError as error:
        raise ValueError(f"{option} takes {what}; got {text!r}") from error


def _name(text: str) -> str:
    if not text:
        raise ValueError("a name is empty")
    return text
