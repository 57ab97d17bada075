"""Writes episodes as one LeRobot data set, whole or not at all."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from sb3_llmdpd.checkpoint.values import space_to_json
from sb3_llmdpd.common.files import temporary_folder
from sb3_llmdpd.common.moments import Moments
from sb3_llmdpd.common.optional_imports import require
from sb3_llmdpd.data.checks import check_bounded, entries_of, parts_of
from sb3_llmdpd.data.episodes import Episode, checked_for_file
from sb3_llmdpd.data.lerobot_files import (
    ACTION,
    DONE,
    EPISODE,
    FRAME,
    INFO,
    NOTED,
    NOTES,
    NOTES_VERSION,
    REWARD,
    ROW,
    SUCCESS,
    TASK,
    TIME,
    sentence_of,
)
from sb3_llmdpd.data.spaces import check_flat, float32_space

_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_CHUNK = 1_000
"""Files in a folder, as LeRobot has them."""

_FILE_MB = 100
"""Size from which on the next episode begins a new file, as LeRobot has it."""

_MOST_AXES = 5
"""Axes of a feature that LeRobot can read."""

_TEMPORARY = ".sb3_llmdpd-writing-"
"""Beginning of the names of temporary folders, which no one else gives: old ones are removed."""

Rows = dict[str, np.ndarray]
"""The frames of an episode: (n_frames, *shape) by feature."""


def write_lerobot(
    folder: str | Path,
    episodes: Iterable[Episode],
    observation_space: Space[Any],
    action_space: spaces.Box,
    *,
    fps: float = 10.0,
) -> Path:
    """Write episodes as a LeRobotDataset of version v3.0, from which `LeRobotSource` reads equal ones.

    An episode of T steps has T + 1 frames: the last shows the result of the last action, and repeats that
    action. ``next.done`` is set in the frame of the last action, whatever ended the episode. ``next.reward``
    is there where any episode has rewards. ``next.success`` is there where success is known of all episodes:
    from the first success on, or, where its step is not known, from the last action on. The task is the first
    sentence, or, without any, the name of the task. ``meta/sb3_llmdpd.json`` holds what LeRobot's own files
    cannot.

    Episodes are written one at a time as they come, so that there may be more of them than fit into memory.
    Until the last one is written there is no data set, and when something fails there never is one.

    :param folder: new folder of the data set; ``~`` is the home folder.
    :param episodes: at least one.
    :param observation_space: space of the episodes: a Box of numbers, which becomes ``observation.state``, or
        a Dict of such, of which each becomes ``observation.KEY``. No images.
    :param action_space: space of the episodes, a Box with finite bounds.
    :param fps: frames a second, for the times of the frames.
    :return: the folder.
    :raises ValueError: when the folder is there already, there is no episode, one does not fit the spaces, or
        LeRobot's files cannot hold the spaces.
    :raises TypeError: when an entry is not an `Episode`, or ``fps`` is no number.
    :raises ImportError: when pyarrow is not installed.
    :raises OSError: when the files cannot be written.
    """
    name, target = str(folder), Path(folder).expanduser()
    _check_fps(fps)
    features = _features_of(name, observation_space)
    check_bounded(action_space, f"{name}: `action_space`")
    require("pyarrow.parquet", "lerobot")
    checked = checked_for_file(name, episodes, observation_space, action_space)
    with _whole_folder(target) as temporary:
        written = _Written(temporary, features, fps)
        with written.data:
            for episode, _ in checked:
                written.add(episode)
        written.finish(observation_space, action_space)
    return target


def _check_fps(fps: Any) -> None:
    if not isinstance(fps, int | float | np.floating | np.integer) or isinstance(fps, bool):
        raise TypeError(f"`fps` must be a number of frames a second, got {fps!r}")
    if not 0 < fps < math.inf:
        raise ValueError(f"`fps` must be a finite number of frames a second above 0, got {fps!r}")


def _features_of(name: str, observation_space: Space[Any]) -> dict[str, str]:
    """Name the feature of each entry of an observation, that of the key ``""`` where it is a single array.

    :raises ValueError: on entries that LeRobot's files cannot hold, or not apart.
    """
    check_flat(name, observation_space)
    if not isinstance(observation_space, spaces.Dict):
        features = {"": "observation.state"}
    else:  # a slash separates the parts of a name in LeRobot's statistics
        features = {key: f"observation.{key.replace('/', '.')}" for key in observation_space}
    for key, part in parts_of(observation_space).items():
        what = f"{name}: the observation {key!r} is {part}" if key else f"{name}: observations are {part}"
        if not isinstance(part, spaces.Box):
            raise ValueError(
                f"{what}, and only Boxes of numbers are written for LeRobot: write npz or Minari"
            )
        if part.dtype == np.uint8 and len(part.shape) == 3:
            raise ValueError(
                f"{what}, an image, and images are not written for LeRobot, which keeps them as videos: leave"
                " them out, or write npz or Minari"
            )
        if not 1 <= len(part.shape) <= _MOST_AXES or 0 in part.shape:
            raise ValueError(
                f"{what}, and LeRobot's features have 1 to {_MOST_AXES} axes, none of them empty: reshape it,"
                " or write npz or Minari"
            )
    if twice := [feature for feature, n in Counter(features.values()).items() if n > 1]:
        same = [key for key, feature in features.items() if feature == twice[0]]
        raise ValueError(
            f"{name}: the observations {same} would both be the feature {twice[0]!r}: rename one"
        )
    return features


class _Written:
    """A data set on its way into a folder: its data files, and what its tables will say of the episodes."""

    def __init__(self, folder: Path, features: Mapping[str, str], fps: float) -> None:
        self.data = _DataFiles(folder)
        self._folder, self._features, self._fps = folder, dict(features), float(fps)
        self._tasks: dict[str, int] = {}
        self._table: list[dict[str, Any]] = []
        self._noted: list[dict[str, Any]] = []
        self._moments: dict[str, Moments] = {}
        self._described: dict[str, dict[str, Any]] = {}
        self._n_frames = 0
        self._knows_success = True

    def add(self, episode: Episode) -> None:
        """Write the frames of an episode, and remember what the tables say of it."""
        sentence = sentence_of(episode.task, episode.task_texts)
        task = self._tasks.setdefault(sentence, len(self._tasks))
        rows = self._frames(episode, task)
        place = self.data.append(rows)
        for feature, values in rows.items():
            # LeRobot gives single numbers an axis.
            self._moments.setdefault(feature, Moments()).add(values[:, None] if values.ndim == 1 else values)
            described = {"dtype": str(values.dtype), "shape": list(values.shape[1:] or (1,)), "names": None}
            self._described.setdefault(feature, described)
        n_before, n_frames = self._n_frames, len(episode) + 1
        self._n_frames += n_frames
        self._table.append(
            {
                EPISODE: len(self._table),
                "tasks": [sentence],
                "length": n_frames,
                **{f"data/{key}": index for key, index in place.items()},
                "dataset_from_index": n_before,
                "dataset_to_index": self._n_frames,
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
            }
        )
        noted = {field: getattr(episode, field) for field in NOTED}
        self._noted.append({"n_steps": len(episode), **noted})

    def _frames(self, episode: Episode, task: int) -> Rows:
        n_steps, steps = len(episode), np.arange(len(episode) + 1)
        rows = {self._features[key]: values for key, values in entries_of(episode.observations).items()}
        rows[ACTION] = np.concatenate([episode.actions, episode.actions[-1:]])
        rows[REWARD] = np.append(episode.rewards, np.float32(0.0))
        rows[DONE] = steps == n_steps - 1
        # A column cannot be added to the frames that are written, but it can be left out of them at the end.
        self._knows_success &= episode.success is not None
        if self._knows_success or SUCCESS in self._described:
            first = n_steps - 1 if episode.first_success is None else episode.first_success
            rows[SUCCESS] = (steps >= first) & bool(episode.success)
        rows[TIME] = (steps / self._fps).astype(np.float32)
        rows[FRAME], rows[ROW] = steps, self._n_frames + steps
        rows[EPISODE], rows[TASK] = np.full_like(steps, len(self._table)), np.full_like(steps, task)
        return rows

    def finish(self, observation_space: Space[Any], action_space: spaces.Box) -> None:
        """Write the tables, and leave out of the data what is not known of the episodes."""
        unknown = [] if self._knows_success else [SUCCESS]
        if not any(noted["rewarded"] for noted in self._noted):
            unknown.append(REWARD)
        left_out = [feature for feature in unknown if feature in self._described]
        self.data.leave_out(left_out)
        described = {key: value for key, value in self._described.items() if key not in left_out}
        (self._folder / "meta/episodes/chunk-000").mkdir(parents=True)
        self._write_json(INFO, self._info(described), indent=4)
        stats = {key: _stats(self._moments[key]) for key in described}
        self._write_json(Path("meta", "stats.json"), stats, indent=4)
        arrow, parquet = require("pyarrow", "lerobot"), require("pyarrow.parquet", "lerobot")
        table = arrow.Table.from_pylist(self._table)
        parquet.write_table(table, self._folder / "meta/episodes/chunk-000/file-000.parquet")
        tasks = arrow.table({TASK: list(self._tasks.values()), "task": list(self._tasks)})
        tasks = tasks.replace_schema_metadata({"pandas": json.dumps(_INDEXED_BY_TASK)})
        parquet.write_table(tasks, self._folder / "meta/tasks.parquet")
        self._write_json(
            NOTES,
            {
                "version": NOTES_VERSION,
                "observation_space": space_to_json(float32_space(observation_space)),
                "action_space": space_to_json(float32_space(action_space)),
                "features": self._features,
                "episodes": self._noted,
            },
        )

    def _info(self, described: dict[str, dict[str, Any]]) -> dict[str, Any]:
        return {
            "codebase_version": "v3.0",
            "robot_type": None,
            "total_episodes": len(self._table),
            "total_frames": self._n_frames,
            "total_tasks": len(self._tasks),
            "chunks_size": _CHUNK,
            "data_files_size_in_mb": _FILE_MB,
            "video_files_size_in_mb": 2 * _FILE_MB,
            "fps": int(self._fps) if self._fps.is_integer() else self._fps,
            "splits": {"train": f"0:{len(self._table)}"},
            "data_path": _DATA,
            "video_path": None,
            "features": described,
        }

    def _write_json(self, place: Path, value: Any, indent: int | None = None) -> None:
        text = json.dumps(value, indent=indent, default=np.generic.item)  # numpy's numbers are no JSON
        (self._folder / place).write_text(text, encoding="utf-8")


_INDEXED_BY_TASK = {
    "index_columns": ["task"],
    "column_indexes": [],
    "columns": [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": dtype, "metadata": None}
        for name, kind, dtype in ((TASK, "int64", "int64"), ("task", "unicode", "object"))
    ],
}
"""Metadata that pandas, by which LeRobot reads the table of the tasks, needs to find its index."""


class _DataFiles:
    """The files of the frames, one row group an episode; a context that closes the last one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: list[Path] = []
        self._writer: Any = None
        self._file: Any = None

    def __enter__(self) -> "_DataFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def append(self, rows: Rows) -> dict[str, int]:
        """Write the frames of an episode, and return the indices of its chunk and file."""
        table = require("pyarrow", "lerobot").table({key: _column(values) for key, values in rows.items()})
        if self._writer is None or self._file.tell() >= _FILE_MB * 2**20:
            self._open(table.schema)
        self._writer.write_table(table)
        return _place(len(self._paths) - 1)

    def _open(self, schema: Any) -> None:
        self._close()
        path = self._folder / _DATA.format(**_place(len(self._paths)))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._paths.append(path)
        self._file = path.open("wb")
        self._writer = require("pyarrow.parquet", "lerobot").ParquetWriter(self._file, schema)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._file.close()
            self._writer = None

    def leave_out(self, features: list[str]) -> None:
        """Write all files again without features, one episode at a time."""
        parquet = require("pyarrow.parquet", "lerobot")
        for path in self._paths if features else ():
            shorter = path.with_suffix(".shorter")
            with parquet.ParquetFile(path) as file:
                kept = [name for name in file.schema_arrow.names if name not in features]
                fields = [file.schema_arrow.field(name) for name in kept]
                with parquet.ParquetWriter(shorter, require("pyarrow", "lerobot").schema(fields)) as writer:
                    for group in range(file.num_row_groups):
                        writer.write_table(file.read_row_group(group).select(kept))
            os.replace(shorter, path)


