"""`sb3-llmdpd config`: shows settings of a training, as a file that `sb3-llmdpd train --config` reads."""

import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from typer import Option

from sb3_llmdpd.benchmarks.common.run_folder import ARGUMENTS, RunFolder
from sb3_llmdpd.benchmarks.quickstart import QuickstartSettings, remembered
from sb3_llmdpd.cli.model_options import OPTION_OF, accepted, parameter_docs
from sb3_llmdpd.cli.settings import ALGORITHM, CLASSES, POLICY, defaults, settings_of_run, split, together
from sb3_llmdpd.cli.train import train
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.llmdpd.policies import LLMDPDPolicy
from sb3_llmdpd.presets import PRESETS

app = typer.Typer(
    no_args_is_help=True,
    help="Show the settings of a training, as a file that `sb3-llmdpd train --config` reads.",
)

QUICKSTART = "quickstart"
"""Name that shows the demo's settings: they are a preset with a number of steps."""
_TRAINING = ("steps", "cosine", "log_interval", "save_freq")
"""Options of ``train`` that are shown beside the arguments of the model."""
_OWN = {
    name: option
    for name, option in inspect.signature(train).parameters.items()
    if name not in OPTION_OF.values()
}
_WIDTH = 100


class Format(StrEnum):
    """Format of what is shown."""

    yaml = "yaml"
    json = "json"


@app.command()
def show(
    preset: Annotated[
        str | None,
        Option(help=f"Settings by name: {', '.join([*PRESETS, QUICKSTART])}. By default the defaults."),
    ] = None,
    run: Annotated[
        Path | None,
        Option(help="Folder of a run of train, quickstart or a benchmark, whose settings are shown."),
    ] = None,
    format_: Annotated[
        Format, Option("--format", help="yaml, with the meaning and the range of each setting; or json.")
    ] = Format.yaml,
) -> None:
    """Print the settings of a training: all arguments of the model and its policy, with meaning and range.

    In a file they are what `sb3-llmdpd train --config` reads; unchanged, the defaults change nothing.
    """
    options, arguments = _settings(preset, run)
    if format_ is Format.json:
        typer.echo(json.dumps({**options, **arguments}, indent=1))
    else:
        typer.echo("\n".join(_lines(options, arguments)))


def _settings(preset: str | None, run: Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Collect options of ``train`` and arguments of the model."""
    if preset is not None and run is not None:
        raise ValueError("give either --preset or --run, not both")
    options = {name: _OWN[name].default for name in _TRAINING}
    said: tuple[dict[str, Any], Mapping[str, Any]] = ({}, {})
    if run is not None:
        said = split(
            settings_of_run(RunFolder(run).arguments(), str(run / ARGUMENTS)), _OWN, str(run / ARGUMENTS)
        )
    elif preset == QUICKSTART:
        said = split(settings_of_run(remembered(QuickstartSettings()), QUICKSTART), _OWN, QUICKSTART)
    elif preset is not None:
        if preset not in PRESETS:
            raise ValueError(f"--preset must be one of {', '.join([*PRESETS, QUICKSTART])}, got {preset!r}")
        said = ({}, PRESETS[preset])
    given = {name: value for name, value in said[0].items() if value is not None and name != "preset"}
    return {**options, **given}, _as_json(together(defaults(), said[1]))


def _as_json(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(arguments)))


def _lines(options: Mapping[str, Any], arguments: Mapping[str, Any]) -> Iterator[str]:
    yield from _comment(
        "Settings for `sb3-llmdpd train --config`. None is null here, and what is left out keeps its default."
    )
    for name, value in options.items():
        (option,) = _OWN[name].annotation.__metadata__
        yield from ("", *_comment(option.help), _entry(name, value))
    for name, value in arguments.items():
        if name != "policy_kwargs":
            yield from ("", *_about(LLMDPD, name, ALGORITHM[name]), _entry(name, value))
    yield from ("", "policy_kwargs:")
    for name, value in arguments["policy_kwargs"].items():
        below = [*_about(LLMDPDPolicy, name, POLICY[name]), _entry(name, value)]
        yield from ("", *textwrap.indent("\n".join(below), "  ").split("\n"))
    yield ""
    classes = ", ".join(f"{name} ({POLICY[name].default.__name__})" for name in CLASSES)
    yield from _comment(
        f"Classes and functions have no name in a file: pass them to LLMDPD in Python. {classes}."
    )


def _about(of: type, name: str, argument: inspect.Parameter) -> list[str]:
    """Comment on an argument: its meaning from the docstring, and its range from the table."""
    meaning = parameter_docs(of).get(name, "").replace("``", "`")  # `python -OO` leaves no docstrings
    values = accepted(name, argument).replace("`", "")
    return _comment(f"{meaning[:1].upper()}{meaning[1:]}{f' Range: {values}.' if values else ''}")


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH - 2, initial_indent="# ", subsequent_indent="# ")


def _entry(name: str, value: Any) -> str:
    in_one_line = None if isinstance(value, list | dict) else False
    return yaml.safe_dump({name: value}, default_flow_style=in_one_line, width=float("inf")).rstrip()
