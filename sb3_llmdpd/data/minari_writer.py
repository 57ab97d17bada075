"""Writes episodes as one Minari data set, whole or not at all."""

import json
import numbers
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_llmdpd.common.optional import require
from sb3_llmdpd.data.checks import check_fits
from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.minari import datasets_root
from sb3_llmdpd.data.spaces import check_flat, float32_space

_TEMPORARY = ".collecting-"
"""Minari does not look into folders whose names begin with a dot."""

_LONGEST_PAUSE_S = 3_600
"""A data set that nothing was added to for so long is nobody's: one episode does not take an hour."""

_SAID_BY_EPISODES = {
    *("task_id", "task_texts", "task_text", "language_instruction", "task", "mission", "options"),
    *("success", "first_success", "goal_id", "id", "total_steps"),
}
"""Metadata of an episode that come from the `Episode`, or would be read in its place."""

_SAID_BY_MINARI = {
    *(
        "dataset_id",
        "observation_space",
        "action_space",
        "env_spec",
        "data_format",
        "jpeg_encoding",
        "minari_version",
    ),
    *("total_episodes", "total_steps", "dataset_size", "combined_datasets", "algorithm_name", "description"),
}
"""Metadata of a data set that Minari keeps itself, or that are arguments."""


def write_minari(
    dataset_id: str,
    episodes: Iterable[Episode],
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    *,
    root: str | Path | None = None,
    description: str | None = None,
    algorithm_name: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    episode_metadata: Iterable[Mapping[str, Any]] | None = None,
) -> Path:
    """Write episodes as one Minari data set in hdf5, from which `load_minari` reads the same ones.

    Episodes are written one at a time as they come, so that there may be more of them than fit into memory. Images are
    stored without loss. Until the last episode is written there is no data set under the id, and when something fails there
    never is one.

    :param dataset_id: ``"namespace/name-v0"``, the namespace optional.
    :param episodes: at least one. Task, sentences, success and goal go into the metadata of each.
    :param observation_space: of the episodes, one array or a Dict of arrays.
    :param action_space: of the episodes, a Box with finite bounds.
    :param root: folder of Minari data sets, by default Minari's own, $MINARI_DATASETS_PATH or ~/.minari/datasets.
    :param description: of the data set. Where an episode has no sentence, `load_minari` takes it for one, and warns.
    :param algorithm_name: what acted.
    :param metadata: more about the data set, as JSON values; ``author`` and ``author_email`` may be one string or several.
    :param episode_metadata: more about each episode, in their order: strings, numbers, or arrays of numbers.
    :return: folder of the data set.
    :raises ValueError: when the id is taken or none that Minari accepts, there is no episode, one does not fit the spaces, or
        metadata have names that are said elsewhere.
    :raises TypeError: on an episode that is none, or metadata that cannot be stored.
    """
    rows = _checked_rows(dataset_id, episodes, observation_space, action_space, episode_metadata)
    entries: list[dict[str, Any]] = []
    with whole_dataset(
        dataset_id,
        observation_space,
        action_space,
        root=root,
        description=description,
        algorithm_name=algorithm_name,
        metadata=metadata,
    ) as storage:
        storage.update_episodes(
            _buffers(rows, entries)
        )  # asks for an episode when it has stored the one before
        if not entries:
            raise ValueError(f"{dataset_id}: a data set needs at least one episode, got none")
        storage.update_episode_metadata(entries)
    return datasets_root(root) / dataset_id