def _place(number: int) -> dict[str, int]:
    """Return the indices of the chunk and of the file in it."""
    chunk, file = divmod(number, _CHUNK)
    return {"chunk_index": chunk, "file_index": file}


def _column(values: np.ndarray) -> Any:
    """Make an array of arrow as LeRobot has it: numbers, lists of a fixed size, or lists of lists."""
    arrow = require("pyarrow", "lerobot")
    *outer, size = values.shape[1:] or (1,)
    flat = arrow.array(np.ascontiguousarray(values).reshape(-1))
    if not outer:
        return flat if size == 1 else arrow.FixedSizeListArray.from_arrays(flat, size)
    for length in reversed([*outer, size]):
        flat = arrow.ListArray.from_arrays(np.arange(0, len(flat) + 1, length, dtype=np.int32), flat)
    return flat


def _stats(moments: Moments) -> dict[str, list[Any]]:
    """Return the moments of a feature under LeRobot's names."""
    values = {"min": moments.low, "max": moments.high, "mean": moments.mean, "std": moments.deviation}
    return {**{name: value.tolist() for name, value in values.items()}, "count": [moments.n]}


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to fill, which takes its place when the block ends well, or disappears.

    :raises ValueError: when there is something at its place.
    """
    if os.path.lexists(folder):
        raise ValueError(
            f"{folder} is there already, and a data set is never overwritten: delete it, or give another"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder.parent, _TEMPORARY) as temporary:
        inside = temporary / folder.name
        inside.mkdir()
        yield inside
        os.replace(inside, folder)
