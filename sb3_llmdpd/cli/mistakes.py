"""The border of the command line: mistakes of a user become a sentence, and bugs keep their traceback."""

import dis
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

from sb3_llmdpd.cli.lazy_group import LazyGroup
from sb3_llmdpd.common.endings import BAD_INPUT, FAILED, Ending
from sb3_llmdpd.common.files import CannotWrite

_UsageError: Any = typer.BadParameter.__base__
"""Error of typer on a command line that it cannot read; its module moves between typer's versions."""
_TRUTHS = ("true", "false", "yes", "no", "on", "off")
_PACKAGE = Path(__file__).parents[1]
_PLACE = re.compile(r'File "(.+)", line \d+, in .+\n\s*(.*)')
"""Place in the text of a traceback: file, and line of code."""
_RAISE = dis.opmap["RAISE_VARARGS"]


class AnswersMistakes(LazyGroup):
    """Answers bad input with one sentence; ``--debug`` shows where it was noticed."""

    def main(self, *words: Any, **settings: Any) -> Any:
        """Run a command line, and end the process with its exit status."""
        try:
            status = super().main(*words, **{**settings, "standalone_mode": False})
        except _UsageError as error:
            if sentence := _sentence(error):  # without one it was help, which is shown already
                typer.echo(f"Error: {sentence}", err=True)
            sys.exit(BAD_INPUT)
        sys.exit(status or 0)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first word names, and notice a value of one of its switches.

        :raises typer's usage error: on ``--strict true``, whose second word would be read as a source.
        """
        name, command, rest = super().resolve_command(ctx, args)
        called = getattr(command, "commands", {}).get(rest[0] if rest else "", command)
        for switch, word in pairwise(rest):
            if word.lower() in _TRUTHS and any(_is_switch(option, switch) for option in called.params):
                ctx.fail(f"{switch} is a switch, given or left out, and takes no value: got {word!r}")
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command, and answer its mistakes.

        :raises typer.Exit: after a sentence.
        """
        try:
            return super().invoke(ctx)
        except Ending as ending:
            failed = ending.exit_status == FAILED
            typer.echo(f"Error: {ending}" if failed else ending, err=failed)
            raise typer.Exit(ending.exit_status) from ending
        except (ValueError, TypeError, ImportError, OSError) as error:
            if ctx.params["debug"] or not is_mistake(error):
                raise
            then = _how_to_go_on(error.filename) if isinstance(error, CannotWrite) else ""
            typer.echo(f"Error: {error}{then}", err=True)
            raise typer.Exit(BAD_INPUT) from error


def _is_switch(option: Any, word: str) -> bool:
    return getattr(option, "is_flag", False) and word in option.opts + option.secondary_opts


def is_mistake(error: Exception) -> bool:
    """Tell a mistake of the user from a bug.

    What this package raises, in a ``raise`` of its own, is about input; so is an error of the operating
    system, about a file or a folder. What Python or another package raises was not foreseen: it is a bug.

    :param error: error that was raised, here or in a worker process.
    """
    if isinstance(error, OSError):
        return not isinstance(error, BrokenPipeError)  # a reader like `head` has enough
    if type(error.__cause__).__name__ == "_RemoteTraceback":  # that of a worker, as text
        *_, (path, line) = _PLACE.findall(str(error.__cause__))
        return Path(path).is_relative_to(_PACKAGE) and line.startswith("raise ")
    place = error.__traceback__
    assert place is not None
    while place.tb_next is not None:
        place = place.tb_next
    code = place.tb_frame.f_code
    return Path(code.co_filename).is_relative_to(_PACKAGE) and code.co_code[place.tb_lasti] == _RAISE


def _sentence(error: Any) -> str:
    """Write an error of usage in one line."""
    return " ".join(error.format_message().split()).rstrip(".")


def _how_to_go_on(path: str) -> str:
    """Name the command that goes on with the run that a file belongs to, where it belongs to one."""
    from sb3_llmdpd.benchmarks.common.run_folder import ARGUMENTS, CHART, CURVE, MODEL, RunFolder

    run = RunFolder(Path(path).parent)
    is_its_own = run.is_begun and Path(path).name in (ARGUMENTS, MODEL, CURVE, CHART)
    return f". To go on: {run.how_to_go_on()}" if is_its_own else ""
