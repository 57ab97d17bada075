"""`train --track`: keeps the log of a training with a tracker beside ``progress.csv``."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from sb3_llmdpd.cli.options import names
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.llmdpd.trackers import TRACKERS, check_trackers, make_logger

Track = Annotated[
    list[str] | None,
    Option(
        help=f"Where the log goes beside progress.csv: {', '.join(TRACKERS)}, between commas; their files lie"
        " in the run's folder tracking."
    ),
]


def check(options: Mapping[str, Any]) -> None:
    """Refuse trackers that are unknown, not installed, or asked for by two options; see `check_trackers`."""
    if trackers := _asked_for(options):
        check_trackers(trackers)
        if options["tensorboard_log"] is not None:
            raise ValueError("pass either --track tensorboard or --tensorboard-log, not both")


@contextmanager
def tracked(run: Path, model: LLMDPD, options: Mapping[str, Any]) -> Iterator[None]:
    """Let a model log to the trackers that were asked for; one that goes on, to the run of before."""
    trackers = [name for name in _asked_for(options) if name != "csv"]  # progress.csv is always there
    if not trackers:
        yield
        return
    goes_on, prints = model.num_timesteps > 0, bool(options["verbose"])
    logger = make_logger(run / "tracking", trackers, options, resume=goes_on, prints=prints)
    model.set_logger(logger)
    try:
        yield
    finally:
        logger.close()


def _asked_for(options: Mapping[str, Any]) -> list[str]:
    return [name for given in options["track"] or [] for name in names(given, "--track")]
