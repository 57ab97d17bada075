"""Flat arrays of steps, and files that hold them."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

N = 6


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
