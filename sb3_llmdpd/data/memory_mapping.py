"""Data larger than memory: sources are read once into files that every training maps."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from sb3_llmdpd.checkpoint.values import space_to_json
from sb3_llmdpd.common.files import default_cache_directory
from sb3_llmdpd.data import stored_dataset as stored
from sb3_llmdpd.data.checks import entries_of
from sb3_llmdpd.data.episode_source import EpisodeSource, joint_spaces, refuse_unknown_texts
from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.fingerprint import episode_digest
from sb3_llmdpd.data.loading import open_sources
from sb3_llmdpd.data.stored_dataset import SAID, StoredDataset

_BUILDING = ".building-"


def memory_mapped(
    sources: str | EpisodeSource | Sequence[str | EpisodeSource],
    *,
    cache: str | Path | None = None,
    progress_bar: bool = False,
    **how: Any,
) -> StoredDataset:
    """Read data sets without holding them in memory.

    The first time they are read, checked and laid out in files, episode by episode. From then on the files
    are mapped, by any number of processes. They are built anew when a source has changed (sizes and times of
    its files, or options of reading), or when their sizes or checksums, compared each time, are wrong.

    :param sources: name of a source or several, see `format_of`, or sources; one without files is refused,
        since a change of it could not be noticed.
    :param cache: folder of the files, by default ``datasets`` in `default_cache_directory`; can be deleted.
    :param progress_bar: whether to show the progress of the first reading.
    :param how: further arguments of `open_sources`.
    :return: the data set.
    :raises ValueError: see `open_sources` and `read_sources`; nothing is left on disk then.
    :raises OSError: when the folder cannot be written to.
    """
    opened = open_sources([sources] if isinstance(sources, str | EpisodeSource) else list(sources), **how)
    if not opened:
        raise ValueError("`sources` names no data set; give at least one")
    identity = [_identity(source) for source in opened]
    parent = Path(cache).expanduser() if cache is not None else default_cache_directory() / "datasets"
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / _folder_name(identity)
    lock = FileLock(folder.with_suffix(".lock"))
    with lock:
        if not _is_of(folder, identity):
            _build(folder, opened, identity, progress_bar)
        about = stored.read_about(folder)
    if not _is_whole(folder, about):  # takes a second a gigabyte: not under the lock, for which others wait
        with lock:
            # Another process may have mended it meanwhile.
            if _is_of(folder, identity) and stored.read_about(folder) == about:
                _build(folder, opened, identity, progress_bar)
    return stored.open_stored(folder)


def _identity(source: EpisodeSource) -> dict[str, Any]:
    """Collect what decides the content of a source, as JSON values."""
    files = list(source.files())
    if not files:
        raise ValueError(
            f"{source.name} is no file, so that a change of it could not be noticed: write it to one, with"
            " write_npz or write_minari, and name that"
        )
    reading = source.reading
    bounds = reading.bounds_of(source.name, source.action_space.shape)
    said = {
        "kind": source.kind,
        "name": source.name,
        "options": source.options(),
        "task_texts": {key: list(texts) for key, texts in reading.task_texts.items()},
        "strict": reading.strict,
        "flatten": reading.flatten,
        "clip": reading.clip,
        "action_bounds": None if bounds is None else [bounds.low.tolist(), bounds.high.tolist()],
        "files": [[str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns] for path in files],
    }
    return dict(json.loads(json.dumps(said)))


def _folder_name(identity: Sequence[Mapping[str, Any]]) -> str:
    """Name the folder, the same before and after the sources change: stale files are replaced."""
    same = [{**each, "files": sorted(path for path, _, _ in each["files"])[:1]} for each in identity]
    return hashlib.blake2b(json.dumps([stored.FORMAT, same]).encode(), digest_size=12).hexdigest()


def _is_of(folder: Path, identity: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether the files are there, in their full length, and of these sources as they are now."""
    try:
        about = stored.read_about(folder)
        sizes = [((folder / name).stat().st_size, size) for name, (size, _) in about["files"].items()]
    except (OSError, ValueError, KeyError):
        return False
    return about.get("identity") == list(identity) and all(found == size for found, size in sizes)


