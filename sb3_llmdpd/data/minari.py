"""Reads Minari data sets, one or many, into episodes that carry their task's sentence."""

import difflib
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_llmdpd.common.optional_imports import require
from sb3_llmdpd.data.checks import Observations
from sb3_llmdpd.data.episode_source import AS_RECORDED, EpisodeSource, Reading, Record, read_sources
from sb3_llmdpd.data.episodes import OfflineDataset

TEXT_KEYS = ("task_texts", "task_text", "language_instruction", "task", "mission")
"""Names under which data sets keep their sentence, best first."""


def load_minari(
    ids: str | Sequence[str],
    *,
    task_texts: Mapping[str, str | Sequence[str]] | None = None,
    root: str | Path | None = None,
    strict: bool = False,
    flatten: bool = False,
) -> OfflineDataset:
    """Read local Minari data sets into memory, as `MinariSource` says.

    :param ids: one Minari id or several, e.g. ``"metaworld/drawer-open-v0"``. All must share their spaces.
    :param task_texts: sentence, or several phrasings, by Minari id or by task.
    :param root: folder of the data sets, see `datasets_root`.
    :param strict: as in `Reading`, as is ``flatten``.
    :return: all episodes.
    :raises ValueError: when an id is missing, a file damaged, a number NaN, a text empty, or spaces differ.
    """
    if not ids:
        raise ValueError("`ids` names no data set; give at least one, e.g. 'metaworld/drawer-open-v0'")
    reading = Reading(task_texts or {}, strict, flatten)
    names = [ids] if isinstance(ids, str) else ids
    return read_sources([MinariSource(name, root=root, reading=reading) for name in names])


class MinariSource(EpisodeSource):
    """A local Minari data set, in any of Minari's file formats.

    The sentence of an episode is looked up in this order: `Reading.task_texts`; the episode's metadata
    (``task_texts``, ``task_text``, ``language_instruction``, ``task``, ``mission``); an entry ``task_text``
    or ``mission`` of a Dict observation, which is then taken out of it; the data set's metadata; with a
    warning its description, or the ``env_name`` of its environment. Without any there is no text prompt.

    Its task is ``task_id`` of the metadata; else the data set, or, where sentences differ within it, data set
    and sentence. A time limit is no termination.

    :param name: Minari id.
    :param root: folder of the data sets, see `datasets_root`.
    :param reading: options of reading, see `Reading`.
    :raises ValueError: when the id is not there, the files are damaged, or no policy reads the spaces.
    """

    kind = "minari"
    text_is_guessed = False
    """True where `records` took the description or the environment's name for the sentence."""

    def __init__(self, name: str, *, root: str | Path | None = None, reading: Reading = AS_RECORDED) -> None:
        folder = datasets_root(root)
        self._dataset = _open(name, folder)
        self._folder = folder / name / "data"
        space = self._dataset.observation_space
        self._sentences: list[str] = []
        if isinstance(space, spaces.Dict):
            self._sentences = [key for key, part in space.items() if isinstance(part, spaces.Text)]
            space = spaces.Dict({key: part for key, part in space.items() if key not in self._sentences})
        super().__init__(name, space, self._dataset.action_space, reading)

    def files(self) -> Sequence[Path]:
        """See `EpisodeSource.files`."""
        return sorted(path for path in self._folder.rglob("*") if path.is_file())

    def records(self) -> Iterator[Record]:
        """See `EpisodeSource.records`."""
        name, given = self.name, self.reading.task_texts
        texts = [row.texts for row in self._rows(whole=bool(self._sentences))]  # a pass that keeps no episode
        several = len(set(texts)) > 1
        common = () if self.names & set(given) or all(texts) else _dataset_texts(name, self._dataset)
        self.text_is_guessed = bool(common) and not _texts(self._dataset.storage.metadata)
        for row in self._rows(whole=True):
            success, first_success = row.success
            unnamed = f"{name}: {row.texts[0]}" if several and row.texts else name
            yield {
                "observations": row.observations,
                "actions": row.record["actions"],
                "rewards": row.record["rewards"],
                "task": _text(row.metadata.get("task_id")) or unnamed,
                "task_texts": row.texts or common,
                "terminated": bool(row.record["terminations"][-1]),
                "success": success,
                "first_success": first_success,
                "goal": _text(row.metadata.get("goal_id")),
                "source": row.source,
            }

    def _rows(self, whole: bool) -> Iterator["_Row"]:
        """Read the episodes as Minari has them; unless ``whole``, only their metadata."""
        indices, storage = self._dataset.episode_indices, self._dataset.storage
        records = storage.get_episodes(indices) if whole else None
        metadata = storage.get_episode_metadata(indices)
        for index in indices:
            source = f"{self.name}, episode {index}"
            with _sound(source):
                record, entry = {} if records is None else next(records), next(metadata)
                if whole and not len(record["terminations"]):
                    raise ValueError("`terminations` is empty")
            observations = record.get("observations", {})
            sentences: dict[str, Any] = {}
            if isinstance(observations, dict):
                sentences = {key: observations[key][0] for key in self._sentences}
                observations = {key: value for key, value in observations.items() if key not in sentences}
            texts = _texts(entry) or _texts(entry.get("options") or {}) or _texts(sentences)
            yield _Row(source, observations, record, entry, texts)


