"""`--config`: reads the options of a command from a YAML file."""

import difflib
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

FINGERPRINT = "fingerprint"
"""Name under which ``run.json`` remembers the data of a run."""

_NO_OPTIONS = ("config", "resume", "overwrite")
_OF_A_RUN = ("command", FINGERPRINT)
"""Entries of ``run.json`` beside options, left out so that the file of an earlier run may be given."""


def _take_defaults(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make the file's values the defaults of the command's options, before these are read."""
    if path is not None:
        options = {option.name: option for option in ctx.command.params if option.name not in _NO_OPTIONS}
        given = {}
        for name, value in _read(path).items():
            if name not in options:
                (nearest,) = difflib.get_close_matches(str(name), options, n=1, cutoff=0)
                raise ValueError(f"{path} has {name!r}, which is no option: the nearest is {nearest!r}")
            given[name] = _checked(ctx, options[name], value, path)
        ctx.default_map = {**(ctx.default_map or {}), **given}
    return path


def _read(path: Path) -> dict[Any, Any]:
    try:
        settings = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"--config takes a YAML file, and {path} is not one: {reason}") from error
    if not isinstance(settings, dict):
        accepted = "a YAML file with options, as in `batch_size: 128`"
        raise ValueError(f"--config takes {accepted}, and {path} holds {settings!r:.80}")
    return {name: value for name, value in settings.items() if name not in _OF_A_RUN}


def _checked(ctx: typer.Context, option: Any, value: Any, path: Path) -> Any:
    """Give a value the form that it has on a command line, and refuse what would be refused there."""
    if value is None and option.default is None:
        return None
    is_switch = bool(getattr(option, "is_flag", False))
    words = [_word(entry) for entry in (value if isinstance(value, list) else [value])]
    if is_switch != isinstance(value, bool) or (not is_switch and None in words):
        accepted = "true or false" if is_switch else "a word, a number, or a list of them"
        raise ValueError(f"{path}: {option.name!r} takes {accepted}, got {value!r}")
    if is_switch:
        return value
    given = words if option.multiple else ",".join(map(str, words))
    try:
        option.process_value(ctx, given)
    except typer.BadParameter as error:
        raise ValueError(f"{path}: {option.name!r} cannot be {value!r}: {error.message}") from error
    return given


def _word(value: Any) -> str | None:
    """Write a number, a word, or nothing (as the word none) as on a command line; None for anything else."""
    if value is None:
        return "none"
    return None if isinstance(value, bool) or not isinstance(value, str | int | float) else str(value)


Config = Annotated[
    Path | None,
    typer.Option(
        callback=_take_defaults,
        is_eager=True,
        help="YAML file with options, as in `batch_size: 128`; those of the command line go before it.",
    ),
]