def _is_whole(folder: Path, about: Mapping[str, Any]) -> bool:
    try:
        return all(stored.checksum(folder / name) == crc for name, (_, crc) in about["files"].items())
    except OSError:
        return False


def _build(
    folder: Path, sources: Sequence[EpisodeSource], identity: Sequence[Mapping[str, Any]], progress_bar: bool
) -> None:
    """Write the files and move them to their place. The lock is held: unfinished folders are dead."""
    for leftover in folder.parent.glob(f"{_BUILDING}{folder.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_BUILDING}{folder.name}-", dir=folder.parent) as temporary:
        new = Path(temporary, "new")
        new.mkdir()
        layout = _write(new, sources, progress_bar)
        written = {name: new / name for name in (stored.STEPS, stored.REWARDS, stored.EPISODES)}
        files = {name: [path.stat().st_size, stored.checksum(path)] for name, path in written.items()}
        about = {"format": stored.FORMAT, "identity": list(identity), "files": files, **layout}
        (new / stored.ABOUT).write_text(json.dumps(about, indent=1))
        if folder.exists():
            os.replace(folder, Path(temporary, "old"))  # whoever has mapped it keeps what it has
        os.replace(new, folder)


def _write(folder: Path, sources: Sequence[EpisodeSource], progress_bar: bool) -> dict[str, Any]:
    """Write all steps and episodes; returns the layout of a step, and the spaces."""
    observation_space, action_space = joint_spaces(sources)
    layout: dict[str, Any] = {}
    tasks: dict[str, None] = {}
    with (
        (folder / stored.STEPS).open("wb") as steps,
        (folder / stored.REWARDS).open("wb") as rewards,
        (folder / stored.EPISODES).open("w") as lines,
    ):
        for episode in _episodes(sources, progress_bar):
            layout = layout or _layout(episode)
            _write_steps(steps, episode, stored.record_dtype(**layout))
            rewards.write(np.append(episode.rewards, np.float32(0.0)).tobytes())
            said = {name: getattr(episode, name) for name in SAID}
            line = {"n_steps": len(episode), "digest": episode_digest(episode), "said": said}
            lines.write(json.dumps(line, default=np.generic.item) + "\n")
            tasks[episode.task] = None
    refuse_unknown_texts(sources, list(tasks))
    if not layout:
        raise ValueError(f"{' and '.join(source.name for source in sources)}: the data set holds no episode")
    spaces = {"observation_space": observation_space, "action_space": action_space}
    return layout | {name: space_to_json(space) for name, space in spaces.items()}


def _episodes(sources: Sequence[EpisodeSource], progress_bar: bool) -> Iterator[Episode]:
    with tqdm(unit=" steps", unit_scale=True, desc="Laying the data out", disable=not progress_bar) as bar:
        for source in sources:
            for episode in source.episodes():
                yield episode
                bar.update(len(episode))


def _layout(episode: Episode) -> dict[str, Any]:
    """Describe types and shapes, which are the same in all episodes, as their spaces are."""

    def entry(array: np.ndarray) -> dict[str, Any]:
        return {"dtype": array.dtype.str, "shape": list(array.shape[1:])}

    entries = {key: entry(rows) for key, rows in entries_of(episode.observations).items()}
    observations = {"keys": entries} if isinstance(episode.observations, dict) else entries[""]
    return {"observations": observations, "actions": entry(episode.actions)}


def _write_steps(file: BinaryIO, episode: Episode, dtype: np.dtype[Any]) -> None:
    rows = np.zeros(len(episode) + 1, dtype)
    rows["actions"][:-1] = episode.actions
    observations = rows["observations"]
    for key, value in entries_of(episode.observations).items():
        (observations[key] if key else observations)[...] = value
    rows.tofile(file)
