"""`sb3-llmdpd quickstart`: the whole way on Meta-World's ML45."""

from pathlib import Path
from typing import Annotated

from typer import Option

from sb3_llmdpd.benchmarks.quickstart import QuickstartSettings
from sb3_llmdpd.benchmarks.quickstart import quickstart as run_quickstart
from sb3_llmdpd.cli.options import Processes


def quickstart(
    out: Annotated[Path, Option(help="Folder of all results.", file_okay=False)] = Path("runs/quickstart"),
    seed: Annotated[int, Option(help="Seed of data, training and evaluation.")] = 0,
    smoke: Annotated[bool, Option("--smoke", help="Take all steps in seconds; learn nothing.")] = False,
    processes: Processes = None,
) -> None:
    """Collect Meta-World's ML45, train, and evaluate on the five tasks held out."""
    settings = QuickstartSettings.smoke(seed) if smoke else QuickstartSettings(seed=seed)
    run_quickstart(out, settings, processes)
