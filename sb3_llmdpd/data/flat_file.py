"""Rows of one size in a file, mapped into memory, of which only those read lately stay there."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np

RESIDENT_BYTES = 2**29
"""Bytes of a file that this process may hold before it lets them go; the system may still cache them."""
_NEIGHBOURS = 2**16
"""Bytes that Linux maps around a page that is asked for."""


class FlatFile:
    """A file of records, read only.

    :param path: path of the file.
    :param dtype: type of a record.
    :raises ValueError: when the file does not hold a whole number of records, or none.
    :raises OSError: when it cannot be read.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path = path
        self.dtype = dtype
        size = path.stat().st_size
        if size == 0 or size % dtype.itemsize:
            raise ValueError(
                f"{path} has {size} bytes, which is no whole number of records of {dtype.itemsize} bytes"
            )
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.records: np.ndarray = np.frombuffer(self._map, dtype)
        """(n,), read only; pages that are read stay in memory until `release`."""
        self._touched = 0

    def __len__(self) -> int:
        """Number of records."""
        return len(self.records)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Copy records.

        :param rows: (B,), each in [0, n), in any order.
        :return: (B,) records.
        """
        taken = np.empty(len(rows), self.dtype)
        size = self.dtype.itemsize + _NEIGHBOURS
        at_once = max(1, RESIDENT_BYTES // size)
        for first in range(0, len(rows), at_once):
            part = slice(first, first + at_once)
            self.records.take(rows[part], out=taken[part], mode="clip")  # the other modes copy once more
            self._touched += len(taken[part]) * size
            if self._touched > RESIDENT_BYTES:
                self.release()
        return taken

    def release(self) -> None:
        """Let go of the pages in memory. They are read again when they are asked for."""
        self._touched = 0
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def __reduce__(self) -> Any:
        return type(self), (self.path, self.dtype)
