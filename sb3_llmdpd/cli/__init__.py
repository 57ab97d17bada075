"""The command ``sb3-llmdpd``."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import sb3_llmdpd
from sb3_llmdpd.benchmarks.common.run_folder import ARGUMENTS, CHART, CURVE, MODEL, RunFolder, RunStopped
from sb3_llmdpd.benchmarks.quickstart import QuickstartSettings
from sb3_llmdpd.benchmarks.quickstart import quickstart as run_quickstart
from sb3_llmdpd.cli import benchmark, collect, data
from sb3_llmdpd.cli.advise import advise
from sb3_llmdpd.cli.evaluate import evaluate
from sb3_llmdpd.cli.film import film
from sb3_llmdpd.cli.options import Processes
from sb3_llmdpd.cli.train import train
from sb3_llmdpd.cli.validate import validate
from sb3_llmdpd.common.files import CannotWrite
from sb3_llmdpd.llmdpd.loss_watch import TrainingDiverged

FAILED, BAD_INPUT = 1, 2
"""Exit statuses: after `BAD_INPUT` the user can mend what went wrong."""


class _AnswersMistakes(TyperGroup):
    """Answers bad input with one sentence; ``--debug`` shows where it was noticed."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, TypeError, ImportError, OSError) as error:
            if ctx.params["debug"] or isinstance(error, BrokenPipeError):  # a reader like `head` has enough
                raise
            then = _how_to_go_on(error.filename) if isinstance(error, CannotWrite) else ""
            typer.echo(f"Error: {error}{then}", err=True)
            raise typer.Exit(BAD_INPUT) from error
        except TrainingDiverged as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(FAILED) from error
        except RunStopped as stop:
            typer.echo(stop)
            raise typer.Exit(stop.exit_status) from stop


def _how_to_go_on(path: str) -> str:
    """Name the command that goes on with the run that a file belongs to, where it belongs to one."""
    run = RunFolder(Path(path).parent)
    is_its_own = run.is_begun and Path(path).name in (ARGUMENTS, MODEL, CURVE, CHART)
    return f". To go on: {run.how_to_go_on()}" if is_its_own else ""


app = typer.Typer(cls=_AnswersMistakes, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(collect.app, name="collect")
app.add_typer(data.app, name="data")
app.command()(train)
app.command()(evaluate)
app.command()(film)
app.command()(validate)
app.command()(advise)
app.add_typer(benchmark.app, name="benchmark")


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Folder of all results.")] = Path("runs/quickstart"),
    seed: Annotated[int, typer.Option(help="Seed of data, training and evaluation.")] = 0,
    smoke: Annotated[bool, typer.Option("--smoke", help="Take all steps in seconds; learn nothing.")] = False,
    processes: Processes = None,
) -> None:
    """Collect Meta-World's ML45, train, and evaluate on the five tasks held out."""
    settings = QuickstartSettings.smoke(seed) if smoke else QuickstartSettings(seed=seed)
    run_quickstart(out, settings, processes)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sb3-llmdpd {sb3_llmdpd.__version__}")
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
