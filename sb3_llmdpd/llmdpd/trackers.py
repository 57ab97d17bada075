"""Sends what `learn` logs to trackers: tensorboard, wandb, trackio, and files of numbers."""

import os
import secrets
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter, Logger, make_output_format

from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.common.optional_imports import require

TRACKERS = ("tensorboard", "wandb", "trackio", "csv")
"""Names of the trackers."""

_RUN = "run_id.txt"
_SERVICES = ("wandb", "trackio")


class RunWriter(KVWriter):
    """Gives the numbers that the logger dumps to a run of wandb, or of a package with the same functions.

    :param run: run, with ``log(numbers, step=...)`` and ``finish()``.
    :param name: name by which a value is kept from it, as in ``record(..., exclude="wandb")``.
    """

    def __init__(self, run: Any, name: str) -> None:
        self.run, self.name = run, name

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Log the numbers of one step.

        :param key_values: values by the names under which they are logged; what is no number is left out.
        :param key_excluded: outputs by the name of a value that they do not get.
        :param step: gradient steps so far.
        """
        numbers = {
            key: float(value)
            for key, value in key_values.items()
            if isinstance(value, Real) and self.name not in (key_excluded.get(key) or ())
        }
        self.run.log(numbers, step=step)

    def close(self) -> None:
        """End the run."""
        self.run.finish()


def check_trackers(trackers: Sequence[str]) -> None:
    """Refuse unknown trackers, and those that are not installed.

    :param trackers: some of ``TRACKERS``.
    :raises ValueError: on another name, and on none.
    :raises ImportError: where the package of one is missing; names the extra that installs it.
    """
    unknown = [name for name in trackers if name not in TRACKERS]
    if unknown or not trackers:
        got = repr(unknown[0]) if unknown else "none"
        raise ValueError(f"a tracker is one of {', '.join(TRACKERS)}, got {got}")
    for name in trackers:
        # Found, and not imported: trackio reads its folder when it is.
        if name != "csv" and find_spec(name) is None:
            require(name, name)


def make_logger(
    folder: str | Path,
    trackers: Sequence[str],
    config: Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
    project: str = "sb3_llmdpd",
    prints: bool = False,
) -> Logger:
    """Make a logger for `LLMDPD.set_logger`; its ``close()`` ends the runs.

    All files lie in a folder of the run in ``folder``; those of trackio in ``$TRACKIO_DIR`` where that is
    set, or where another run of the same process has opened them.

    :param folder: folder of the runs.
    :param trackers: some of ``TRACKERS``.
    :param config: settings that wandb and trackio show beside the run, as JSON values.
    :param resume: True to go on with the run that was begun last in this folder, if there is one.
    :param project: project in wandb and trackio; ``$WANDB_PROJECT`` goes before it.
    :param prints: True to print the values as well.
    :return: a logger of Stable-Baselines3.
    :raises ValueError: on an unknown tracker, and on none.
    :raises ImportError: where the package of one is missing; names the extra that installs it.
    """
    check_trackers(trackers)
    run_id = _run_id(Path(folder), resume)
    place = Path(folder).absolute() / run_id
    place.mkdir(parents=True, exist_ok=True)
    outputs = [make_output_format("stdout", str(place))] if prints else []
    for name in dict.fromkeys(trackers):
        if name in _SERVICES:
            outputs.append(_service(name, place, run_id, os.environ.get("WANDB_PROJECT", project), config))
        else:
            outputs.append(make_output_format(name, str(place)))
    return Logger(str(place), outputs)


def _run_id(folder: Path, resume: bool) -> str:
    """Read the name of the folder's last run, or make one for a new run."""
    path = folder / _RUN
    if resume and path.is_file():
        return path.read_text().strip()
    run_id = secrets.token_hex(4)
    with whole_file(path) as temporary:
        temporary.write_text(run_id)
    return run_id


def _service(
    name: str, place: Path, run_id: str, project: str, config: Mapping[str, Any] | None
) -> RunWriter:
    """Open a run of wandb or trackio, new or known."""
    of_both: dict[str, Any] = {"project": project, "config": dict(config or {}), "resume": "allow"}
    if name == "wandb":
        run = require(name, name).init(id=run_id, dir=str(place), **of_both)
    else:
        os.environ.setdefault("TRACKIO_DIR", str(place))  # read once, when trackio is imported
        run = require(name, name).init(name=run_id, embed=False, **of_both)
    return RunWriter(run, name)
