"""Opens the files of LeRobot data sets: tables of features, tasks and episodes, and frames by episode."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from sb3_llmdpd.common.optional_imports import require
from sb3_llmdpd.data.spaces import space_of_extremes

ACTION, REWARD, DONE, SUCCESS = "action", "next.reward", "next.done", "next.success"

_NO_OBSERVATION = (ACTION, REWARD, DONE, SUCCESS, "episode_index", "index", "task_index")
"""Features of numbers that an observation must not show: its consequences, or its place in the data."""

_WHOLE_NUMBERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_NUMBERS = {"bool", "float16", "float32", "float64"} | _WHOLE_NUMBERS

_INFO = Path("meta", "info.json")
_TASKS = {"v2.1": Path("meta", "tasks.jsonl"), "v3.0": Path("meta", "tasks.parquet")}
"""Table of the task strings by the version of the format."""

_BATCH = 4_096
"""Frames that are decoded at once."""

_MISREAD = (LookupError, TypeError, AttributeError, ArithmeticError, NotImplementedError)
_BROKEN = (OSError, EOFError, ValueError, *_MISREAD)
"""Errors of reading a damaged file; arrow's are of these kinds, too."""


class Frames(NamedTuple):
    """The rows of one episode, not decoded yet: record batches of arrow, and shapes by feature."""

    source: str
    pieces: list[Any]
    shapes: dict[str, tuple[int, ...]]

    def column(self, key: str) -> np.ndarray:
        """Read a feature of a single number, (n_frames,); zeros where an optional one is not there."""
        if key not in self.pieces[0].schema.names:
            return np.zeros(sum(map(len, self.pieces)), np.float32)
        return self.floats(key, (1,))[:, 0]

    def floats(self, key: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """Read a feature in the shape given or its own, (n_frames, *shape), as float32 with infinities."""
        arrow, compute = require("pyarrow", "lerobot"), require("pyarrow.compute", "lerobot")
        array = arrow.concat_arrays([piece.column(key) for piece in self.pieces])
        if isinstance(array, arrow.ExtensionArray):  # of several axes, where `datasets` is imported
            array = array.storage
        n_frames, shape = len(array), shape or self.shapes[key]
        while isinstance(array, arrow.ListArray | arrow.LargeListArray | arrow.FixedSizeListArray):
            sizes = compute.list_value_length(array).unique().to_pylist()
            if len(sizes) > 1 or None in sizes:
                reason = f"rows of `{key}` must be of one size, got {sizes}; repair the episode"
                raise ValueError(f"{self.source}: {reason}")
            array = array.flatten()
        if array.null_count:
            reason = f"`{key}` lacks {array.null_count} values; repair or leave out the episode"
            raise ValueError(f"{self.source}: {reason}")
        values = array.to_numpy(zero_copy_only=False)
        if values.dtype.kind not in "fiub":
            raise TypeError(f"{self.source}: `{key}` must be numbers, got {array.type}")
        if len(values) != n_frames * math.prod(shape):
            reason = f"a row of `{key}` must be of shape {shape}, got {len(values) // n_frames} values"
            raise ValueError(f"{self.source}: {reason}")
        with np.errstate(over="ignore"):
            return values.reshape(n_frames, *shape).astype(np.float32)


class Contents:
    """The tables of a data set: features, tasks, and the file of each episode."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder
        if not folder.is_dir():
            raise ValueError(f"{name}: there is no such folder; give the one that holds {_INFO}")
        with _sound(name, folder / _INFO):
            info = json.loads((folder / _INFO).read_text(encoding="utf-8"))
            version = str(info.get("codebase_version"))
        if version not in _TASKS:
            raise ValueError(
                f"{name}: is of LeRobot's version {version}, and {' and '.join(_TASKS)} are read. LeRobot's"
                " own scripts convert what is older, one after the other: convert_dataset_v1_to_v2,"
                " convert_dataset_v20_to_v21, convert_dataset_v21_to_v30, each in its releases of the version"
                " that it makes. What is newer needs a newer sb3_llmdpd"
            )
        with _sound(name, folder / _INFO):
            self._data_path = str(info["data_path"])
            self._chunks_size = int(info.get("chunks_size", 1_000))  # LeRobot's own default
            self._dtypes = {key: str(feature["dtype"]) for key, feature in info["features"].items()}
            numbers = [key for key, dtype in self._dtypes.items() if dtype in _NUMBERS]
            self.shapes = {key: tuple(map(int, info["features"][key]["shape"])) or (1,) for key in numbers}
        if ACTION not in self.shapes:
            raise ValueError(f"{name}: there is no feature `{ACTION}` of numbers, which a policy is to learn")
        self._v2 = version == "v2.1"
        tables = [folder / "meta/episodes.jsonl"]
        if not self._v2:
            tables = sorted((folder / "meta/episodes").glob("*/*.parquet"))
        self.tasks = self._read_tasks(folder / _TASKS[version])
        self._entries = sorted(entry for table in tables for entry in self._read_entries(table))
        n_entries = len(self._entries)
        self.n_episodes = info.get("total_episodes", n_entries)
        if self.n_episodes != n_entries or not n_entries:
            counted = f"{_INFO} speaks of {self.n_episodes} episodes, and meta/episodes of {n_entries}"
            raise ValueError(f"{name}: {counted}; download or record the data set again")
        data = dict.fromkeys(file for _, _, file in self._entries)
        self.files = [folder / _INFO, folder / _TASKS[version], *tables, *data]

    def _read_tasks(self, path: Path) -> dict[int, str]:
        with _sound(self._name, path):
            rows = list(self._rows(path))
            key = "task" if "task" in rows[0] else "__index_level_0__"  # pandas' name of a nameless index
            return {int(row["task_index"]): row[key].strip() for row in rows}

    def _read_entries(self, table: Path) -> Iterator[tuple[int, int, Path]]:
        """Read index, number of frames, and file of each episode."""
        # All columns would be read otherwise, hundreds of statistics among them.
        columns = ["data/chunk_index", "data/file_index", "episode_index", "length"]
        with _sound(self._name, table):
            for row in self._rows(table, columns):
                index = int(row["episode_index"])
                place = {"episode_index": index, "episode_chunk": index // self._chunks_size}
                if not self._v2:
                    place = {key: int(row[f"data/{key}"]) for key in ("chunk_index", "file_index")}
                yield index, int(row["length"]), self._folder / self._data_path.format(**place)

    def _rows(self, path: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
        if self._v2:
            yield from map(json.loads, filter(str.strip, path.read_text(encoding="utf-8").split("\n")))
        else:
            for batch in self._batches(path, columns):
                yield from batch.to_pylist()

    def _batches(self, path: Path, columns: list[str] | None) -> Iterator[Any]:
        with require("pyarrow.parquet", "lerobot").ParquetFile(path) as file:
            if lacking := set(columns or ()) - set(file.schema_arrow.names):
                raise ValueError(f"it lacks the columns {sorted(lacking)}")
            yield from file.iter_batches(_BATCH, columns=columns)

    def checked_keys(self, given: str | Sequence[str]) -> list[str]:
        """Check the features to observe, and return them as a list."""
        keys = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        known = [key for key in self.shapes if key not in _NO_OBSERVATION]
        if not keys or not all(isinstance(key, str) for key in keys):
            raise TypeError(
                f"{self._name}: `observation_key` must be a name or several, of {known}; got {given!r}"
            )
        for key in keys:
            if key not in known:
                reason = f"there is no feature {key!r}"
                if dtype := self._dtypes.get(key):
                    reason = f"{key!r} is no observation of numbers, but {dtype}"
                raise ValueError(f"{self._name}: {reason}; `observation_key` may name {known}")
        if len(set(keys)) < len(keys):
            raise ValueError(f"{self._name}: `observation_key` names a feature twice, got {keys}")
        return keys

    def action_space(self) -> spaces.Box:
        """Measure the smallest and the largest value of each entry over all frames."""
        low = np.full(self.shapes[ACTION], np.inf, np.float32)
        high = -low
        for frames in self.frames([ACTION]):
            actions = frames.floats(ACTION)
            known = np.isfinite(actions)  # the others are refused when their episode is read
            low = np.minimum(low, np.where(known, actions, np.inf).min(axis=0))
            high = np.maximum(high, np.where(known, actions, -np.inf).max(axis=0))
        return space_of_extremes(low, high)

    def frames(self, keys: Sequence[str]) -> Iterator[Frames]:
        """Read the episodes in the order of their numbers; one file is open at a time."""
        for path, entries in groupby(self._entries, key=lambda entry: entry[2]):
            with _sound(self._name, path):
                pieces = _pieces(self._batches(path, ["episode_index", *keys]))
                runs = groupby(pieces, key=lambda piece: piece[0])
                for index, n_frames, _ in entries:
                    found, run = next(runs, (None, ()))
                    batches = [batch for _, batch in run]
                    n_found = sum(map(len, batches))
                    if (found, n_found) != (index, n_frames):
                        said = f"{n_frames} frames of episode {index}"
                        raise ValueError(
                            f"it holds {n_found} frames of episode {found}, and meta/episodes says {said}"
                        )
                    yield Frames(f"{self._name}, episode {index}", batches, self.shapes)
                if extra := next(runs, None):
                    raise ValueError(f"it holds episode {extra[0]} besides those of meta/episodes")


def _pieces(batches: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
    """Cut batches where the episode changes; each piece comes with the number of its episode."""
    for batch in batches:
        indices = batch.column("episode_index").to_numpy(zero_copy_only=False)
        cuts = (np.flatnonzero(np.diff(indices)) + 1).tolist()
        for start, stop in pairwise([0, *cuts, len(indices)]):
            yield indices[start].item(), batch.slice(start, stop - start)


@contextmanager
def _sound(source: str, path: Path) -> Iterator[None]:
    """Answer any error of reading a file with a sentence that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{source}: {path} is missing; download the whole data set") from error
    except _BROKEN as error:
        reason = f"damaged or half-written ({type(error).__name__}: {error})"
        raise ValueError(f"{source}: {path} is {reason}; download or record the data set again") from error
