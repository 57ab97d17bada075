"""SB3 callbacks for offline training."""

import csv
import time
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter

from sb3_llmdpd.files import whole_file

WRITE_EVERY_S = 10.0

CurveRow = dict[str, float]
"""What the logger had at one step, and ``step`` itself."""


class LearningCurve(BaseCallback):
    """Keeps what `learn` logs, as rows, and writes them as a CSV file.

    The file is written now and then during the training and at its end, whole each time.

    :param path: the CSV file; None keeps the rows in memory alone.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        super().__init__()
        self.path = None if path is None else Path(path)
        self.rows: list[CurveRow] = []
        self._writer = _RowWriter(self)
        self._written_at = 0.0

    def _on_training_start(self) -> None:
        self._written_at = time.monotonic()
        self.logger.output_formats.append(self._writer)

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.logger.output_formats.remove(self._writer)
        self._write()

    def add(self, row: CurveRow) -> None:
        """Append a row, and write the file when it was last written a while ago.

        :param row: numbers by the name they are logged under.
        """
        self.rows.append(row)
        if time.monotonic() - self._written_at > WRITE_EVERY_S:
            self._write()

    def _write(self) -> None:
        self._written_at = time.monotonic()
        if self.path is not None:
            write_curve(self.path, self.rows)


class _RowWriter(KVWriter):
    """Hands what the logger dumps to a `LearningCurve`."""

    def __init__(self, curve: LearningCurve) -> None:
        self.curve = curve

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        numbers = {key: float(value) for key, value in key_values.items() if isinstance(value, Real)}
        self.curve.add({"step": float(step), **numbers})

    def close(self) -> None:
        """Nothing is held open."""


def write_curve(path: str | Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write rows as CSV, a column for each name in any of them.

    :param path: the file.
    :param rows: numbers by name; a name that a row lacks leaves its field empty.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with whole_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
