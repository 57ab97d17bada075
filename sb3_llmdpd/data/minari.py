"""Reads Minari data sets, one or many, into episodes that carry their task's sentence."""

import difflib
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_llmdpd.data.checks import Observations, check_texts
from sb3_llmdpd.data.episodes import Episode, OfflineDataset
from sb3_llmdpd.optional import require

_TEXT_KEYS = ("task_texts", "task_text", "language_instruction", "task", "mission")
"""Names under which data sets keep their sentence, best first."""


def load_minari(
    ids: str | Sequence[str],
    *,
    task_texts: Mapping[str, str | Sequence[str]] | None = None,
    root: str | Path | None = None,
    clip_actions: bool = False,
) -> OfflineDataset:
    """Read local Minari data sets.

    The sentence of an episode is looked up in this order: ``task_texts``; the episode's metadata (``task_texts``,
    ``task_text``, ``language_instruction``, ``task``, ``mission``); an entry ``task_text`` or ``mission`` of a Dict
    observation, which is then taken out of it; the data set's metadata; with a warning its description, or the ``env_name``
    of its environment. An episode without any has no text prompt.

    Its task is ``task_id`` of the metadata; else the data set, or, where sentences differ within it, data set and sentence.
    A time limit is no termination. Observations of floats become float32.

    :param ids: one Minari id or several, e.g. ``"metaworld/drawer-open-v0"``. All must share their spaces.
    :param task_texts: sentence, or several phrasings, by Minari id or by task.
    :param root: folder of the data sets; by default Minari's own, $MINARI_DATASETS_PATH or ~/.minari/datasets.
    :param clip_actions: clip recorded actions into the action space, as many environments do before they act; else an
        action outside is refused.
    :return: all episodes.
    :raises ValueError: when an id is not there, a file is damaged or holds NaN, spaces differ, or a sentence is empty.
    """
    names = [ids] if isinstance(ids, str) else list(ids)
    if not names:
        raise ValueError("`ids` names no data set; give at least one Minari id, e.g. 'metaworld/drawer-open-v0'")
    given = {key: check_texts(texts, f"`task_texts[{key!r}]`") for key, texts in (task_texts or {}).items()}
    folder = datasets_root(root)
    datasets = {name: _open(name, folder) for name in names}
    observation_space, action_space = _common_spaces(datasets)
    episodes = [
        episode
        for name, dataset in datasets.items()
        for episode in _read(name, dataset, given, action_space if clip_actions else None)
    ]
    tasks = dict.fromkeys(episode.task for episode in episodes)
    unknown = sorted(set(given) - set(names) - set(tasks))
    if unknown:
        raise ValueError(f"`task_texts` speaks of {unknown}, but the data sets are {names} and their tasks {list(tasks)}")
    return OfflineDataset(tuple(episodes), observation_space, action_space)


