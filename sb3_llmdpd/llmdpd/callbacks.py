"""SB3 callbacks for offline training."""

import csv
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Self

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter

from sb3_llmdpd.common.files import says_what_cannot_be_written, whole_file

CurveRow = dict[str, float]
"""Numbers that the logger had at one step, and ``step`` itself."""


class LearningCurve(BaseCallback):
    """Keeps what `learn` logs, as rows, and appends each row to a CSV file at once.

    A training that goes on at step n keeps the rows up to n, from memory or else from the file. Later rows
    are dropped, since their steps come again.

    :param path: path of the CSV file; None keeps the rows in memory alone
    """

    def __init__(self, path: str | Path | None = None) -> None:
        super().__init__()
        self.path = None if path is None else Path(path)
        self.rows: list[CurveRow] = []
        self._columns: list[str] = []
        self._writer = _RowWriter(self.add, None if self.path is None else self.path.absolute())

    def _on_training_start(self) -> None:
        outputs = self.logger.output_formats
        # A training that was interrupted has left its writer in a log of the user's own.
        outputs[:] = [each for each in outputs if not self._writer.goes_where(each)]
        if self.path is not None and not self.rows and self.num_timesteps > 0 and self.path.is_file():
            self.rows = read_curve(self.path)
        self.rows = [row for row in self.rows if row["step"] <= self.num_timesteps]
        self._write_all()
        outputs.append(self._writer)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.logger.output_formats.remove(self._writer)

    def add(self, row: CurveRow) -> None:
        """Append a row, in memory and in the file.

        :param row: numbers by the names under which they are logged
        """
        self.rows.append(row)
        if self.path is None:
            return
        if set(row) <= set(self._columns):
            with says_what_cannot_be_written(self.path), self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        else:
            self._write_all()

    def _write_all(self) -> None:
        if self.path is not None:
            self._columns = write_curve(self.path, self.rows)


class _RowWriter(KVWriter):
    """Hands the rows that the logger dumps to a function.

    :param add: function that takes numbers by the names under which they are logged
    :param path: file that they end in, or None
    """

    def __init__(self, add: Callable[[CurveRow], None], path: Path | None) -> None:
        self.add, self.path = add, path

    def goes_where(self, other: KVWriter) -> bool:
        """Tell whether another writer is this one, or one of the same file."""
        is_alike = isinstance(other, _RowWriter) and other.path is not None and other.path == self.path
        return other is self or is_alike

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        numbers = {key: float(value) for key, value in key_values.items() if isinstance(value, Real)}
        self.add({"step": float(step), **numbers})

    def close(self) -> None:
        """Do nothing, since no file is held open."""


def write_curve(path: str | Path, rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Write rows as CSV, with a column for each name in any of them.

    :param path: path of the file
    :param rows: numbers by name; the fields of missing names stay empty
    :return: names of the columns
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with whole_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return columns


def read_curve(path: str | Path) -> list[CurveRow]:
    """Read a file of `write_curve` or `LearningCurve`.

    :param path: path of the file
    :return: the rows, without a last line that a killed process left half-written
    :raises ValueError: when it is no learning curve
    """
    lines = Path(path).read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    try:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(whole)]
        return [{"step": row.pop("step"), **row} for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no learning curve that a training could go on with: move it away"
        ) from error


class SaveLatest(BaseCallback):
    """Keeps the latest state in one model file, from which a training that was killed goes on.

    It is written every ``save_freq`` gradient steps and when the training ends, and is replaced whole or not
    at all. Steps are counted from the first of the training: a resumed run saves at the same steps.

    The file holds the counters of the other callbacks, too: pass this one last, when all have seen the step.

    :param path: path of the model file
    :param save_freq: gradient steps between two saves
    :raises ValueError: when ``save_freq`` is not positive
    """

    def __init__(self, path: str | Path, save_freq: int) -> None:
        super().__init__()
        if save_freq < 1:
            raise ValueError(f"`save_freq` must be at least one gradient step, got {save_freq}")
        self.path = Path(path)
        self.save_freq = save_freq

    def _on_step(self) -> bool:
        if self.num_timesteps % self.save_freq == 0:
            self._save()
        return True

    def _on_training_end(self) -> None:
        self._save()

    def _save(self) -> None:
        self.model.save(self.path)


class StopOnSignal(BaseCallback):
    """Ends `learn` after the current gradient step when a signal asks for it, ready to be resumed.

    .. code-block:: python

        with StopOnSignal() as stop:
            model.learn(100_000, callback=[stop, SaveLatest("model.zip", save_freq=1_000)])

    The first SIGINT (Ctrl-C) or SIGTERM (which clusters send before they preempt) stops; a later SIGINT
    interrupts at once. Leaving the block restores the handlers from before. An ignored signal stays ignored.
    Outside the main thread nothing stops, since Python takes no handlers there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stopped_by: str | None = None
        """Name of the signal that came, ``"SIGINT"`` or ``"SIGTERM"``."""
        self._handlers_before: dict[signal.Signals, Any] | None = None

    def __enter__(self) -> Self:
        self.stopped_by = None
        self._handlers_before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: Python cannot restore it
                    self._handlers_before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in (self._handlers_before or {}).items():
            signal.signal(number, handler)
        self._handlers_before = None

    def _receive(self, number: int, frame: object) -> None:
        if self.stopped_by is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.stopped_by = self.stopped_by or signal.Signals(number).name

    def _init_callback(self) -> None:
        if self._handlers_before is None:
            raise ValueError(
                "StopOnSignal listens inside its block alone: with StopOnSignal() as stop: model.learn(...)"
            )

    def _on_step(self) -> bool:
        return self.stopped_by is None
