"""The folder of one training: what was asked for, the latest model, and the learning curve."""

import json
import shlex
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_llmdpd.checkpoint.container import read_data
from sb3_llmdpd.common.endings import Ending
from sb3_llmdpd.common.files import digest_of, leftovers, whole_file
from sb3_llmdpd.evaluation.charts import curves_chart, draw_or_say_why
from sb3_llmdpd.llmdpd.callbacks import CurveRow, LearningCurve, SaveLatest, StopOnSignal, read_curve
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.validation.callback import BEST_LABEL, BEST_MODEL

SAVE_FREQ = 1_000
"""Gradient steps between two saves of the latest model, unless another number is asked for."""

ARGUMENTS, MODEL, CURVE, CHART = "run.json", "model.zip", "progress.csv", "curves.png"
_REPLACES = "replaces"
"""Entry of ``run.json``: digest of another run's model, which lies there until this run saves its first."""

_GOES_ON = {
    "train": "sb3-llmdpd train --resume {folder}",
    "quickstart": "the command of before: sb3-llmdpd quickstart --out {folder}",
    "benchmark": "the command of before: sb3-llmdpd benchmark",
}


class RunStopped(Ending):
    """A signal has stopped a training, whose state is saved.

    :param message: place of the stop, and how to go on.
    :param signal_name: name of the signal.
    """

    def __init__(self, message: str, signal_name: str) -> None:
        super().__init__(message)
        self.exit_status = 128 + signal.Signals[signal_name]
        """Status that a shell reports of a process that the signal ended."""


