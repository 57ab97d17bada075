"""Runs the cells of a benchmark, each a row with a seed, and goes on where it was stopped."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from sb3_llmdpd.benchmarks.common.run_folder import RunFolder, RunStopped
from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.evaluation.report import read_results

SETTINGS, RESULTS = "benchmark.json", "results.json"


@dataclass(frozen=True)
class GridCell:
    """One row of a table with one seed.

    :param variant: name of the row.
    :param seed: of training and evaluation.
    :param settings: all that decides its numbers, as JSON values.
    :param work: how long it takes, in gradient steps that take as long.
    """

    variant: str
    seed: int
    settings: Mapping[str, Any]
    work: int

    def folder(self, out: Path) -> Path:
        """Where its files lie.

        :param out: folder of the grid.
        :return: the folder, which need not be there yet.
        """
        return cell_folder(out, self.variant, self.seed)

    def is_finished(self, out: Path) -> bool:
        """Whether it need not be run again.

        :param out: folder of the grid.
        :return: whether its results are there.
        :raises ValueError: when results of other settings are in their place, or a damaged file.
        """
        path = self.folder(out) / RESULTS
        if not path.is_file():
            return False
        refuse_others(read_results(path)[1], self.settings, path)
        return True


class GridBar:
    """One progress bar over all cells, with the time that is left.

    :param cells: of the whole grid.
    :param n_finished: how many of them are.
    :param work_left: of the others.
    :param show: whether to show it.
    """

    def __init__(self, cells: Sequence[GridCell], n_finished: int, work_left: int, show: bool = True) -> None:
        self._n_cells, self._n_finished = len(cells), n_finished
        work = sum(cell.work for cell in cells)
        self._bar = tqdm(
            total=work,
            initial=work - work_left,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed} so far, {remaining} left",
            smoothing=0.0,  # training and evaluation take turns: the latest rate says little
            mininterval=0.5,
            disable=not show,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def text(self) -> str:
        """What is shown right now."""
        return str(self._bar)

    def begin(self, cell: GridCell) -> None:
        """Name the cell that is run from now on.

        :param cell: which.
        """
        self._bar.set_description_str(
            f"{self._n_finished}/{self._n_cells} cells; {cell.variant}, seed {cell.seed}"
        )

    def end(self) -> None:
        """The cell is finished."""
        self._n_finished += 1

    def advance(self, work: float) -> None:
        """Some work was done.

        :param work: in gradient steps.
        """
        self._bar.update(work)

    def skip(self, work: float) -> None:
        """Some work need not be done: it does not count into the time that is left.

        :param work: in gradient steps.
        """
        self._bar.initial += work
        self._bar.update(work)


class StepsOnBar(BaseCallback):
    """Counts gradient steps on the bar of a grid.

    :param bar: which.
    """

    def __init__(self, bar: GridBar) -> None:
        super().__init__()
        self.bar = bar

    def _on_step(self) -> bool:
        self.bar.advance(1)
        return True


def cell_folder(out: Path, variant: str, seed: int) -> Path:
    """Where the files of a cell lie.

    :param out: folder of the grid.
    :param variant: name of the row, of any signs.
    :param seed: of the cell.
    :return: the folder.
    """
    return out / quote(variant, safe="+=,") / f"seed-{seed}"


def open_grid(out: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder of a grid, or make sure that it is one of the same settings.

    :param out: the folder.
    :param settings: what all its cells share, as JSON values; which cells there are may differ.
    :raises ValueError: when it has a grid of other settings.
    """
    path = out / SETTINGS
    if path.is_file():
        try:
            there = dict(json.loads(path.read_text()))
        except ValueError as error:
            raise ValueError(
                f"{path} does not hold the settings of a benchmark: choose another --out"
            ) from error
        refuse_others(there, settings, path)
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n")


def refuse_others(there: Mapping[str, Any], asked: Mapping[str, Any], path: Path) -> None:
    """Keep results of different settings apart.

    :param there: settings that a file was made with.
    :param asked: those of now, as JSON values.
    :param path: the file.
    :raises ValueError: when they differ; names what does.
    """
    keys = [key for key in {**there, **asked} if there.get(key) != asked.get(key)]
    if keys:
        differences = "; ".join(
            f"{key} {_brief(there.get(key))} there, {_brief(asked.get(key))} asked" for key in keys
        )
        raise ValueError(
            f"{path} was made with other settings ({differences}). Ask for those, or choose another --out"
        )


def begin_or_go_on(run: RunFolder, arguments: Mapping[str, Any]) -> None:
    """Begin the training of a cell in its folder, or go on with it.

    :param run: the folder.
    :param arguments: as `RunFolder.begin` takes them.
    :raises ValueError: when it was begun with others; names what differs.
    """
    if run.is_begun:
        refuse_others(run.arguments(), arguments, run.path)
        run.go_on(arguments)
    else:
        run.begin(arguments)


def run_grid(
    out: Path,
    cells: Sequence[GridCell],
    run_cell: Callable[[GridCell, Path, GridBar], None],
    *,
    after_cell: Callable[[], object],
    show: bool = True,
) -> None:
    """Run the cells that are not finished, one after the other.

    :param out: folder of the grid.
    :param cells: all of them.
    :param run_cell: runs one in its folder, where it leaves ``results.json`` as `write_results` makes it, last of all.
    :param after_cell: called when one is finished.
    :param show: whether to show the bar.
    :raises ValueError: when a cell has results of other settings; nothing was run then.
    :raises RunStopped: on Ctrl-C; says how to go on.
    """
    left = [cell for cell in cells if not cell.is_finished(out)]
    with GridBar(cells, len(cells) - len(left), sum(cell.work for cell in left), show) as bar:
        for cell in left:
            bar.begin(cell)
            with says_how_to_go_on(out, f"{cell.variant}, seed {cell.seed}"):
                run_cell(cell, cell.folder(out), bar)
            bar.end()
            after_cell()


@contextmanager
def says_how_to_go_on(out: Path, where: str) -> Iterator[None]:
    """Answer Ctrl-C.

    :param out: folder of the grid.
    :param where: what is being done.
    :raises RunStopped: on Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise RunStopped(
            f"Stopped by SIGINT in {where}. To go on: the command of before with --out {out}: it runs what is not finished",
            "SIGINT",
        ) from error


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
