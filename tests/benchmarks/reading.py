"""Measures reading a Minari data set, beside Minari's own reading and that of its bare arrays."""

import os
import shutil
from collections.abc import Callable
from unittest import mock

import h5py
import minari
from common import FOLDER, LENGTH, Synthetic, machine, table
from timing import by_turns

from sb3_llmdpd.data.loading import load_dataset
from sb3_llmdpd.data.minari_writer import write_minari

NAME, TRANSITIONS = "bench/read-v0", 200_000


def section(rounds: int) -> str:
    """Time reading whole data sets, from the system's cache of files."""
    root = FOLDER / "minari"
    shutil.rmtree(root, ignore_errors=True)
    source = Synthetic(TRANSITIONS)
    place = write_minari(NAME, source.episodes(), source.observation_space, source.action_space, root=root)
    file = place / "data" / "main_data.hdf5"

    def bare() -> None:
        with h5py.File(file) as episodes:
            for episode in episodes.values():
                for entry in episode.values():
                    if isinstance(entry, h5py.Dataset):
                        entry[()]

    def theirs() -> None:
        with mock.patch.dict(os.environ, {"MINARI_DATASETS_PATH": str(root)}):
            list(minari.load_dataset(NAME).iterate_episodes())

    calls: dict[str, Callable[[], object]] = {
        "bare arrays by h5py": bare,
        "Minari's `iterate_episodes`": theirs,
        "`load_dataset`, checked": lambda: load_dataset(NAME, root=root),
    }
    times = by_turns(calls, rounds, seconds=0.5)
    first, second, _ = calls
    rows = [
        [name, f"{times.milliseconds(name):.0f}", times.ratio(name, first), times.ratio(name, second)]
        for name in calls
    ]
    size = f"{file.stat().st_size / 2**20:.0f} MiB"
    head = f"{TRANSITIONS:,} transitions in episodes of {LENGTH:,}, {size}, {machine()}; {rounds} rounds."
    return f"{head}\n\n{table(['what', 'ms', 'of the bare arrays', 'of Minari'], rows)}"