class RunFolder:
    """One training in one folder, which goes on after a kill at any moment.

    ``run.json`` holds the arguments of the command, ``command`` and ``steps`` among them, before the training
    begins; ``model.zip`` is the latest model, ``progress.csv`` and ``curves.png`` are the learning curve.
    Whoever begins, goes on or trains owns the folder, see `owned`.

    :param path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.model_path = self.path / MODEL

    @property
    def is_begun(self) -> bool:
        """Tell whether there is a run to go on with, or a finished one."""
        return (self.path / ARGUMENTS).is_file()

    @property
    def has_model(self) -> bool:
        """Tell whether the run came far enough to save a model: one that it is to replace is not its own."""
        return self.model_path.is_file() and self._replaced() != digest_of(self.model_path)

    @property
    def is_drawn(self) -> bool:
        """Tell whether the chart shows all that the learning curve holds."""
        curve, chart = self.path / CURVE, self.path / CHART
        if chart.is_file() and curve.is_file():
            return chart.stat().st_mtime_ns >= curve.stat().st_mtime_ns
        return not self.rows()

    def arguments(self) -> dict[str, Any]:
        """Read what the run was begun with.

        :return: arguments of `begin` or `go_on`.
        :raises ValueError: when there is no run, or ``run.json`` is damaged.
        """
        return {name: value for name, value in self._read().items() if name != _REPLACES}

    def _read(self) -> dict[str, Any]:
        if not self.is_begun:
            raise ValueError(f"there is no run to go on with in {self.path}: it has no {ARGUMENTS}")
        try:
            arguments = json.loads((self.path / ARGUMENTS).read_text())
            whole = arguments["command"] in _GOES_ON and isinstance(arguments["steps"], int)
        except (KeyError, TypeError, ValueError):
            whole = False
        if not whole:
            raise ValueError(
                f"{self.path / ARGUMENTS} does not describe a run of sb3_llmdpd: begin anew in another folder"
            )
        return dict(arguments)

    def steps_done(self) -> int:
        """Count the gradient steps of the latest model, 0 without one."""
        return read_data(self.model_path)["counters"]["num_timesteps"] if self.has_model else 0

    def refuse_to_replace(self, command: str, overwrite: bool = False) -> None:
        """Keep models from being lost. A run that has not saved one may be begun again.

        :param command: command of the new run, which replaces none of another command.
        :param overwrite: True where it may replace a model.
        :raises ValueError: when the new run may not begin here; names the ways on.
        """
        if not self.is_begun:
            if self.model_path.is_file():
                raise ValueError(
                    f"{self.model_path} is of no run that is known here, since there is no {ARGUMENTS} beside"
                    " it: move it away, or choose another --out"
                )
            return
        before = self.arguments()["command"]
        if before != command:
            raise ValueError(f"{self.path} holds a run of sb3-llmdpd {before}: choose another --out")
        if self.has_model and not overwrite:
            replace = " or replace it, with --overwrite;" if command == "train" else ""
            raise ValueError(
                f"{self.path} holds the model of a run. Go on with {self.how_to_go_on()};{replace} or begin"
                " elsewhere, with another --out"
            )

    def how_to_go_on(self) -> str:
        """Name the command that goes on with the run."""
        return _GOES_ON[self.arguments()["command"]].format(folder=shlex.quote(str(self.path)))

    def begin(self, arguments: Mapping[str, Any], overwrite: bool = False) -> None:
        """Begin a run. A model that it replaces stays until its own first one takes the place.

        :param arguments: JSON values, with ``command`` and ``steps`` among them.
        :param overwrite: True where it may replace the model of a run.
        :raises ValueError: see `refuse_to_replace`.
        :raises OSError: when nothing can be written there.
        """
        self.refuse_to_replace(arguments["command"], overwrite)
        self._write(arguments, digest_of(self.model_path) if self.model_path.is_file() else None)
        for name in (CURVE, CHART, BEST_MODEL, BEST_LABEL):
            (self.path / name).unlink(missing_ok=True)

    def go_on(self, arguments: Mapping[str, Any]) -> None:
        """Prepare to go on.

        :param arguments: arguments of now.
        """
        self._write(arguments, self._replaced())

    def _write(self, arguments: Mapping[str, Any], replaced: str | None) -> None:
        """Write the arguments, and remove what a killed process left half-written."""
        for name in (ARGUMENTS, MODEL, CURVE, CHART, BEST_MODEL, BEST_LABEL):
            for path in leftovers(self.path / name):
                path.unlink()
        replaces = {} if replaced is None else {_REPLACES: replaced}
        with whole_file(self.path / ARGUMENTS) as temporary:
            temporary.write_text(json.dumps({**arguments, **replaces}, indent=1))

    def _replaced(self) -> str | None:
        """Read the digest of the model that this run is to replace."""
        return self._read().get(_REPLACES) if self.is_begun else None

    def train(
        self,
        model: LLMDPD,
        n_steps: int,
        log_interval: int,
        save_freq: int = SAVE_FREQ,
        progress: BaseCallback | None = None,
        callbacks: Sequence[BaseCallback] = (),
    ) -> Path:
        """Train up to a step, and keep the latest model and the learning curve.

        :param model: with its data; new, or the latest of the run.
        :param n_steps: gradient steps of the whole run.
        :param log_interval: gradient steps between two points of the learning curve.
        :param save_freq: gradient steps between two saves.
        :param progress: shows how far it is; a bar of its own by default.
        :param callbacks: further ones, called before a step is saved; what they log is in the curve.
        :return: the model file.
        :raises RunStopped: when SIGINT or SIGTERM asked to stop; the model is saved.
        """
        if model.num_timesteps < n_steps:
            curve, save = LearningCurve(self.path / CURVE), SaveLatest(self.model_path, save_freq)
            with StopOnSignal() as stop:
                model.learn(
                    n_steps - model.num_timesteps,
                    callback=[*([] if progress is None else [progress]), *callbacks, curve, stop, save],
                    log_interval=log_interval,
                    reset_num_timesteps=False,
                    progress_bar=progress is None,
                )
            self._write(self.arguments(), replaced=None)  # the model is now this run's own
            if stop.stopped_by is not None:
                where = f"at step {model.num_timesteps:,} of {n_steps:,}. The model is {self.model_path}"
                message = f"Stopped by {stop.stopped_by} {where}. To go on: {self.how_to_go_on()}"
                raise RunStopped(message, stop.stopped_by)
        self.draw_curves()
        return self.model_path

    def draw_curves(self) -> None:
        """Draw the learning curve, if anything was logged."""
        if rows := self.rows():
            draw_or_say_why(curves_chart, rows, self.path / CHART)

    def rows(self) -> list[CurveRow]:
        """Read the learning curve; empty without one."""
        curve = self.path / CURVE
        return read_curve(curve) if curve.is_file() else []
