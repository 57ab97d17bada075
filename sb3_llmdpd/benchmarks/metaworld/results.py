"""The results of a grid as one small JSON file, from which its report is made."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sb3_llmdpd.benchmarks.common.grid import RESULTS, GridCell
from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.common.processes import n_cores
from sb3_llmdpd.evaluation.conditions import TOLD
from sb3_llmdpd.evaluation.phases import phase_rates
from sb3_llmdpd.evaluation.report import read_results, versions
from sb3_llmdpd.evaluation.tasks import CellResult

GRID_VERSION = 2


@dataclass(frozen=True)
class PlayedCell:
    """The episodes of one row with one seed, of one task under one condition.

    :param variant: name of the row.
    :param seed: of the training.
    :param task: whose scenes were played.
    :param condition: name of what the policy was told.
    :param seen: whether it was trained on the task; None where that is not the question.
    :param successes: (n_episodes,), 1 for success at any step.
    :param returns: (n_episodes,), sums of raw rewards, to one digit.
    :param phases: share of the episodes that passed each of `PHASES`, to three digits; None where that was not watched.
    :param soon: (n_episodes,), 1 for a success that came soon (`sb3_llmdpd.data.metaworld.scenes.soon`), in the scenes that
        two tasks share; None in all other cells.
    """

    variant: str
    seed: int
    task: str
    condition: str
    seen: bool | None
    successes: tuple[int, ...]
    returns: tuple[float, ...]
    phases: tuple[float, ...] | None = None
    soon: tuple[int, ...] | None = None

    @property
    def told(self) -> str | None:
        """Whose sentence it was told in the scenes that two tasks share; None in all other cells."""
        return self.condition.removeprefix(TOLD) if self.condition.startswith(TOLD) else None

    @classmethod
    def of(cls, cell: GridCell, result: CellResult) -> "PlayedCell":
        """Keep what tables are made of.

        :param cell: the row and its seed.
        :param result: of an evaluation there.
        :return: the same, smaller.
        """
        return cls(
            cell.variant,
            cell.seed,
            result.task,
            result.condition.name,
            result.seen,
            tuple(int(success) for success in result.successes),
            tuple(round(total, 1) for total in result.returns),
            None
            if result.phases is None
            else tuple(round(rate, 3) for rate in phase_rates(result.phases).values()),
            tuple(int(success) for success in result.soon) if result.condition.is_told else None,
        )


@dataclass(frozen=True)
class GridResults:
    """Everything that a report says.

    :param settings: what all cells share, as JSON values.
    :param variants: the rows by their names, in the order of the tables; each with its ``sentence`` at least.
    :param hardware: what it ran on.
    :param versions: of the packages.
    :param cells: what was played.
    """

    settings: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]]
    hardware: Mapping[str, Any]
    versions: Mapping[str, str | None]
    cells: tuple[PlayedCell, ...]

    def merged(self, earlier: "GridResults") -> "GridResults":
        """Keep the rows and seeds of an earlier call that this one did not ask for.

        :param earlier: of the same settings.
        :return: both together, of the same hardware as this.
        """
        here = {(cell.variant, cell.seed) for cell in self.cells}
        kept = [cell for cell in earlier.cells if (cell.variant, cell.seed) not in here]
        return replace(self, variants={**earlier.variants, **self.variants}, cells=(*kept, *self.cells))


def gather(
    out: Path,
    settings: Mapping[str, Any],
    variants: Mapping[str, Mapping[str, Any]],
    cells: Sequence[GridCell],
) -> GridResults:
    """Read the finished cells of a grid.

    :param out: folder of the grid.
    :param settings: what all cells share.
    :param variants: the rows by their names.
    :param cells: those of the grid; unfinished ones are left out.
    :return: the results so far.
    """
    played = [
        PlayedCell.of(cell, result)
        for cell in cells
        if cell.is_finished(out)
        for result in read_results(cell.folder(out) / RESULTS)[0]
    ]
    hardware = {"machine": platform.machine(), "cores": n_cores()}
    return GridResults(settings, variants, hardware, versions(), tuple(played))


def write_grid(path: Path, results: GridResults) -> None:
    """Write results, a line for each task and condition of a cell: whole or not at all.

    :param path: the file.
    :param results: to be read by `read_grid`.
    """
    head = {"format_version": GRID_VERSION, **asdict(results)}
    cells = head.pop("cells")
    lines = ",\n  ".join(json.dumps(cell, separators=(",", ":")) for cell in cells)
    with whole_file(path) as temporary:
        temporary.write_text(f'{json.dumps(head, indent=1)[:-2]},\n "cells": [\n  {lines}\n ]\n}}\n')


def read_grid(path: Path) -> GridResults:
    """Read what `write_grid` wrote.

    :param path: the file.
    :return: the results.
    :raises FileNotFoundError: when there is no such file.
    :raises ValueError: when it is something else, damaged, or of another format version.
    """
    try:
        document = json.loads(path.read_text())
        found = document.pop("format_version")
        if found == GRID_VERSION:
            return GridResults(cells=tuple(_played(cell) for cell in document.pop("cells")), **document)
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} does not hold results of a benchmark ({type(error).__name__}: {error})"
        ) from error
    raise ValueError(f"{path} has format version {found!r}, and this sb3_llmdpd reads version {GRID_VERSION}")


def _played(cell: Mapping[str, Any]) -> PlayedCell:
    arguments: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in cell.items()
    }
    return PlayedCell(**arguments)
