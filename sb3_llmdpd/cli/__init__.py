"""The command ``sb3-llmdpd``."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import typer

from sb3_llmdpd.cli.mistakes import AnswersMistakes
from sb3_llmdpd.version import __version__


class _Commands(AnswersMistakes):
    """All commands; each has a module of its own beside this one."""

    lines: ClassVar[Mapping[str, str]] = {
        "collect": "Record data sets.",
        "data": "Look at data, or write them in another format.",
        "train": "Train one model on all data sets and write it with its learning curve, or go on with a"
        " stopped run.",
        "evaluate": "Measure a model beside its controls: no prompt, the wrong one, and the expert.",
        "film": "Film a model in episodes of one of Meta-World's tasks, or of one in an environment of"
        " your own.",
        "validate": "Measure how far a model's actions are from logged ones, for each prompt; no environment"
        " is needed.",
        "advise": "Say what can be learned of data: short trainings leave tasks out, and no environment is"
        " needed.",
        "export": "Write what a model does as a program for PyTorch or an ONNX runtime alone.",
        "config": "Show the settings of a training, as a file that `sb3-llmdpd train --config` reads.",
        "benchmark": "Run an experiment with all its variants, or write its report anew.",
        "quickstart": "Collect Meta-World's ML45, train, and evaluate on the five tasks held out.",
    }


app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sb3-llmdpd {__version__}")
        raise typer.Exit


@app.callback()
def _every_command(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error was noticed.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """One policy for many tasks, told what to do by a sentence, by one example trajectory, or by both.

    collect data, train on them, evaluate on tasks that training held out, and film what the model does there.
    quickstart does all of it; benchmark does it for every row of a table.
    """


def main() -> None:
    """Run the command."""
    app()
