"""Options of a training that say what it is measured on without an environment, and what came out."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from typer import Option

from sb3_llmdpd.benchmarks.common.run_folder import RunFolder
from sb3_llmdpd.cli import sources
from sb3_llmdpd.data.episodes import OfflineDataset
from sb3_llmdpd.data.loading import load_dataset
from sb3_llmdpd.validation.callback import BEST_MODEL, best_label
from sb3_llmdpd.validation.critic import critic_sentence, is_moving
from sb3_llmdpd.validation.held_out import HeldOut, beside, hold_out, measured_on

FREQ = 1_000
"""Gradient steps between two measurements, unless another number is asked for."""

Validation = Annotated[
    list[str] | None,
    Option(
        help="Share of each task's episodes that are held out and measured, as in 0.1; or a source of other"
        " episodes to measure, which may be given several times."
    ),
]
ValidateUnseen = Annotated[int, Option(help="Whole tasks that are held out and measured, too.", min=0)]
ValidationFreq = Annotated[
    int, Option(help="Gradient steps between two measurements on what is held out.", min=1)
]


def is_share(validation: Sequence[str]) -> bool:
    """Tell whether the values of ``--validation`` are one number, and no sources."""
    return len(validation) == 1 and _number(validation[0]) is not None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def parts(options: Mapping[str, Any], data: OfflineDataset) -> HeldOut | None:
    """Part the data of a training, the same way at each call.

    :param options: ``validation``, ``validate_unseen`` and ``same_goal``, and those of reading.
    :param data: all data of the training.
    :return: both parts; None where nothing is held out.
    :raises ValueError: on a share outside (0, 1), on too many tasks, or when other episodes do not fit.
    """
    validation = options.get("validation") or []  # a run of before has no such option
    n_unseen = options.get("validate_unseen", 0)
    if not validation and not n_unseen:
        return None
    if not validation or is_share(validation):
        share = _checked_share(validation[0]) if validation else 0.0
        found = hold_out(data, share, n_unseen, options["same_goal"])
    else:
        other = load_dataset(validation, root=options["root"], **sources.how_to_read(options))
        found = beside(hold_out(data, 0.0, n_unseen), other) if n_unseen else measured_on(data, other)
    held_out, unseen = found.validation, sorted(found.unseen or ())
    whole = f"; not trained on: {', '.join(unseen)}" if unseen else ""
    typer.echo(f"Held out: {len(held_out.episodes):,} episodes of {len(held_out.tasks)} tasks{whole}")
    return found


def _checked_share(text: str) -> float:
    share = float(text)
    if not 0.0 < share < 1.0:
        raise ValueError(f"--validation takes a share in (0, 1) or a source, got {text}")
    return share


def say_what_was_learned(run: RunFolder, is_measured: bool) -> None:
    """Print which model has the lowest held-out error, and whether the critic has converged.

    :param run: folder of the training.
    :param is_measured: False where nothing is held out; then it only warns of a critic that still moves.
    """
    if is_measured and (label := best_label(run.path)) is not None:
        typer.echo(f"{_words(label)} is {run.path / BEST_MODEL}")
    rows = run.rows()
    if is_measured or is_moving(rows):
        typer.echo(critic_sentence(rows), err=not is_measured)


def _words(label: Mapping[str, Any]) -> str:
    of = f"on {label['tasks']} tasks under the prompt {label['prompt']}"
    return f"The model of step {label['step']:,}, with the lowest held-out error ({label['error']:.3f} {of}),"