def datasets_root(root: str | Path | None = None) -> Path:
    """Find the folder of Minari data sets.

    :param root: a folder of one's own, or None.
    :return: that folder, else $MINARI_DATASETS_PATH, else ~/.minari/datasets; absolute, as Minari wants it.
    """
    return Path(root or os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser().resolve()


def local_ids(root: str | Path | None = None) -> list[str]:
    """List the local Minari data sets.

    :param root: as in `datasets_root`.
    :return: their ids, sorted; half-written data sets are left out.
    """
    folder = datasets_root(root)
    found = folder.glob("**/data/metadata.json")
    ids = sorted(path.parents[1].relative_to(folder).as_posix() for path in found)
    return [name for name in ids if not name.startswith(".")]


@dataclass(frozen=True)
class _Row:
    """One episode as Minari has it, with the sentences taken out of its observations."""

    source: str
    observations: Observations
    record: dict[str, Any]
    metadata: dict[str, Any]
    texts: tuple[str, ...]

    @property
    def success(self) -> tuple[bool | None, int | None]:
        """Success, and the first step with it; None where nothing tells."""
        n_steps = len(self.record["actions"])
        success: bool | None = None
        first: int | None = None
        steps = np.asarray((self.record["infos"] or {}).get("success", ()))
        if steps.shape in ((n_steps,), (n_steps + 1,)):  # with or without the reset's
            success = bool(steps[-n_steps:].any())
            first = int(steps[-n_steps:].astype(bool).argmax()) if success else None
        if "success" in self.metadata:
            success = bool(self.metadata["success"])
        if "first_success" in self.metadata:
            first = int(self.metadata["first_success"])
        return success, first if first is not None and first >= 0 else None


def _open(name: str, folder: Path) -> Any:
    path = folder / name / "data"
    if not path.is_dir():
        local = local_ids(folder)
        near = difflib.get_close_matches(name, local, n=3) or local[:3]
        nearest = f"nearest there: {', '.join(near)}" if near else "there is none at all"
        raise ValueError(
            f"no Minari data set {name!r} in {folder} (`root` or $MINARI_DATASETS_PATH name another folder);"
            f" {nearest}. Fetch a published one with: minari download {name}"
        )
    with _sound(name):
        dataset = require("minari", "all").MinariDataset(path)
    if not len(dataset):
        raise ValueError(f"{name}: the data set holds no episode")
    return dataset


@contextmanager
def _sound(source: str) -> Iterator[None]:
    """Answer errors of reading the files with a sentence that names the source."""
    try:
        yield
    except (OSError, KeyError, ValueError, RuntimeError, StopIteration) as error:
        reason = f"the files are damaged or half-written ({type(error).__name__}: {error})"
        raise ValueError(f"{source}: {reason}; download or collect the data set again") from error


def _texts(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Read the sentences under the first of the known names, if any."""
    for key in TEXT_KEYS:
        value = metadata.get(key)
        if key == "task_texts" and isinstance(value, str):
            value = json.loads(value)
        if isinstance(value, list | tuple):
            return tuple(str(text) for text in value)
        if text := _text(value):
            return (text,)
    return ()


def _text(value: Any) -> str | None:
    """Read a non-empty string, which some data sets store as bytes; None for any other value."""
    if isinstance(value, bytes):
        value = value.decode()
    return str(value).strip() or None if isinstance(value, str) else None


def _dataset_texts(name: str, dataset: Any) -> tuple[str, ...]:
    """Read the sentence of the data set as a whole."""
    metadata = dataset.storage.metadata
    if texts := _texts(metadata):
        return texts
    env_name = dataset.env_spec.kwargs.get("env_name") if dataset.env_spec is not None else None
    for origin, said in {"description": metadata.get("description"), "`env_name`": env_name}.items():
        if text := _text(said):
            warnings.warn(
                f"{name} has no task text; its {origin} {text!r} is taken for one. Say what the task is with"
                f" `task_texts={{{name!r}: ...}}`",
                stacklevel=2,
            )
            return (text,)
    return ()