@contextmanager
def whole_dataset(
    dataset_id: str,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    *,
    root: str | Path | None = None,
    description: str | None = None,
    algorithm_name: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Iterator[Any]:
    """An empty Minari data set to fill, which takes its place when the block ends well, and disappears when it does not.

    :param dataset_id: see `write_minari`.
    :param observation_space: see `write_minari`.
    :param action_space: see `write_minari`.
    :param root: see `write_minari`.
    :param description: see `write_minari`.
    :param algorithm_name: see `write_minari`.
    :param metadata: see `write_minari`.
    :return: a context that yields Minari's storage of the data set.
    :raises ValueError: see `write_minari`.
    :raises TypeError: on metadata that cannot be stored.
    """
    folder = datasets_root(root)
    namespace = _check_new_id(folder, dataset_id)
    _check_spaces(dataset_id, observation_space, action_space)
    said = _dataset_metadata(dataset_id, metadata or {})
    minari, namespaces = require("minari", "all"), require("minari.namespace", "all")
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=folder) as temporary:
        with _minari_root(Path(temporary)), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # about fields for a public release: e-mail, permalink
            storage = minari.create_dataset_from_buffers(
                dataset_id,
                [],
                observation_space=float32_space(observation_space),  # episodes hold no other floats
                action_space=float32_space(action_space),
                algorithm_name=algorithm_name,
                description=description,
                data_format="hdf5",
                jpeg_encoding=False,  # which loses some of an image
            ).storage
        storage.update_metadata(said)
        yield storage
        with _minari_root(folder):
            if namespace is not None and namespace not in namespaces.list_local_namespaces():
                namespaces.create_namespace(namespace)
        (folder / dataset_id).parent.mkdir(parents=True, exist_ok=True)
        os.replace(Path(temporary, dataset_id), folder / dataset_id)


def _check_new_id(folder: Path, dataset_id: str) -> str | None:
    """Refuse an id that no new data set can have.

    :param folder: where the data sets are.
    :param dataset_id: to be.
    :return: its namespace, None where it has none.
    :raises ValueError: when it is no Minari id, or taken.
    """
    ids = require("minari.dataset.minari_dataset", "all")
    try:
        namespace, name, version = ids.parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:  # a TypeError where the version is missing
        raise ValueError(
            f"{dataset_id!r} is no Minari id: write it as 'namespace/name-v0', of letters, digits, '-' and '_', with a version"
            " at its end; the namespace may be left out, or hold further '/', and has two characters at least"
        ) from error
    if (folder / dataset_id).exists():
        later = (ids.gen_dataset_id(namespace, name, number) for number in count(version + 1))
        free = next(other for other in later if not (folder / other).exists())
        raise ValueError(
            f"{dataset_id!r} is already in {folder}, and a data set is never overwritten: write another id or version, such as"
            f" {free!r}, or delete {folder / dataset_id}"
        )
    return None if namespace is None else str(namespace)


