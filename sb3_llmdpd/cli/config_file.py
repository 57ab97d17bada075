"""`--config`, `--set` and `--preset`: what says the settings of a training beside options of their own."""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from sb3_llmdpd.cli.model_options import OPTION_OF, given_arguments
from sb3_llmdpd.cli.settings import check, defaults, leaves, settings_of_run, split, together
from sb3_llmdpd.presets import PRESETS

_NO_SETTINGS = ("config", "resume", "overwrite", "set_")
_META = f"{__name__}.arguments"
"""Key of a context's ``meta`` that holds the arguments of the file."""


class _Loader(yaml.SafeLoader):
    """Reads YAML in which ``1e-3`` is a number, as in YAML 1.2, and no word."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _take(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make the file's values the defaults of the command's options, before these are read."""
    if path is not None:
        own = own_options(ctx)
        options, ctx.meta[_META] = split(_read(path), own, str(path))
        checked = {name: _checked(ctx, own[name], value, path) for name, value in options.items()}
        ctx.default_map = {**(ctx.default_map or {}), **checked}
    return path


Config = Annotated[
    Path | None,
    typer.Option(
        callback=_take,
        is_eager=True,
        help="YAML file of settings, nested as in Python or by the names of options, or the run.json of a"
        " run; what the command line says goes before it. `config show` prints one.",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help=f"Settings by name, of which --config and options may change some: {', '.join(PRESETS)}."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Argument of the model, with a value in YAML, for what has no option:"
        " policy_kwargs.optimizer_kwargs.weight_decay=0.01. May be given several times.",
    ),
]


def own_options(ctx: typer.Context) -> dict[str, Any]:
    """Name the options of a command that are no arguments of a model, and may stand in a file."""
    left_out = {*_NO_SETTINGS, *OPTION_OF.values()}
    return {option.name: option for option in ctx.command.params if option.name not in left_out}


def model_settings(ctx: typer.Context, preset: str | None, words: Iterable[str]) -> dict[str, Any]:
    """Collect the arguments of a model: the defaults, then preset, file, and last the command line's.

    :param ctx: context of a command with `with_model_options` and `Config`.
    :param preset: key of `PRESETS`, or None.
    :param words: values of ``--set``.
    :return: arguments of `LLMDPD` but its data, with ``policy`` and ``policy_kwargs`` among them.
    :raises ValueError: on an unknown name, a value out of its range, and two values for one argument.
    :raises TypeError: on a value of another kind.
    """
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"--preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    said = given_arguments(ctx.params, [name for name in OPTION_OF.values() if is_given(ctx, name)])
    for word in words:
        said = _with_word(said, word, own_options(ctx))
    arguments = defaults()
    for layer in (PRESETS[preset] if preset else {}, ctx.meta.get(_META, {}), said):
        arguments = together(arguments, layer)
    check(arguments)
    return arguments


def is_given(ctx: typer.Context, name: str) -> bool:
    """Tell whether the command line or a file says an option."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _with_word(said: Mapping[str, Any], word: str, own: Collection[str]) -> dict[str, Any]:
    """Add what one ``--set`` says to what options, and others before it, say."""
    dotted, sign, text = word.partition("=")
    if not sign:
        raise ValueError(f"--set takes NAME=VALUE, as in policy_kwargs.net_arch=[512,512]; got {word!r}")
    if dotted in own:
        raise ValueError(f"--set takes arguments of the model: for {dotted!r} give its own option")
    *above, name = dotted.split(".")
    nested = {name: _yaml(text, f"--set {dotted} takes a value in YAML, and {text!r} is none")}
    for part in reversed(above):
        nested = {part: nested}
    _, more = split(nested, (), "--set")
    before = dict(leaves(said))
    for leaf, value in leaves(more):
        if leaf in before and before[leaf] != value:
            twice = f"`{leaf}` is said twice, as {before[leaf]!r} and by --set as {value!r}"
            raise ValueError(f"{twice}: leave one of them out")
    return together(said, more)


def _yaml(text: str, refusal: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{refusal}: {' '.join(str(error).split())}") from error


def _read(path: Path) -> dict[Any, Any]:
    refusal = f"--config takes a YAML file, and {path} is not one"
    try:
        text = path.read_text()
    except UnicodeDecodeError as error:
        raise ValueError(f"{refusal}: {error}") from error
    settings = _yaml(text, refusal)
    if not isinstance(settings, dict):
        accepted = "a YAML file with settings, as in `batch_size: 128`"
        raise ValueError(f"--config takes {accepted}, and {path} holds {settings!r:.80}")
    return settings_of_run(settings, str(path)) if "command" in settings else settings


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
