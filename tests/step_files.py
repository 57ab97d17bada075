"""Flat arrays of steps, files that hold them, and what is read of these."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sb3_llmdpd.data.d4rl import D4RLSource
from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.npz import NpzSource
from sb3_llmdpd.data.step_files import StepFileSource

N = 6

SOURCES: dict[str, type[StepFileSource]] = {".npz": NpzSource, ".hdf5": D4RLSource}
"""Formats of flat arrays by the suffix of their files."""


def flags(*steps: int, n: int = N) -> np.ndarray:
    """Set flags at some of n steps."""
    return np.isin(np.arange(n), steps)


def arrays(n: int = N, ends: tuple[int, ...] = (), **fields: Any) -> dict[str, Any]:
    """Make n steps whose observation t is (t, -t), whose action t is t / 100 and whose reward t is t.

    :param n: number of steps
    :param ends: steps with a terminal
    :param fields: further arrays by name, or replacements; None leaves an array out
    """
    steps = np.arange(n, dtype=np.float32)
    values = {
        "observations": np.stack([steps, -steps], axis=1),
        "actions": steps[:, None] / 100,
        "rewards": steps,
        "terminals": flags(*ends, n=n),
    }
    return {name: value for name, value in {**values, **fields}.items() if value is not None}


def write_steps(path: Path, **fields: Any) -> Path:
    """Write arrays as npz or hdf5, by the suffix of the path."""
    if path.suffix == ".npz":
        np.savez(path, **fields)
        return path
    with h5py.File(path, "w") as file:
        for name, value in fields.items():
            file.create_dataset(name, data=value, compression="gzip" if np.ndim(value) else None)
    return path


def opened(path: Path, **options: Any) -> StepFileSource:
    """Open a file as a source of its format."""
    return SOURCES[path.suffix](path, **options)


def read(path: Path, **options: Any) -> list[Episode]:
    """Read the episodes of a file."""
    return list(opened(path, **options).episodes())


def outcomes(episodes: list[Episode]) -> list[tuple[int, bool]]:
    """Tell of each episode its number of steps and whether it terminated."""
    return [(len(episode), episode.terminated) for episode in episodes]


def said_by(function: Callable[[], object]) -> list[str]:
    """Call a function, and return the warnings that it gave, each as often as it came."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [str(warning.message) for warning in caught]
