"""Trainings that are there to be stopped: their data, their processes, and how their results differ."""

import multiprocessing
import os
import resource
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from factories import make_episodes, tiny_model
from toys import ActionEnv

from sb3_llmdpd import LLMDPD, checkpoint
from sb3_llmdpd.benchmarks.common.ownership import owned
from sb3_llmdpd.benchmarks.common.run_folder import RunFolder
from sb3_llmdpd.llmdpd.callbacks import CurveRow, SaveLatest, read_curve

SAVE_FREQ, LOG_INTERVAL = 2, 3


def leave_behind(file: Path, folder: Path, minutes_since: float) -> None:
    """Write a half-written file as a killed process leaves it, in folders that are a day old.

    A long write adds to a file in a subfolder, which leaves the date of the folder alone.

    :param file: path of the file.
    :param folder: folder above it, from which on nothing is aged
    :param minutes_since: minutes since the last write
    """
    file.parent.mkdir(parents=True)
    file.write_bytes(b"half")
    long_ago, last = time.time() - 86_400, time.time() - 60 * minutes_since
    for path in [*file.parents][: len(file.relative_to(folder).parts) - 1]:
        os.utime(path, (long_ago, long_ago))
    os.utime(file, (last, last))


def processes() -> ForkServerContext:
    """Make a context whose processes start in milliseconds: a server imports the package and forks them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "sb3_llmdpd.benchmarks.common.run_folder", "torch._dynamo"])
    return context


def without_progress_bar(learn: Callable[..., LLMDPD]) -> Callable[..., LLMDPD]:
    """Leave out the bar: its thread outlives a training that raises, its lock a process that is killed."""
    return lambda *args, **kwargs: learn(*args, **{**kwargs, "progress_bar": False})


def train(folder: Path, n_steps: int, steps_seen: Any = None) -> None:
    """Begin the run in a folder, or go on with it, as `sb3-llmdpd train` does.

    :param folder: folder of the run
    :param n_steps: steps of the whole run
    :param steps_seen: number of the last step, shared with the process that kills this one
    """
    th.set_num_threads(1)
    with owned(folder):
        _train(RunFolder(folder), n_steps, steps_seen)


def _train(run: RunFolder, n_steps: int, steps_seen: Any) -> None:
    arguments = {"command": "train", "steps": n_steps}
    (run.go_on if run.is_begun else run.begin)(arguments)
    parts = dict(dataset=make_episodes(), device="cpu")
    model = LLMDPD.load(run.model_path, **parts) if run.has_model else tiny_model()
    take_step = model.train

    def tell(*args: Any, **kwargs: Any) -> None:
        take_step(*args, **kwargs)
        steps_seen.value = model.num_timesteps + 1

    if steps_seen is not None:
        model.train = tell
    model.learn = without_progress_bar(model.learn)
    run.train(model, n_steps, LOG_INTERVAL, SAVE_FREQ)


def train_until_the_disk_is_full(path: Path, outcome: Connection) -> None:
    """Save a model after one step, and go on training where no more than 10 kB can be written.

    :param path: path of the model file
    :param outcome: receives the number of the operating system's error, or None when there was none
    """
    model = tiny_model().learn(1)
    model.save(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
    try:
        model.learn(4, callback=SaveLatest(path, 2), reset_num_timesteps=False)
    except OSError as error:
        outcome.send(error.errno)
    else:
        outcome.send(None)


def write_dataset(root: Path, seed: int = 0) -> str:
    """Write a small Minari data set.

    :param root: folder of the data sets
    :param seed: seed of the episodes
    :return: id of the data set
    """
    import minari
    from minari.data_collector import EpisodeBuffer

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        warnings.simplefilter("ignore")  # Minari misses what only data sets for everyone need
        last = np.arange(20) == 19
        ends = dict(terminations=last & False, truncations=last)
        arrays = [(e.observations, e.actions, e.rewards) for e in make_episodes(n_tasks=1, seed=seed)]
        buffers = [EpisodeBuffer(observations=o, actions=a, rewards=r, **ends) for o, a, r in arrays]
        both = {name: getattr(ActionEnv, name) for name in ("observation_space", "action_space")}
        dataset = minari.create_dataset_from_buffers("lab/walk-v0", buffers, **both)
        dataset.storage.update_metadata({"task_text": "walk to the door"})
    return "lab/walk-v0"


def without_times(rows: list[CurveRow]) -> list[CurveRow]:
    """Drop the columns of a learning curve that differ from run to run."""
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def curve(folder: Path) -> list[CurveRow]:
    """Read the learning curve of a run, without the times."""
    return without_times(read_curve(folder / "progress.csv"))


def differences(folder: Path, other: Path) -> set[str]:
    """Compare the model files of two runs: weights, optimisers, generators, counters, arguments.

    :param folder: folder of a run
    :param other: folder of another run
    :return: names of the parts that differ
    """
    one, two = _parts(folder / "model.zip"), _parts(other / "model.zip")
    return {name for name in one.keys() | two.keys() if not _same(one.get(name), two.get(name))}


def _parts(path: Path) -> dict[str, Any]:
    saved = checkpoint.read(path)
    tensors = {f"{group}.{name}": t for group in saved.tensors for name, t in saved.tensors[group].items()}
    return {**saved.data, **tensors}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, th.Tensor) and isinstance(other, th.Tensor):
        return one.dtype == other.dtype and th.equal(one, other)
    return bool(one == other)
