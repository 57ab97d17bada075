"""Runs the trainings of a benchmark, each a variant with a seed, and goes on where it was stopped."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from sb3_llmdpd.benchmarks.common.run_folder import RunFolder, RunStopped
from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.evaluation.results import RESULTS, settings_of

SETTINGS = "benchmark.json"
"""Name of the file that says what all trainings in a folder share."""


@dataclass(frozen=True)
class Training:
    """One variant with one seed.

    :param variant: name of the variant.
    :param seed: seed of training and evaluation.
    :param settings: all that decides its numbers, as JSON values.
    :param work: its duration, in gradient steps that take as long.
    """

    variant: str
    seed: int
    settings: Mapping[str, Any]
    work: int

    @property
    def title(self) -> str:
        """Name of the training for a reader."""
        return f"{self.variant}, seed {self.seed}"

    def folder(self, out: Path) -> Path:
        """Name the folder of its files, in that of the benchmark; it need not be there yet."""
        return training_folder(out, self.variant, self.seed)

    def is_finished(self, out: Path) -> bool:
        """Tell whether its results are there.

        :raises ValueError: when results of other settings are in their place, or a damaged file.
        """
        path = self.folder(out) / RESULTS
        if path.is_file():
            refuse_others(settings_of(path), self.settings, path)
        return path.is_file()


SomeTraining = TypeVar("SomeTraining", bound=Training)


class TrainingsBar:
    """One progress bar over all trainings, with the time that is left.

    :param trainings: those of the whole benchmark.
    :param n_finished: number of the finished ones.
    :param work_left: work of the others.
    :param show: whether to show it.
    """

    def __init__(
        self, trainings: Sequence[Training], n_finished: int, work_left: int, show: bool = True
    ) -> None:
        self._n_trainings, self._n_finished = len(trainings), n_finished
        work = sum(training.work for training in trainings)
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
        """Return what is shown right now."""
        return str(self._bar)

    def begin(self, training: Training) -> None:
        """Show that a training begins."""
        self._bar.set_description_str(f"{self._n_finished}/{self._n_trainings} trainings; {training.title}")

    def end(self) -> None:
        """Count the training as finished."""
        self._n_finished += 1

    def advance(self, work: float) -> None:
        """Count work that was done, in gradient steps."""
        self._bar.update(work)

    def skip(self, work: float) -> None:
        """Count work that need not be done, in gradient steps; it does not speed up the time that is left."""
        self._bar.initial += work
        self._bar.update(work)


class StepsOnBar(BaseCallback):
    """Counts gradient steps on a bar."""

    def __init__(self, bar: TrainingsBar) -> None:
        super().__init__()
        self.bar = bar

    def _on_step(self) -> bool:
        self.bar.advance(1)
        return True


def training_folder(out: Path, variant: str, seed: int) -> Path:
    """Name the folder of a training's files, in that of the benchmark; a variant may have any characters."""
    return out / quote(variant, safe="+=,") / f"seed-{seed}"


def open_folder(out: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder of a benchmark, or make sure that it is one of the same settings.

    :param out: the folder.
    :param settings: settings that all trainings share, as JSON values; the trainings themselves may differ.
    :raises ValueError: when it has a benchmark of other settings.
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
    if (out / RESULTS).is_file():
        refuse_others(settings_of(out / RESULTS), settings, out / RESULTS)


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


def open_run(folder: Path, n_steps: int, settings: Mapping[str, Any]) -> RunFolder:
    """Begin the run of a training in its folder, or go on with it.

    :param folder: the folder.
    :param n_steps: gradient steps of the whole run.
    :param settings: all that decides the model, as JSON values.
    :raises ValueError: when it was begun with other settings; names what differs.
    """
    run = RunFolder(folder)
    arguments = {"command": "benchmark", "steps": n_steps, **settings}
    if run.is_begun:
        refuse_others(run.arguments(), arguments, run.path)
        run.go_on(arguments)
    else:
        run.begin(arguments)
    return run


def run_trainings(
    out: Path,
    trainings: Sequence[SomeTraining],
    run: Callable[[SomeTraining, Path, TrainingsBar], None],
    *,
    after_each: Callable[[], object],
    show: bool = True,
) -> None:
    """Run the trainings that are not finished, one after the other.

    :param out: folder of the benchmark.
    :param trainings: all of them.
    :param run: runs one in its folder, where it leaves ``results.json`` last of all.
    :param after_each: called when one is finished.
    :param show: whether to show a bar.
    :raises ValueError: when a training has results of other settings; nothing was run then.
    :raises RunStopped: on Ctrl-C; says how to go on.
    """
    left = [training for training in trainings if not training.is_finished(out)]
    work_left = sum(training.work for training in left)
    with TrainingsBar(trainings, len(trainings) - len(left), work_left, show) as bar:
        for training in left:
            bar.begin(training)
            with says_how_to_go_on(out, training.title):
                run(training, training.folder(out), bar)
            bar.end()
            after_each()


@contextmanager
def says_how_to_go_on(out: Path, where: str) -> Iterator[None]:
    """Raise `RunStopped` on Ctrl-C in the named work of the benchmark in a folder."""
    try:
        yield
    except KeyboardInterrupt as error:
        message = f"Stopped by SIGINT in {where}. To go on: the command of before with --out {out}"
        raise RunStopped(f"{message}: it runs what is not finished", "SIGINT") from error


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
