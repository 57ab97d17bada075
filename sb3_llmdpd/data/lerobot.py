"""Reads LeRobot data sets, whose episodes are rows of parquet files."""

import json
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from sb3_llmdpd.data.source import AS_RECORDED, EpisodeSource, Reading, Record
from sb3_llmdpd.optional import require

_ACTION, _REWARD, _DONE, _SUCCESS = "action", "next.reward", "next.done", "next.success"

_NO_OBSERVATION = (_ACTION, _REWARD, _DONE, _SUCCESS, "episode_index", "index", "task_index")
"""Features of numbers that an observation must not show: what follows it, or where in the data it stands."""

_NUMBERS = {"bool", "float16", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}

_INFO = Path("meta", "info.json")
_TASKS = {"v2.1": Path("meta", "tasks.jsonl"), "v3.0": Path("meta", "tasks.parquet")}
"""Table of the task strings by the version of the format."""

_BATCH = 4_096
"""Frames that are decoded at once."""

_BROKEN = (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, NotImplementedError)
"""What reading a damaged file gives; arrow's errors are of these kinds, too."""


class LeRobotSource(EpisodeSource):
    """A local LeRobotDataset of version v2.1 or v3.0, of which numbers are read and images are not.

    A frame is what was seen and the action that followed. What the last of n actions led to is not recorded, so that an
    episode has n - 1 steps: its last action is left out, with its reward. It has n where ``next.done`` and ``next.success``
    are both set in the last frame: the task ended there, and of the observation after it, for which the last one stands
    again, nothing is learned. Where ``next.done`` is set in the last frame but one, the last one shows what that led to.

    ``next.done`` alone may be a time limit, and no such episode is taken to have terminated. Without ``next.reward`` all
    rewards are zero, with a warning.

    The task is the string of the first frame's ``task_index``, which is also the sentence. An episode of an empty string has
    none, and its task is the data set. The action space spans the values of each entry, since no limits are recorded.

    :param folder: that holds ``meta/info.json``; ``~`` is the home folder.
    :param observation_key: feature that is the observation, or several, which are put side by side in the order given.
    :param reading: see `Reading`.
    :raises ValueError: when the folder is not there, of another version, damaged or half-written, or lacks a feature; or when
        one is an image.
    :raises TypeError: when a key is no string.
    """

    kind = "lerobot"

    def __init__(
        self,
        folder: str | Path,
        *,
        observation_key: str | Sequence[str] = "observation.state",
        reading: Reading = AS_RECORDED,
    ) -> None:
        name = str(folder)
        self._contents = _Contents(name, Path(folder).expanduser())
        self._keys = self._contents.checked_keys(observation_key)
        size = sum(math.prod(self._contents.shapes[key]) for key in self._keys)
        observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        super().__init__(name, observation_space, self._contents.action_space(), reading)

    def files(self) -> Sequence[Path]:
        """See `EpisodeSource.files`."""
        return self._contents.files

    def options(self) -> dict[str, Any]:
        """See `EpisodeSource.options`."""
        return {"observation_key": self._keys}

    def records(self) -> Iterator[Record]:
        """See `EpisodeSource.records`."""
        told = [key for key in (_REWARD, _DONE, _SUCCESS) if key in self._contents.shapes]
        if _REWARD not in told:
            remark = f"there are no rewards (`{_REWARD}`), and all are read as zero: only cloning can be learned, eta=0"
            warnings.warn(f"{self.name}: {remark}", stacklevel=2)
        counts: Counter[str] = Counter()
        for frames in self._contents.frames([*self._keys, _ACTION, "task_index", *told]):
            record = self._record(frames, counts)
            if record is not None:
                yield record
        for remark, n in counts.items():
            warnings.warn(f"{self.name}: {n:,} of {self._contents.n_episodes:,} episodes {remark}", stacklevel=2)

    def _record(self, frames: "_Frames", counts: "Counter[str]") -> Record | None:
        """One episode, None when it has no step; what a user should know of it is counted."""
        actions, rewards = frames.floats(_ACTION), frames.column(_REWARD)
        dones, successes = frames.column(_DONE).astype(bool), frames.column(_SUCCESS).astype(bool)
        n_frames = len(actions)
        observations = np.concatenate([frames.floats(key).reshape(n_frames, -1) for key in self._keys], axis=1)

        closed = n_frames > 1 and bool(dones[-2])  # the last frame shows what the end led to, and its action is none
        n_steps = n_frames - 1
        if not closed and dones[-1] and successes[-1]:
            n_steps = n_frames
            observations = np.concatenate([observations, observations[-1:]])
        if n_steps == 0:
            counts["have a single frame, which is no step, and were left out"] += 1
            return None
        if n_steps < n_frames and not closed and rewards[-1] and not rewards[:-1].any():
            counts[
                "have no reward but that of their last action, which is left out: what it led to is not recorded."
                f" `{_DONE}` and `{_SUCCESS}` in the last frame would say that the task ended there"
            ] += 1
        tasks = list(dict.fromkeys(frames.column("task_index").tolist()))
        if len(tasks) > 1:
            counts["have several tasks, of which that of their first frame was taken"] += 1
        if tasks[0] not in self._contents.tasks:
            known = sorted(self._contents.tasks)
            raise ValueError(f"{frames.source}: `task_index` is {tasks[0]:g}, and the table of the tasks has {known}")
        text = self._contents.tasks[tasks[0]]
        kept = successes[:n_steps]
        return {
            "observations": observations,
            "actions": actions[:n_steps],
            "rewards": rewards[:n_steps],
            "task": text or self.name,
            "task_texts": (text,) if text else (),
            "terminated": bool(dones[n_steps - 1] and successes[n_steps - 1]),
            "success": bool(successes.any()) if _SUCCESS in frames.shapes else None,
            "first_success": int(kept.argmax()) if kept.any() else None,
            "source": frames.source,
        }


