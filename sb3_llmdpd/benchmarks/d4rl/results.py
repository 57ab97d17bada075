"""The results of D4RL's benchmark as small JSON files: one for each training, and one of all."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote

from sb3_llmdpd.benchmarks.common.results import BenchmarkResults, in_order, kept
from sb3_llmdpd.benchmarks.common.trainings import Training, refuse_others
from sb3_llmdpd.benchmarks.d4rl.data import DatasetInfo
from sb3_llmdpd.benchmarks.d4rl.settings import D4RL_VARIANTS
from sb3_llmdpd.checkpoint.values import to_json
from sb3_llmdpd.evaluation.results import D4RL, RESULTS, read_envelope, write_envelope

EVALUATIONS = "evaluations.json"
"""Name of the file with the evaluations of a training so far."""

_DIGITS = 3
"""Digits of a return: more than a hundredth of a point on D4RL's scale needs."""


@dataclass(frozen=True)
class Point:
    """One evaluation of one training.

    :param dataset: label of the data set.
    :param variant: name of the variant; files call it ``row``.
    :param seed: seed of the training.
    :param step: gradient steps that the model had taken.
    :param returns: (n_episodes,), sums of raw rewards, to three digits.
    """

    dataset: str
    variant: str
    seed: int
    step: int
    returns: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "returns", tuple(round(float(total), _DIGITS) for total in self.returns))

    @property
    def mean(self) -> float:
        """Mean return."""
        return fmean(self.returns)

    @property
    def training(self) -> tuple[str, str, int]:
        """Data set, variant and seed."""
        return self.dataset, self.variant, self.seed

    def to_json(self) -> dict[str, Any]:
        """Take it apart into JSON values, under the names that files have."""
        return {("row" if name == "variant" else name): value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, point: Mapping[str, Any]) -> "Point":
        """Make what `to_json` took apart."""
        return cls(point["dataset"], point["row"], point["seed"], point["step"], tuple(point["returns"]))


@dataclass(frozen=True)
class D4RLTraining(Training):
    """One training: a variant on one data set with one seed.

    :param dataset: label of the data set.
    """

    dataset: str

    @property
    def title(self) -> str:
        """See `Training.title`."""
        return f"{self.variant} on {self.dataset}, seed {self.seed}"

    def folder(self, out: Path) -> Path:
        """See `Training.folder`."""
        return out / quote(self.dataset, safe="/+=, ") / self.variant / f"seed-{self.seed}"

    def is_finished(self, out: Path) -> bool:
        """See `Training.is_finished`; it has been evaluated at its last step, and the last model is saved."""
        points = self.points(out)  # read in any case: those of other settings are refused
        evaluated = any(point.step == self.settings["n_steps"] for point in points)
        return evaluated and (self.folder(out) / RESULTS).is_file()

    def finish(self, out: Path) -> None:
        """Leave its evaluations as its results, last of all."""
        self._write(self.folder(out) / RESULTS, self.points(out))

    def points(self, out: Path) -> list[Point]:
        """Read its evaluations so far, in the order of their steps; none before the first.

        :raises ValueError: when they are of other settings, or the file is damaged.
        """
        path = self.folder(out) / EVALUATIONS
        if not path.is_file():
            return []
        settings, points = read_envelope(path, D4RL, lambda read: (read["settings"], _points_of(read)))
        refuse_others(settings, self.settings, path)
        return points

    def write_points(self, out: Path, points: Sequence[Point]) -> None:
        """Write the evaluations so far, in the order of their steps, whole or not at all."""
        self._write(self.folder(out) / EVALUATIONS, points)

    def _write(self, path: Path, points: Sequence[Point]) -> None:
        write_envelope(path, D4RL, {"settings": self.settings}, [point.to_json() for point in points])


@dataclass(frozen=True)
class D4RLResults(BenchmarkResults):
    """Everything that a report on D4RL says; of each variant, a sentence.

    :param datasets: descriptions of the data sets by their labels.
    :param points: all evaluations of the finished trainings.
    """

    datasets: Mapping[str, DatasetInfo]
    points: tuple[Point, ...]

    def of(self, dataset: str, variant: str) -> dict[int, list[Point]]:
        """Select the evaluations of a variant on a data set, by seed, in the order of their steps."""
        by_seed: dict[int, list[Point]] = {}
        for point in sorted(self.points, key=lambda each: (each.seed, each.step)):
            if (point.dataset, point.variant) == (dataset, variant):
                by_seed.setdefault(point.seed, []).append(point)
        return by_seed

    def merged(self, earlier: "D4RLResults", path: Path) -> "D4RLResults":
        """Keep the trainings of an earlier call that this one did not ask for.

        :param earlier: results of the same settings.
        :param path: the file that they were read from.
        :return: both together, of the same hardware as this.
        :raises ValueError: when a data set of the same label was another, or in another environment.
        """
        for label in self.datasets.keys() & earlier.datasets.keys():
            refuse_others(earlier.datasets[label].deciding, self.datasets[label].deciding, path)
        return replace(
            self,
            datasets={**earlier.datasets, **self.datasets},
            variants=in_order({**earlier.variants, **self.variants}, D4RL_VARIANTS),
            points=kept(earlier.points, self.points, lambda point: point.training),
        )


def write_d4rl(path: Path, results: D4RLResults) -> None:
    """Write results to be read by `read_d4rl`, a line for each evaluation: whole or not at all."""
    head = to_json(asdict(replace(results, points=())))
    del head["points"]
    head["rows"] = head.pop("variants")
    write_envelope(path, D4RL, head, [point.to_json() for point in results.points])


def read_d4rl(path: Path) -> D4RLResults:
    """Read what `write_d4rl` wrote, in this version or an older one; see `read_envelope`."""
    return read_envelope(path, D4RL, _built)


def _built(document: dict[str, Any]) -> D4RLResults:
    found = document.pop("datasets").items()
    return D4RLResults(
        variants=document.pop("rows"),
        datasets={label: DatasetInfo.from_json(info) for label, info in found},
        points=tuple(_points_of(document)),
        **document,
    )


def _points_of(document: dict[str, Any]) -> list[Point]:
    return [Point.from_json(point) for point in document.pop("points")]
