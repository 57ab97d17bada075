"""The results of the benchmark on Meta-World as one small JSON file, from which its report is made."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sb3_llmdpd.benchmarks.common.results import BenchmarkResults, kept
from sb3_llmdpd.benchmarks.common.trainings import Training
from sb3_llmdpd.evaluation.conditions import TOLD
from sb3_llmdpd.evaluation.phases import phase_rates
from sb3_llmdpd.evaluation.results import METAWORLD, RESULTS, read_envelope, read_results, write_envelope
from sb3_llmdpd.evaluation.tasks import CellResult


@dataclass(frozen=True)
class TrainingCell:
    """A cell as one training played it: the episodes of one task under one condition, as tables need them.

    :param variant: name of the variant.
    :param seed: seed of the training.
    :param task: task whose scenes were played.
    :param condition: name of the condition.
    :param seen: whether the task was trained on; None where that is not the question.
    :param successes: (n_episodes,), 1 for success at any step.
    :param returns: (n_episodes,), sums of raw rewards, to one digit.
    :param phases: share of the episodes that passed each of `PHASES`, to three digits; None if not watched.
    :param soon: (n_episodes,), 1 for a success that came soon (`CellResult.soon`), in
        the scenes that two tasks share; None in all other cells.
    :param early_returns: (n_episodes,), sums of raw rewards over the first ``EARLY_STEPS`` steps, to one
        digit; None in older results.
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
    early_returns: tuple[float, ...] | None = None

    @property
    def told(self) -> str | None:
        """Task whose sentence was told in the scenes that two tasks share; None in all other cells."""
        return self.condition.removeprefix(TOLD) if self.condition.startswith(TOLD) else None

    @property
    def training(self) -> tuple[str, int]:
        """Variant and seed."""
        return self.variant, self.seed

    @classmethod
    def of(cls, training: Training, result: CellResult) -> "TrainingCell":
        """Keep what tables need of the result of one of a training's cells."""
        rates = None if result.phases is None else phase_rates(result.phases).values()
        return cls(
            training.variant,
            training.seed,
            result.task,
            result.condition.name,
            result.seen,
            tuple(map(int, result.successes)),
            tuple(round(total, 1) for total in result.returns),
            None if rates is None else tuple(round(rate, 3) for rate in rates),
            tuple(map(int, result.soon)) if result.condition.is_told else None,
            None if result.early_returns is None else tuple(round(each, 1) for each in result.early_returns),
        )


@dataclass(frozen=True)
class GridResults(BenchmarkResults):
    """Everything that a report on Meta-World says; each variant has its ``sentence`` at least.

    :param cells: cells that were played.
    """

    cells: tuple[TrainingCell, ...]

    def merged(self, earlier: "GridResults") -> "GridResults":
        """Keep the trainings of an earlier call that this one did not ask for.

        :param earlier: results of the same settings.
        :return: both together, of the same hardware as this.
        """
        cells = kept(earlier.cells, self.cells, lambda cell: cell.training)
        return replace(self, variants={**earlier.variants, **self.variants}, cells=cells)


def gather(out: Path, trainings: Sequence[Training]) -> tuple[TrainingCell, ...]:
    """Read the cells of the finished trainings in the folder of a benchmark."""
    return tuple(
        TrainingCell.of(training, result)
        for training in trainings
        if training.is_finished(out)
        for result in read_results(training.folder(out) / RESULTS)[0]
    )


def write_grid(path: Path, results: GridResults) -> None:
    """Write results to be read by `read_grid`, a line for each cell of a training: whole or not at all."""
    head = asdict(results)
    write_envelope(path, METAWORLD, head, head.pop("cells"))


def read_grid(path: Path) -> GridResults:
    """Read what `write_grid` wrote, in this version or an older one; see `read_envelope`."""
    return read_envelope(path, METAWORLD, _built)


def _built(document: dict[str, Any]) -> GridResults:
    cells = ({name: _fixed(value) for name, value in cell.items()} for cell in document.pop("cells"))
    return GridResults(cells=tuple(TrainingCell(**cell) for cell in cells), **document)


def _fixed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