class _Frames(NamedTuple):
    """The rows of one episode, not decoded yet: consecutive record batches of arrow, and shapes by feature."""

    source: str
    pieces: list[Any]
    shapes: dict[str, tuple[int, ...]]

    def column(self, key: str) -> np.ndarray:
        """One feature of a single number, (n_frames,); zeros where it is not there, which only what is optional may be."""
        if key not in self.pieces[0].schema.names:
            return np.zeros(sum(map(len, self.pieces)), np.float32)
        return self.floats(key, (1,))[:, 0]

    def floats(self, key: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """One feature in the shape given or its own, as float32: (n_frames, *shape). What is too large is infinite."""
        arrow, compute = require("pyarrow", "lerobot"), require("pyarrow.compute", "lerobot")
        array = arrow.concat_arrays([piece.column(key) for piece in self.pieces])
        if isinstance(array, arrow.ExtensionArray):  # features of several axes, once anyone imported `datasets`
            array = array.storage
        n_frames, shape = len(array), shape or self.shapes[key]
        while isinstance(array, arrow.ListArray | arrow.LargeListArray | arrow.FixedSizeListArray):
            sizes = compute.list_value_length(array).unique().to_pylist()
            if len(sizes) > 1 or None in sizes:
                raise ValueError(f"{self.source}: rows of `{key}` must be of one size, got {sizes}; repair the episode")
            array = array.flatten()
        if array.null_count:
            raise ValueError(f"{self.source}: `{key}` lacks {array.null_count} values; repair or leave out the episode")
        values = array.to_numpy(zero_copy_only=False)
        if values.dtype.kind not in "fiub":
            raise TypeError(f"{self.source}: `{key}` must be numbers, got {array.type}")
        if len(values) != n_frames * math.prod(shape):
            raise ValueError(f"{self.source}: a row of `{key}` must be of shape {shape}, got {len(values) // n_frames} values")
        with np.errstate(over="ignore"):
            return values.reshape(n_frames, *shape).astype(np.float32)


class _Contents:
    """What a data set says of itself: features, tasks, and which file holds which episode."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder
        if not folder.is_dir():
            raise ValueError(f"{name}: there is no such folder; give the one that holds {_INFO}")
        with _sound(name, folder / _INFO):
            info = json.loads((folder / _INFO).read_text(encoding="utf-8"))
            version = str(info.get("codebase_version"))
        if version not in _TASKS:
            raise ValueError(
                f"{name}: is of LeRobot's version {version}, and {' and '.join(_TASKS)} are read. LeRobot's own scripts"
                " convert it: convert_dataset_v20_to_v21 (in its releases of v2.1), then convert_dataset_v21_to_v30"
            )
        with _sound(name, folder / _INFO):
            self._data_path = str(info["data_path"])
            self._chunks_size = int(info.get("chunks_size", 1_000))  # LeRobot's own default
            self._dtypes = {key: str(feature["dtype"]) for key, feature in info["features"].items()}
            numbers = [key for key, dtype in self._dtypes.items() if dtype in _NUMBERS]
            self.shapes = {key: tuple(map(int, info["features"][key]["shape"])) or (1,) for key in numbers}
        if _ACTION not in self.shapes:
            raise ValueError(f"{name}: there is no feature `{_ACTION}` of numbers, which a policy is to learn")
        self._v2 = version == "v2.1"
        tables = [folder / "meta/episodes.jsonl"] if self._v2 else sorted((folder / "meta/episodes").glob("*/*.parquet"))
        self.tasks = self._read_tasks(folder / _TASKS[version])
        self._entries = sorted(entry for table in tables for entry in self._read_entries(table))  # index, n_frames, file
        self.n_episodes = info.get("total_episodes", len(self._entries))
        if self.n_episodes != len(self._entries) or not self._entries:
            counted = f"{_INFO} speaks of {self.n_episodes} episodes, and meta/episodes of {len(self._entries)}"
            raise ValueError(f"{name}: {counted}; download or record the data set again")
        data = dict.fromkeys(file for _, _, file in self._entries)
        self.files = [folder / _INFO, folder / _TASKS[version], *tables, *data]

    def _read_tasks(self, path: Path) -> dict[int, str]:
        with _sound(self._name, path):
            rows = list(self._rows(path))
            key = "__index_level_0__" if "task" not in rows[0] else "task"  # pandas' name of an index that has none
            return {int(row["task_index"]): row[key].strip() for row in rows}

    def _read_entries(self, table: Path) -> Iterator[tuple[int, int, Path]]:
        columns = ["data/chunk_index", "data/file_index", "episode_index", "length"]  # there are hundreds of statistics
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
        """Features to observe, as a list."""
        keys = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        known = [key for key in self.shapes if key not in _NO_OBSERVATION]
        if not keys or not all(isinstance(key, str) for key in keys):
            raise TypeError(f"{self._name}: `observation_key` must be a name or several, of {known}; got {given!r}")
        for key in keys:
            if key not in known:
                dtype = self._dtypes.get(key)
                reason = f"{key!r} is no observation of numbers, but {dtype}" if dtype else f"there is no feature {key!r}"
                raise ValueError(f"{self._name}: {reason}; `observation_key` may name {known}")
        return keys

    def action_space(self) -> spaces.Box:
        """From the smallest to the largest value of each entry, over all frames."""
        low = np.full(self.shapes[_ACTION], np.inf, np.float32)
        high = -low
        for frames in self.frames([_ACTION]):
            actions = frames.floats(_ACTION)
            known = np.isfinite(actions)  # the others are refused when their episode is read
            low = np.minimum(low, np.where(known, actions, np.inf).min(axis=0))
            high = np.maximum(high, np.where(known, actions, -np.inf).max(axis=0))
        low, high = np.where(low <= high, low, 0.0), np.where(low <= high, high, 0.0)
        # What never moved could not be scaled to [-1, 1]. A very large float32 is the same as its sum with 1.
        room = np.where(low < high, 0.0, np.maximum(1.0, np.spacing(np.abs(low))))
        return spaces.Box(low - room, high + room, dtype=np.float32)

    def frames(self, keys: Sequence[str]) -> Iterator[_Frames]:
        """Read the episodes in the order of their numbers; one file is open at a time."""
        for path, entries in groupby(self._entries, key=lambda entry: entry[2]):
            with _sound(self._name, path):
                runs = groupby(_pieces(self._batches(path, ["episode_index", *keys])), key=lambda piece: piece[0])
                for index, n_frames, _ in entries:
                    found, run = next(runs, (None, ()))
                    pieces = [piece for _, piece in run]
                    n_found = sum(map(len, pieces))
                    if (found, n_found) != (index, n_frames):
                        said = f"{n_frames} frames of episode {index}"
                        raise ValueError(f"it holds {n_found} frames of episode {found}, and meta/episodes says {said}")
                    yield _Frames(f"{self._name}, episode {index}", pieces, self.shapes)
                if extra := next(runs, None):
                    raise ValueError(f"it holds episode {extra[0]} besides those that meta/episodes speaks of")


def _pieces(batches: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
    """Batches cut where the episode changes, each piece with the number of its episode."""
    for batch in batches:
        indices = batch.column("episode_index").to_numpy(zero_copy_only=False)
        cuts = (np.flatnonzero(np.diff(indices)) + 1).tolist()
        for start, stop in pairwise([0, *cuts, len(indices)]):
            yield indices[start].item(), batch.slice(start, stop - start)


@contextmanager
def _sound(source: str, path: Path) -> Iterator[None]:
    """Whatever goes wrong in reading a file, in a sentence that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{source}: {path} is missing; download the whole data set") from error
    except _BROKEN as error:
        reason = f"damaged or half-written ({type(error).__name__}: {error})"
        raise ValueError(f"{source}: {path} is {reason}; download or record the data set again") from error
