"""The results of D4RL's benchmark as small JSON files: one for each training, and one of all."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote

import torch as th
from stable_baselines3.common.utils import get_device

from sb3_llmdpd.benchmarks.common.grid import RESULTS, GridCell, refuse_others
from sb3_llmdpd.benchmarks.d4rl.data import DatasetInfo
from sb3_llmdpd.benchmarks.d4rl.settings import ROWS
from sb3_llmdpd.checkpoint.values import to_json
from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.common.processes import n_cores
from sb3_llmdpd.evaluation.report import versions

D4RL_VERSION = 1
BENCHMARK = "d4rl"
EVALUATIONS = "evaluations.json"

_DIGITS = 3
"""Of a return: more than a hundredth of a point on D4RL's scale needs."""


@dataclass(frozen=True)
class Point:
    """One evaluation of one training.

    :param dataset: label of the data set.
    :param row: name of the row.
    :param seed: of the training.
    :param step: gradient steps that the model had taken.
    :param returns: (n_episodes,), sums of raw rewards, to three digits.
    """

    dataset: str
    row: str
    seed: int
    step: int
    returns: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "returns", tuple(round(float(total), _DIGITS) for total in self.returns))

    @property
    def mean(self) -> float:
        """Mean return."""
        return fmean(self.returns)


@dataclass(frozen=True)
class D4RLCell(GridCell):
    """One training: a row on one data set with one seed.

    :param dataset: label of the data set.
    :param row: name of the row; ``variant`` says both, for the reader.
    """

    dataset: str
    row: str

    def folder(self, out: Path) -> Path:
        """See `GridCell.folder`."""
        return out / quote(self.dataset, safe="/+=, ") / self.row / f"seed-{self.seed}"

    def is_finished(self, out: Path) -> bool:
        """See `GridCell.is_finished`; the last evaluation alone does not make it so, as the last model is saved behind it."""
        points = self.points(out)  # read in any case: those of other settings are refused
        return (self.folder(out) / RESULTS).is_file() and any(
            point.step == self.settings["n_steps"] for point in points
        )

    def finish(self, out: Path) -> None:
        """Leave its evaluations as its results, last of all.

        :param out: folder of the benchmark.
        """
        _write(self.folder(out) / RESULTS, {"settings": self.settings}, self.points(out))

    def points(self, out: Path) -> list[Point]:
        """Its evaluations so far.

        :param out: folder of the benchmark.
        :return: in the order of their steps; none before the first.
        :raises ValueError: when they are of other settings, or the file is damaged.
        """
        path = self.folder(out) / EVALUATIONS
        if not path.is_file():
            return []
        head, points = _read(path)
        refuse_others(head.get("settings", {}), self.settings, path)
        return points

    def write_points(self, out: Path, points: Sequence[Point]) -> None:
        """Write the evaluations so far, whole or not at all.

        :param out: folder of the benchmark.
        :param points: in the order of their steps.
        """
        _write(self.folder(out) / EVALUATIONS, {"settings": self.settings}, points)


@dataclass(frozen=True)
class D4RLResults:
    """Everything that a report says.

    :param settings: what all trainings share, as JSON values.
    :param datasets: what is known of each data set, by its label.
    :param rows: a sentence for each row by its name, in the order of the tables.
    :param hardware: what it ran on.
    :param versions: of the packages.
    :param points: all evaluations of the finished trainings.
    """

    settings: Mapping[str, Any]
    datasets: Mapping[str, DatasetInfo]
    rows: Mapping[str, str]
    hardware: Mapping[str, Any]
    versions: Mapping[str, str | None]
    points: tuple[Point, ...]

    def of(self, dataset: str, row: str) -> dict[int, list[Point]]:
        """The evaluations of a row on a data set.

        :param dataset: its label.
        :param row: its name.
        :return: by seed, in the order of their steps.
        """
        by_seed: dict[int, list[Point]] = {}
        for point in sorted(self.points, key=lambda each: (each.seed, each.step)):
            if (point.dataset, point.row) == (dataset, row):
                by_seed.setdefault(point.seed, []).append(point)
        return by_seed

    def merged(self, earlier: "D4RLResults", path: Path) -> "D4RLResults":
        """Keep the trainings of an earlier call that this one did not ask for.

        :param earlier: of the same settings.
        :param path: of its file.
        :return: both together, of the same hardware as this.
        :raises ValueError: when a data set of the same label was another, or evaluated in another environment.
        """
        for label in self.datasets.keys() & earlier.datasets.keys():
            refuse_others(earlier.datasets[label].deciding, self.datasets[label].deciding, path)
        here = {(point.dataset, point.row, point.seed) for point in self.points}
        kept = [point for point in earlier.points if (point.dataset, point.row, point.seed) not in here]
        datasets, rows = {**earlier.datasets, **self.datasets}, {**earlier.rows, **self.rows}
        order = [*ROWS, *rows]
        rows = dict(sorted(rows.items(), key=lambda row: order.index(row[0])))
        return replace(self, datasets=datasets, rows=rows, points=(*kept, *self.points))