def _check_spaces(
    dataset_id: str, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> None:
    check_flat(dataset_id, observation_space)
    keys = list(observation_space.spaces) if isinstance(observation_space, spaces.Dict) else []
    if nested := [key for key in keys if "/" in key]:
        raise ValueError(
            f"{dataset_id}: '/' separates folders in hdf5; rename the entries {nested} of `observation_space`"
        )
    if not isinstance(action_space, spaces.Box) or not action_space.is_bounded():
        raise ValueError(f"{dataset_id}: `action_space` must be a Box with finite bounds, got {action_space}")


def _dataset_metadata(dataset_id: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of the data set as Minari takes them."""
    if taken := sorted(_SAID_BY_MINARI & set(metadata)):
        raise ValueError(
            f"{dataset_id}: `metadata` must not hold {taken}, which are arguments or written by Minari itself"
        )
    said = dict(metadata)
    for key in ("author", "author_email"):
        if key in said:
            said[key] = [said[key]] if isinstance(said[key], str) else list(said[key])
    try:
        json.dumps(said)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{dataset_id}: `metadata` must be JSON values: strings, numbers, lists, dicts; {error}"
        ) from error
    return {
        key: set(value) if key.startswith("author") else value for key, value in said.items()
    }  # Minari wants sets


def _checked_rows(
    dataset_id: str,
    episodes: Iterable[Episode],
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    episode_metadata: Iterable[Mapping[str, Any]] | None,
) -> Iterator[tuple[Episode, dict[str, Any]]]:
    """Each episode with all that goes into its metadata."""
    further = None if episode_metadata is None else iter(episode_metadata)
    n_episodes = 0
    for n_episodes, episode in enumerate(episodes, start=1):
        if not isinstance(episode, Episode):
            raise TypeError(f"{dataset_id}: a data set is made of `Episode`s, got {type(episode).__name__}")
        source = f"{dataset_id}, episode {n_episodes - 1} ({episode.source})"
        check_fits(episode.observations, episode.actions, observation_space, action_space, source)  # type: ignore[arg-type] # a Box by now
        said = _said_by(episode, source)
        if further is not None:
            entry = next(further, None)
            if entry is None:
                raise ValueError(
                    f"{source}: `episode_metadata` must hold an entry for each episode, and has no more"
                )
            said |= _checked_entry(entry, source)
        yield episode, said
    if further is not None and next(further, None) is not None:
        raise ValueError(
            f"{dataset_id}: `episode_metadata` must hold an entry for each episode, and has more than the {n_episodes}"
        )


def _said_by(episode: Episode, source: str) -> dict[str, Any]:
    """What an episode says of itself, under the names that `MinariSource` reads."""
    for name, value in (("task", episode.task), ("goal", episode.goal)):
        if value is not None and (not value or value != value.strip()):
            raise ValueError(
                f"{source}: `{name}` must be a name without white space around it, got {value!r}"
            )
    said: dict[str, Any] = {"task_id": episode.task}
    if episode.task_texts:
        said |= {"task_text": episode.task_texts[0], "task_texts": json.dumps(episode.task_texts)}
    optional = {"success": episode.success, "first_success": episode.first_success, "goal_id": episode.goal}
    return said | {name: value for name, value in optional.items() if value is not None}


def _checked_entry(entry: Mapping[str, Any], source: str) -> dict[str, Any]:
    if taken := sorted(_SAID_BY_EPISODES & set(entry)):
        raise ValueError(
            f"{source}: `episode_metadata` must not hold {taken}, which the `Episode` itself says"
        )
    for key, value in entry.items():
        if not isinstance(value, str | bool | numbers.Real) and np.asarray(value).dtype.kind not in "fiub":
            raise TypeError(
                f"{source}: `episode_metadata[{key!r}]` must be a string, a number or an array of numbers,"
                f" got {type(value).__name__}"
            )
    return dict(entry)


def episode_buffer(
    observations: Any, actions: np.ndarray, rewards: np.ndarray, *, terminated: bool = False, **more: Any
) -> Any:
    """Make Minari's buffer of one whole episode.

    :param observations: (T + 1, *obs_shape), or a dict of such arrays.
    :param actions: (T, action_dim).
    :param rewards: (T,).
    :param terminated: mark the last step as the end of the task, else as cut off or at a time limit.
    :param more: further arguments of the buffer, such as ``seed``.
    :return: the buffer.
    """
    last = np.arange(len(actions)) == len(actions) - 1
    return require("minari.data_collector", "all").EpisodeBuffer(
        observations=observations,
        actions=actions,
        rewards=rewards,
        terminations=last & terminated,
        truncations=last & (not terminated),
        **more,
    )


def _buffers(rows: Iterable[tuple[Episode, dict[str, Any]]], entries: list[dict[str, Any]]) -> Iterator[Any]:
    """Episodes as Minari takes them; what goes into their metadata is added to ``entries``."""
    for episode, said in rows:
        yield episode_buffer(
            episode.observations, episode.actions, episode.rewards, terminated=episode.terminated
        )
        entries.append(said)


@contextmanager
def _minari_root(path: Path) -> Iterator[None]:
    """Minari writes where an environment variable says, and takes no argument for it."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left behind; what is younger may be another one's, still being written."""
    for leftover in folder.glob(f"{_TEMPORARY}*"):
        with suppress(FileNotFoundError):  # finished or removed while we look
            newest = max(path.stat().st_mtime for path in _files_of(leftover))
            if time.time() - newest > _LONGEST_PAUSE_S:
                shutil.rmtree(leftover, ignore_errors=True)


def _files_of(folder: Path) -> Sequence[Path]:
    """A folder and all in it: what grows in a subfolder does not change the date of the folder."""
    return [folder, *folder.rglob("*")]
