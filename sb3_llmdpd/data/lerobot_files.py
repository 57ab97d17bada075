"""Opens the files of LeRobot data sets: tables of features, tasks and episodes, and frames by episode."""

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space, spaces

from sb3_llmdpd.checkpoint.values import space_from_json
from sb3_llmdpd.common.optional_imports import require
from sb3_llmdpd.data.checks import check_bounded, one_line, parts_of
from sb3_llmdpd.data.spaces import widened

ACTION, REWARD, DONE, SUCCESS = "action", "next.reward", "next.done", "next.success"
TIME, FRAME, EPISODE, ROW, TASK = "timestamp", "frame_index", "episode_index", "index", "task_index"

WHOLE_NUMBERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)} | {"bool"}
_NUMBERS = {"float16", "float32", "float64"} | WHOLE_NUMBERS

INFO = Path("meta", "info.json")
_TASKS = {"v2.1": Path("meta", "tasks.jsonl"), "v3.0": Path("meta", "tasks.parquet")}
"""Table of the task strings by the version of the format."""

NOTES = Path("meta", "sb3_llmdpd.json")
"""File of all that `write_lerobot` knows and LeRobot's own files do not hold. LeRobot ignores it."""

NOTES_VERSION = 1
NOTED = ("task", "task_texts", "success", "first_success", "goal", "terminated", "rewarded")
"""Fields of an episode that the notes hold."""

_FETCHED = ["meta/*", "meta/**", "data/**"]
"""Patterns of the files that are fetched: videos are not read."""

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", flags=re.ASCII)

_BATCH = 4_096
"""Frames that are decoded at once."""

_MISREAD = (LookupError, TypeError, AttributeError, ArithmeticError, NotImplementedError)
_BROKEN = (OSError, EOFError, ValueError, *_MISREAD)
"""Errors of reading a damaged file; arrow's are of these kinds, too."""