def device_name(device: str) -> str:
    """Say on what models run.

    :param device: as torch calls it, or ``"auto"``.
    :return: the name of the GPU, or ``"cpu"``.
    """
    found = get_device(device)
    return th.cuda.get_device_name(found) if found.type == "cuda" else str(found)


def gather_d4rl(
    out: Path,
    settings: Mapping[str, Any],
    datasets: Mapping[str, DatasetInfo],
    rows: Mapping[str, str],
    cells: Sequence[D4RLCell],
    device: str,
) -> D4RLResults:
    """Read the finished trainings.

    :param out: folder of the benchmark.
    :param settings: what they share.
    :param datasets: by label.
    :param rows: a sentence for each by name.
    :param cells: all trainings; unfinished ones are left out.
    :param device: what they run on, see `device_name`.
    :return: the results so far.
    """
    points = [point for cell in cells if cell.is_finished(out) for point in cell.points(out)]
    hardware = {"machine": platform.machine(), "cores": n_cores(), "device": device}
    return D4RLResults(settings, datasets, rows, hardware, versions(), tuple(points))


def write_d4rl(path: Path, results: D4RLResults) -> None:
    """Write results, a line for each evaluation: whole or not at all.

    :param path: the file.
    :param results: to be read by `read_d4rl`.
    """
    document = to_json({**asdict(results), "points": ()})
    del document["points"]
    _write(path, document, results.points)


def read_d4rl(path: Path) -> D4RLResults:
    """Read what `write_d4rl` wrote.

    :param path: the file.
    :return: the results.
    :raises FileNotFoundError: when there is no such file.
    :raises ValueError: when it is something else, damaged, or of another format version.
    """
    head, points = _read(path)
    try:
        datasets = {
            label: DatasetInfo.from_json(document) for label, document in head.pop("datasets").items()
        }
        return D4RLResults(datasets=datasets, points=tuple(points), **head)
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error


def is_d4rl(path: Path) -> bool:
    """Whether a file is one of `write_d4rl`.

    :param path: the file.
    :return: False, too, where there is none or it is no JSON.
    """
    try:
        return bool(json.loads(path.read_text())["benchmark"] == BENCHMARK)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(path: Path, head: Mapping[str, Any], points: Sequence[Point]) -> None:
    head = {"format_version": D4RL_VERSION, "benchmark": BENCHMARK, **head}
    lines = ",\n  ".join(json.dumps(asdict(point), separators=(",", ":")) for point in points)
    with whole_file(path) as temporary:
        temporary.write_text(f'{json.dumps(head, indent=1)[:-2]},\n "points": [\n  {lines}\n ]\n}}\n')


def _read(path: Path) -> tuple[dict[str, Any], list[Point]]:
    try:
        document = dict(json.loads(path.read_text()))
        found, benchmark = document.pop("format_version"), document.pop("benchmark")
        if (found, benchmark) == (D4RL_VERSION, BENCHMARK):
            return document, [
                Point(**{**point, "returns": tuple(point["returns"])}) for point in document.pop("points")
            ]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    raise ValueError(
        f"{path} has format version {found!r} of benchmark {benchmark!r}, and this sb3_llmdpd reads version {D4RL_VERSION} of"
        f" {BENCHMARK!r}"
    )


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} does not hold results of the D4RL benchmark ({type(error).__name__}: {error})")