def datasets_root(root: str | Path | None = None) -> Path:
    """Where Minari data sets are.

    :param root: a folder of one's own, or None.
    :return: that folder, else $MINARI_DATASETS_PATH, else ~/.minari/datasets; absolute, since Minari puts a relative path
        in front of itself.
    """
    return Path(root or os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets").expanduser().resolve()


def local_ids(root: str | Path | None = None) -> list[str]:
    """Which Minari data sets are there.

    :param root: as in `datasets_root`.
    :return: their ids, sorted.
    """
    folder = datasets_root(root)
    paths = (path.parents[1].relative_to(folder) for path in folder.glob("**/data/metadata.json"))
    return sorted(path.as_posix() for path in paths if not path.as_posix().startswith("."))  # not half-written ones


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
        """Whether it succeeded, and at which step first; None where nothing says so."""
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
        raise ValueError(
            f"no Minari data set {name!r} in {folder} (`root` or $MINARI_DATASETS_PATH name another folder);"
            f" {'nearest there: ' + ', '.join(near) if near else 'there is none at all'}."
            f" Fetch a published one with: minari download {name}"
        )
    try:
        dataset = require("minari", "all").MinariDataset(path)
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(name, error) from error
    if not len(dataset):
        raise ValueError(f"{name}: the data set holds no episode")
    return dataset


def _damaged(source: str, error: Exception) -> ValueError:
    reason = f"{type(error).__name__}: {error}"
    return ValueError(f"{source}: the files are damaged or half-written ({reason}); download or collect the data set again")


def _read(name: str, dataset: Any, given: Mapping[str, tuple[str, ...]], clip_to: spaces.Box | None) -> Iterator[Episode]:
    rows = list(_rows(name, dataset))
    several = len({row.texts for row in rows}) > 1
    common = () if name in given or all(row.texts for row in rows) else _dataset_texts(name, dataset)
    for row in rows:
        task = _text(row.metadata.get("task_id")) or (f"{name}: {row.texts[0]}" if several and row.texts else name)
        actions = row.record["actions"]
        success, first_success = row.success
        yield Episode(
            row.observations,
            actions if clip_to is None else np.clip(actions, clip_to.low, clip_to.high),
            row.record["rewards"],
            task=task,
            task_texts=given.get(task) or given.get(name) or row.texts or common,
            terminated=bool(row.record["terminations"][-1]),
            success=success,
            first_success=first_success,
            goal=_text(row.metadata.get("goal_id")),
            source=row.source,
        )


def _rows(name: str, dataset: Any) -> Iterator[_Row]:
    indices = dataset.episode_indices
    records, metadata = dataset.storage.get_episodes(indices), dataset.storage.get_episode_metadata(indices)
    for index in indices:
        source = f"{name}, episode {index}"
        try:
            record, entry = next(records), next(metadata)
        except (OSError, KeyError, ValueError, RuntimeError, StopIteration) as error:
            raise _damaged(source, error) from error
        if not len(record["terminations"]):
            raise _damaged(source, ValueError("`terminations` is empty"))
        observations, sentences = record["observations"], {}
        if isinstance(observations, dict):
            sentences = {key: value[0] for key, value in observations.items() if _is_text(dataset.observation_space[key])}
            observations = {key: value for key, value in observations.items() if key not in sentences}
        texts = _texts(entry) or _texts(entry.get("options") or {}) or _texts(sentences)
        yield _Row(source, observations, record, entry, texts)


def _texts(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The sentences under the first of the known names, if any."""
    for key in _TEXT_KEYS:
        value = metadata.get(key)
        if key == "task_texts" and isinstance(value, str):
            value = json.loads(value)
        if isinstance(value, list | tuple):
            return tuple(str(text) for text in value)
        if _text(value):
            return (_text(value) or "",)
    return ()


def _text(value: Any) -> str | None:
    """A value that is a non-empty string, which some data sets store as bytes; None for any other."""
    if isinstance(value, bytes):
        value = value.decode()
    return str(value).strip() or None if isinstance(value, str) else None


def _dataset_texts(name: str, dataset: Any) -> tuple[str, ...]:
    """What the data set as a whole says of its task."""
    metadata = dataset.storage.metadata
    if texts := _texts(metadata):
        return texts
    env_name = dataset.env_spec.kwargs.get("env_name") if dataset.env_spec is not None else None
    for origin, text in (("description", _text(metadata.get("description"))), ("`env_name`", _text(env_name))):
        if text:
            warnings.warn(
                f"{name} has no task text; its {origin} {text!r} is taken for one. Say what the task is with"
                f" `task_texts={{{name!r}: ...}}`",
                stacklevel=4,
            )
            return (text,)
    return ()


def _common_spaces(datasets: Mapping[str, Any]) -> tuple[spaces.Space[Any], spaces.Box]:
    """The spaces that all share; bounds of observations may differ, as nothing is scaled by them."""
    (first, dataset), *others = datasets.items()
    observation_space, action_space = _numeric_space(first, dataset.observation_space), _float32(dataset.action_space)
    if not isinstance(action_space, spaces.Box):
        raise ValueError(f"{first}: the action space must be a Box of continuous actions, got {action_space}")
    for name, other in others:
        if _float32(other.action_space) != action_space:
            raise ValueError(
                f"data sets that are read together must share their action space: {first} has {action_space},"
                f" {name} has {other.action_space}"
            )
        joint = _joint_space(observation_space, _numeric_space(name, other.observation_space))
        if joint is None:
            raise ValueError(
                f"data sets that are read together must share their observation space: {first} has"
                f" {dataset.observation_space}, {name} has {other.observation_space}"
            )
        observation_space = joint
    return observation_space, action_space


def _numeric_space(name: str, space: spaces.Space[Any]) -> spaces.Space[Any]:
    """As episodes have it: without sentences, floats as float32."""
    if isinstance(space, spaces.Dict):
        parts = {key: _float32(part) for key, part in space.items() if not _is_text(part)}
    else:
        parts = {"": _float32(space)}
    for key, part in parts.items():
        if isinstance(part, spaces.Dict | spaces.Tuple | spaces.Text):
            raise ValueError(f"{name}: observations must be one array or a flat Dict of arrays, got {part} {key}")
    return spaces.Dict(parts) if isinstance(space, spaces.Dict) else parts[""]


def _is_text(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Text)


def _float32(space: spaces.Space[Any]) -> spaces.Space[Any]:
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
    return space


def _joint_space(one: spaces.Space[Any], other: spaces.Space[Any]) -> spaces.Space[Any] | None:
    """The smallest space that holds both, None when they differ in more than bounds."""
    if isinstance(one, spaces.Box) and isinstance(other, spaces.Box):
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            return None
        return spaces.Box(np.minimum(one.low, other.low), np.maximum(one.high, other.high), dtype=one.dtype.type)
    if isinstance(one, spaces.Dict) and isinstance(other, spaces.Dict) and set(one) == set(other):
        parts = {key: _joint_space(one[key], other[key]) for key in one}
        return None if None in parts.values() else spaces.Dict(parts)  # type: ignore[arg-type]
    return one if one == other else None