def find_folder(name: str) -> Path:
    """Find a data set on disk, or fetch it from the Hugging Face hub.

    :param name: folder, in which ``~`` is the home folder; or, where there is none, an id ``user/name`` of
        the hub. LeRobot's own folder is looked into first: ``$HF_LEROBOT_HOME``, by default
        ``~/.cache/huggingface/lerobot``.
    :return: the folder that holds ``meta``.
    :raises ValueError: when there is no such folder, and no data set of that id could be fetched.
    :raises ImportError: when huggingface_hub is needed and not installed.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(name):
        raise ValueError(f"{name}: there is no such folder; give the one that holds {INFO}")
    cache = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    own = Path(os.environ.get("HF_LEROBOT_HOME") or cache / "lerobot", name).expanduser()
    return own if (own / INFO).is_file() else _fetched(name)


def _fetched(hub_id: str) -> Path:
    hub = require("huggingface_hub", "lerobot")
    try:
        return Path(hub.snapshot_download(hub_id, repo_type="dataset", allow_patterns=_FETCHED))
    except Exception as error:  # its HTTP library has errors of its own, and changes between versions
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"{hub_id}: there is no such folder, and no such data set could be fetched from the Hugging Face"
            f" hub ({reason}). Give the folder that holds {INFO}, or fetch it where there is a network:"
            f" hf download {hub_id} --repo-type dataset --local-dir {hub_id.rpartition('/')[2]}"
        ) from error


class Frames(NamedTuple):
    """The rows of one episode, not decoded yet: record batches of arrow, and shapes by feature.

    ``order`` holds the numbers of the rows in the order of the frames; None where they have it already.
    """

    source: str
    episode: int
    pieces: list[Any]
    shapes: dict[str, tuple[int, ...]]
    order: np.ndarray | None = None

    def in_order(self) -> "Frames":
        """Return the frames in the order of ``frame_index``, where that is recorded.

        :raises ValueError: when two frames have the same one.
        """
        if not all(FRAME in piece.schema.names for piece in self.pieces):
            return self
        numbers = self.column(FRAME).astype(np.float64)  # differences of unsigned ones would wrap
        if (np.diff(numbers) > 0).all():
            return self
        order = np.argsort(numbers, kind="stable")
        if len(twice := np.flatnonzero(np.diff(numbers[order]) == 0)):
            raise ValueError(
                f"{self.source}: two frames have the `{FRAME}` {numbers[order][twice[0]]:g}, which says their"
                " order; record or merge the data set again"
            )
        return self._replace(order=order)

    def column(self, key: str) -> np.ndarray:
        """Read a feature of a single number, (n_frames,); zeros where an optional one is not there."""
        if key not in self.pieces[0].schema.names:
            return np.zeros(sum(map(len, self.pieces)), np.float32)
        return self.values(key, (1,))[:, 0]

    def joined(self, keys: Sequence[str]) -> np.ndarray:
        """Read one feature in its own shape, or several side by side, (n_frames, size), as float32."""
        arrays = [self.floats(key) for key in keys]
        return arrays[0] if len(arrays) == 1 else np.hstack([rows.reshape(len(rows), -1) for rows in arrays])

    def floats(self, key: str) -> np.ndarray:
        """Read a feature in its own shape, (n_frames, *shape), as float32 with infinities."""
        with np.errstate(over="ignore"):
            return self.values(key, self.shapes[key]).astype(np.float32)

    def values(self, key: str, shape: tuple[int, ...]) -> np.ndarray:
        """Read a feature in the shape given, (n_frames, *shape), in the type that it is stored in."""
        arrow, compute = require("pyarrow", "lerobot"), require("pyarrow.compute", "lerobot")
        array = arrow.concat_arrays([piece.column(key) for piece in self.pieces])
        if isinstance(array, arrow.ExtensionArray):  # of several axes, where `datasets` is imported
            array = array.storage
        n_frames = len(array)
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
        rows = values.reshape(n_frames, *shape)
        return rows if self.order is None else rows[self.order]


class Notes(NamedTuple):
    """Notes of `write_lerobot` on a data set.

    ``features`` name the feature of each entry of an observation, that of the key ``""`` where it is a single
    array; ``episodes`` hold the fields `NOTED` of each.
    """

    observation_space: Space[Any]
    action_space: spaces.Box
    features: dict[str, str]
    episodes: list[dict[str, Any]]


class _Entry(NamedTuple):
    """A row of the table of episodes, ``episode`` its number; ``sentences`` are the strings of its tasks."""

    episode: int
    n_frames: int
    path: Path
    sentences: tuple[str, ...]


class Contents:
    """The tables of a data set: features, tasks, and the files of the episodes.

    :param name: name of the source, as `find_folder` takes it.
    :raises ValueError: when it is not there, damaged, incomplete or of another version.
    """

    def __init__(self, name: str) -> None:
        folder = find_folder(name)
        self._name, self._folder = name, folder
        with _sound(name, folder / INFO):
            info = json.loads((folder / INFO).read_text(encoding="utf-8"))
            version = str(info.get("codebase_version"))
        if version not in _TASKS:
            raise ValueError(
                f"{name}: is of LeRobot's version {version}, and {' and '.join(_TASKS)} are read. LeRobot's"
                " own scripts convert what is older, one after the other: convert_dataset_v1_to_v2,"
                " convert_dataset_v20_to_v21, convert_dataset_v21_to_v30, each in its releases of the version"
                " that it makes. What is newer needs a newer sb3_llmdpd"
            )
        with _sound(name, folder / INFO):
            self._data_path = str(info["data_path"])
            self._chunks_size = int(info.get("chunks_size", 1_000))  # LeRobot's own default
            self.dtypes = {key: str(feature["dtype"]) for key, feature in info["features"].items()}
            numbers = [key for key, dtype in self.dtypes.items() if dtype in _NUMBERS]
            self.shapes = {key: tuple(map(int, info["features"][key]["shape"])) or (1,) for key in numbers}
        self._v2 = version == "v2.1"
        tables = [folder / "meta/episodes.jsonl"]
        if not self._v2:
            tables = sorted((folder / "meta/episodes").glob("*/*.parquet"))
        self.tasks = self._read_tasks(folder / _TASKS[version])
        self._entries = sorted(entry for table in tables for entry in self._read_entries(table))
        n_entries = len({entry.episode for entry in self._entries})
        self.n_episodes = info.get("total_episodes", n_entries)
        if self.n_episodes != len(self._entries) or not n_entries or n_entries < len(self._entries):
            counted = f"{INFO} speaks of {self.n_episodes} episodes, and meta/episodes of {n_entries}"
            raise ValueError(f"{name}: {counted}; download or record the data set again")
        self._data = self._data_files()
        notes = [folder / NOTES] if (folder / NOTES).is_file() else []
        self.files = [folder / INFO, folder / _TASKS[version], *notes, *tables, *self._data]

    def _read_tasks(self, path: Path) -> dict[int, str]:
        with _sound(self._name, path):
            rows = list(self._rows(path))
            key = "task" if "task" in rows[0] else "__index_level_0__"  # pandas' name of a nameless index
            return {int(row["task_index"]): row[key].strip() for row in rows}

    def _read_entries(self, table: Path) -> Iterator[_Entry]:
        # All columns would be read otherwise, hundreds of statistics among them.
        columns = ["data/chunk_index", "data/file_index", "episode_index", "length"]
        with _sound(self._name, table):
            for row in self._rows(table, columns, ["tasks"]):
                episode, n_frames = int(row["episode_index"]), int(row["length"])
                if n_frames < 1:
                    raise ValueError(f"episode {episode} has {n_frames} frames")
                place = {"episode_index": episode, "episode_chunk": episode // self._chunks_size}
                if not self._v2:
                    place = {key: int(row[f"data/{key}"]) for key in ("chunk_index", "file_index")}
                sentences = tuple(str(text).strip() for text in row.get("tasks") or ())
                yield _Entry(episode, n_frames, self._folder / self._data_path.format(**place), sentences)

    def _data_files(self) -> list[Path]:
        """List the files of the frames, in the order of their numbers.

        Those of v3.0 are all that are there: the file that the table names for an episode may be wrong, since
        the converter of lerobot 0.4.0 named the one before for the first episode of a file.
        """
        named = dict.fromkeys(entry.path for entry in self._entries)
        if missing := [path for path in named if not path.is_file()]:
            raise _missing(self._name, missing[0])
        if self._v2:
            return list(named)
        with _sound(self._name, self._folder / INFO):
            pattern = "*".join(map(escape, re.split(r"\{[^{}]*\}", self._data_path)))
            found = [path for path in self._folder.glob(pattern) if path.is_file()]
        return sorted({*named, *found}, key=self._number)

    def _number(self, path: Path) -> tuple[list[int], str]:
        """Return the key by which file 9 comes before file 10."""
        place = str(path.relative_to(self._folder))
        return list(map(int, re.findall(r"\d+", place))), place

    def _rows(
        self, path: Path, columns: list[str] | None = None, optional: Sequence[str] = ()
    ) -> Iterator[dict[str, Any]]:
        if self._v2:
            yield from map(json.loads, filter(str.strip, path.read_text(encoding="utf-8").split("\n")))
        else:
            for batch in self._batches(path, columns, optional):
                yield from batch.to_pylist()

    def _batches(
        self, path: Path, columns: list[str] | None = None, optional: Sequence[str] = ()
    ) -> Iterator[Any]:
        """Decode a file piece by piece: all columns, or those given and the optional ones that it has."""
        with require("pyarrow.parquet", "lerobot").ParquetFile(path) as file:
            there = set(file.schema_arrow.names)
            if lacking := set(columns or ()) - there:
                raise ValueError(f"it lacks the columns {sorted(lacking)}")
            read = None if columns is None else [*columns, *(name for name in optional if name in there)]
            yield from file.iter_batches(_BATCH, columns=read)

    def shape(self, keys: Sequence[str]) -> tuple[int, ...]:
        """Compute the shape of a row of `Frames.joined`."""
        shapes = [self.shapes[key] for key in keys]
        return shapes[0] if len(shapes) == 1 else (sum(map(math.prod, shapes)),)

    def extremes(self, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Measure features over all frames.

        :return: the smallest and the largest finite value of each entry of `Frames.joined`, each of the shape
            of a row; infinite where there is none.
        """
        low = np.full(self.shape(keys), np.inf, np.float32)
        high = -low
        for frames in self.frames(keys):
            low, high = widened(low, high, frames.joined(keys))
        return low, high

    def frames(self, keys: Sequence[str]) -> Iterator[Frames]:
        """Read the episodes one after the other, each when its last frame was found; one file is open.

        :param keys: features of numbers that are read.
        :raises ValueError: when a file is damaged, or an episode has not as many frames as the table says.
        """
        columns = list(dict.fromkeys([EPISODE, *keys]))
        if not self._v2:
            yield from self._gathered(self._data, self._entries, columns)
            return
        for entry in self._entries:
            yield from self._gathered([entry.path], [entry], columns)

    def _gathered(
        self, paths: Sequence[Path], entries: Sequence[_Entry], columns: list[str]
    ) -> Iterator[Frames]:
        """Put the rows of files together to episodes; only those that lack frames are kept meanwhile."""
        said = {entry.episode: entry.n_frames for entry in entries}
        lacking, pending = dict(said), dict[int, list[Any]]()
        for path in paths:
            for episode, piece in self._pieces(path, columns):
                source = f"{self._name}, episode {episode}"
                if episode not in lacking:
                    raise _contradiction(source, f"{path} holds it, and meta/episodes does not")
                lacking[episode] -= len(piece)
                pending.setdefault(episode, []).append(piece)
                if lacking[episode] < 0:
                    raise _contradiction(source, f"has more frames than the {said[episode]} of meta/episodes")
                if not lacking[episode]:
                    yield Frames(source, episode, pending.pop(episode), self.shapes).in_order()
        for episode, n_lacking in lacking.items():
            if n_lacking:
                counts = f"has {said[episode] - n_lacking} frames, and meta/episodes says {said[episode]}"
                raise _contradiction(f"{self._name}, episode {episode}", counts)

    def _pieces(self, path: Path, columns: list[str]) -> Iterator[tuple[Any, Any]]:
        """Decode the frames of a file piece by piece; each piece comes with the number of its episode."""
        with _sound(self._name, path):
            for batch in self._batches(path, columns, [FRAME]):
                indices = batch.column(EPISODE).to_numpy(zero_copy_only=False)
                for episode in dict.fromkeys(indices.tolist()):
                    rows = np.flatnonzero(indices == episode)
                    # A copy, not a slice, which would keep the batch for as long as an episode lacks frames.
                    whole = len(rows) == len(batch)
                    yield episode, batch if whole else batch.take(require("pyarrow", "lerobot").array(rows))

    def notes(self) -> Notes | None:
        """Read what `write_lerobot` noted, None where it wrote no notes here.

        :raises ValueError: when these are not what it writes, or the tables have changed since.
        """
        path = self._folder / NOTES
        if not path.is_file():
            return None
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            if said["version"] != NOTES_VERSION:
                raise ValueError(f"it is of version {said['version']!r}, and {NOTES_VERSION} is known here")
            read = [{name: each[name] for name in NOTED} for each in said["episodes"]]
            episodes = [{**each, "task_texts": tuple(each["task_texts"])} for each in read]
            action_space = check_bounded(space_from_json(said["action_space"]))
            notes = Notes(
                space_from_json(said["observation_space"]), action_space, said["features"], episodes
            )
            self._check_notes(notes, [each["n_steps"] for each in said["episodes"]])
        except _BROKEN as error:
            raise ValueError(str(error) if isinstance(error, ValueError) else repr(error)) from error
        return notes

    def _check_notes(self, notes: Notes, lengths: list[int]) -> None:
        """Raise a ValueError where notes are of other episodes or features than the tables."""
        found = [(entry.episode, entry.n_frames) for entry in self._entries]
        if found != [(index, n_steps + 1) for index, n_steps in enumerate(lengths)]:
            raise ValueError("the numbers or lengths of its episodes are not those of meta/episodes")
        known = set(self.tasks.values())
        for entry, episode in zip(self._entries, notes.episodes, strict=True):
            sentence = sentence_of(episode["task"], episode["task_texts"])
            if entry.sentences != (sentence,) or sentence not in known:
                raise ValueError(f"it has {sentence!r} for episode {entry.episode}, and the tables have not")
        parts: dict[str, Space[Any]] = {ACTION: notes.action_space}
        parts |= {notes.features[key]: part for key, part in parts_of(notes.observation_space).items()}
        for key, part in parts.items():
            if self.shapes.get(key) != part.shape or (key != ACTION and self.dtypes[key] != str(part.dtype)):
                raise ValueError(f"the feature `{key}` is not of its space {part}")


def sentence_of(task: str, task_texts: Sequence[str]) -> str:
    """Choose the string that LeRobot has for the task of an episode: its first sentence, else its name."""
    return (*task_texts, task)[0].strip()


@contextmanager
def _sound(source: str, path: Path) -> Iterator[None]:
    """Answer any error of reading a file with a sentence that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise _missing(source, path) from error
    except _BROKEN as error:
        reason = f"damaged or half-written ({one_line(error)})"
        raise ValueError(f"{source}: {path} is {reason}; download or record the data set again") from error


def _missing(source: str, path: Path) -> ValueError:
    return ValueError(f"{source}: {path} is missing; download the whole data set")


def _contradiction(source: str, reason: str) -> ValueError:
    return ValueError(f"{source}: {reason}; download or record the data set again")
