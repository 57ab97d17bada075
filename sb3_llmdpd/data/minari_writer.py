"""Writes episodes as one Minari data set, whole or not at all."""

import json
import numbers
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from sb3_llmdpd.common.files import temporary_folder
from sb3_llmdpd.common.optional_imports import require
from sb3_llmdpd.data.checks import check_bounded, parts_of
from sb3_llmdpd.data.episodes import Episode, checked_for_file
from sb3_llmdpd.data.metadata import FIRST_SUCCESS, GOAL_KEYS, SUCCESS_KEYS, TASK_KEYS, TEXT_KEYS
from sb3_llmdpd.data.minari import NESTED, REWARDED, datasets_root
from sb3_llmdpd.data.spaces import check_flat, float32_space

_TEMPORARY = ".collecting-"
"""Minari does not look into folders whose names begin with a dot."""

_TASK_OF_EPISODES = {*TEXT_KEYS, *TASK_KEYS, *GOAL_KEYS, *NESTED}
_SAID_BY_EPISODES = _TASK_OF_EPISODES | {*SUCCESS_KEYS, FIRST_SUCCESS, REWARDED, "id", "total_steps"}
"""Metadata of an episode that come from the `Episode`, or would be read in its place."""

_SPACES_AND_FORMAT = {"observation_space", "action_space", "env_spec", "data_format", "jpeg_encoding"}
_ORIGIN_AND_SIZE = {"dataset_id", "minari_version", "algorithm_name", "description", "combined_datasets"}
_SAID_BY_MINARI = _SPACES_AND_FORMAT | _ORIGIN_AND_SIZE | {"total_episodes", "total_steps", "dataset_size"}
"""Metadata of a data set that Minari keeps itself, or that are arguments."""


def write_minari(
    dataset_id: str,
    episodes: Iterable[Episode],
    observation_space: Space[Any],
    action_space: spaces.Box,
    *,
    root: str | Path | None = None,
    description: str | None = None,
    algorithm_name: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    episode_metadata: Iterable[Mapping[str, Any]] | None = None,
) -> Path:
    """Write episodes as one Minari data set in hdf5, from which `load_minari` reads the same ones.

    Episodes are written one at a time as they come, so that there may be more of them than fit into memory.
    Images are stored without loss. Until the last episode is written there is no data set under the id, and
    when something fails there never is one.

    :param dataset_id: ``"namespace/name-v0"``, the namespace optional.
    :param episodes: at least one. Task, sentences, success, goal, and that no rewards were recorded, go into
        the metadata of each. That steps were left out is not written: the data set has what is left.
    :param observation_space: space of the episodes, one array or a Dict of arrays.
    :param action_space: space of the episodes, a Box with finite bounds.
    :param root: folder of Minari data sets, see `datasets_root`.
    :param description: words that `load_minari` takes for a sentence that episodes lack, with a warning.
    :param algorithm_name: name of the policy that acted.
    :param metadata: more about the data set, as JSON values; ``author`` and ``author_email`` may be lists.
    :param episode_metadata: more about each episode, in their order: strings, numbers, or arrays of numbers.
    :return: folder of the data set.
    :raises ValueError: when the id is taken or not a Minari id, there is no episode, one does not fit the
        spaces, or metadata have names that are said elsewhere.
    :raises TypeError: when an entry is not an `Episode`, or metadata cannot be stored.
    """
    checked = checked_for_file(dataset_id, episodes, observation_space, action_space)
    entries: list[dict[str, Any]] = []
    about = {"algorithm_name": algorithm_name, "description": description}
    with whole_dataset(dataset_id, observation_space, action_space, root, metadata, **about) as storage:
        buffers = _buffers(dataset_id, checked, episode_metadata, entries)
        storage.update_episodes(buffers)  # asks for one when it has stored the one before
        storage.update_episode_metadata(entries)
    return datasets_root(root) / dataset_id


@contextmanager
def whole_dataset(
    dataset_id: str,
    observation_space: Space[Any],
    action_space: spaces.Box,
    root: str | Path | None = None,
    metadata: Mapping[str, Any] | None = None,
    **about: str | None,
) -> Iterator[Any]:
    """Open an empty Minari data set to fill, which takes its place when the block ends well, or disappears.

    The arguments are those of `write_minari`, which also says what is raised.

    :return: a context that yields Minari's storage of the data set.
    """
    folder = datasets_root(root)
    namespace = _check_new_id(folder, dataset_id)
    _check_observations(dataset_id, observation_space)
    check_bounded(action_space, f"{dataset_id}: `action_space`")
    said = _dataset_metadata(dataset_id, metadata or {})
    minari, namespaces = require("minari", "all"), require("minari.namespace", "all")
    folder.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder, _TEMPORARY) as temporary:
        with _minari_root(temporary), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of missing fields for a public release
            storage = minari.create_dataset_from_buffers(
                dataset_id,
                [],
                observation_space=float32_space(observation_space),  # episodes hold no other floats
                action_space=float32_space(action_space),
                data_format="hdf5",
                jpeg_encoding=False,  # which loses parts of an image
                **about,
            ).storage
        storage.update_metadata(said)
        yield storage
        with _minari_root(folder):
            if namespace is not None and namespace not in namespaces.list_local_namespaces():
                namespaces.create_namespace(namespace)
        (folder / dataset_id).parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary / dataset_id, folder / dataset_id)


def _check_new_id(folder: Path, dataset_id: str) -> str | None:
    """Refuse an id that is no Minari id, or taken; returns its namespace, None where it has none."""
    ids = require("minari.dataset.minari_dataset", "all")
    try:
        namespace, name, version = ids.parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:  # a TypeError where the version is missing
        raise ValueError(
            f"{dataset_id!r} is no Minari id: write it as 'namespace/name-v0', of letters, digits, '-' and"
            " '_', with a version; the namespace may be left out or hold '/', and has at least two characters"
        ) from error
    if (folder / dataset_id).exists():
        later = (ids.gen_dataset_id(namespace, name, number) for number in count(version + 1))
        free = next(other for other in later if not (folder / other).exists())
        raise ValueError(
            f"{dataset_id!r} is already in {folder}, and a data set is never overwritten: write another id or"
            f" version, such as {free!r}, or delete {folder / dataset_id}"
        )
    return None if namespace is None else str(namespace)


def _check_observations(dataset_id: str, observation_space: Space[Any]) -> None:
    check_flat(dataset_id, observation_space)
    if nested := [key for key in parts_of(observation_space) if "/" in key]:
        raise ValueError(
            f"{dataset_id}: '/' separates folders in hdf5; rename the entries {nested} of `observation_space`"
        )


def _dataset_metadata(dataset_id: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Check metadata of the data set, and give them Minari's types."""
    if taken := sorted(_SAID_BY_MINARI & set(metadata)):
        raise ValueError(
            f"{dataset_id}: `metadata` must not hold {taken}, which are arguments or written by Minari itself"
        )
    authors = {key: metadata[key] for key in ("author", "author_email") if key in metadata}
    several = {key: [value] if isinstance(value, str) else list(value) for key, value in authors.items()}
    try:
        json.dumps({**metadata, **several})
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{dataset_id}: `metadata` must be JSON values: strings, numbers, lists, dicts; {error}"
        ) from error
    return {**metadata, **{key: set(value) for key, value in several.items()}}  # Minari wants sets


def _buffers(
    dataset_id: str,
    episodes: Iterable[tuple[Episode, str]],
    episode_metadata: Iterable[Mapping[str, Any]] | None,
    entries: list[dict[str, Any]],
) -> Iterator[Any]:
    """Make Minari's buffers of named episodes one at a time, and append their metadata to ``entries``."""
    as_many = "`episode_metadata` must hold an entry for each episode"
    further = None if episode_metadata is None else iter(episode_metadata)
    for one, name in episodes:
        said = _said_by(one, name)
        if further is not None:
            entry = next(further, None)
            if entry is None:
                raise ValueError(f"{name}: {as_many}, and has no more")
            said |= _checked_entry(entry, name)
        entries.append(said)
        yield episode_buffer(one.observations, one.actions, one.rewards, terminated=one.terminated)
    if further is not None and next(further, None) is not None:
        raise ValueError(f"{dataset_id}: {as_many}, and has more than the {len(entries)}")


def _said_by(episode: Episode, source: str) -> dict[str, Any]:
    """Collect the metadata of an `Episode`, under the names that `MinariSource` reads."""
    for name, value in (("task", episode.task), ("goal", episode.goal)):
        if value is not None and (not value or value != value.strip()):
            reason = f"`{name}` must be a name without white space around it, got {value!r}"
            raise ValueError(f"{source}: {reason}")
    said: dict[str, Any] = {"task_id": episode.task}
    if episode.task_texts:
        said |= {"task_text": episode.task_texts[0], "task_texts": json.dumps(episode.task_texts)}
    optional = {"success": episode.success, FIRST_SUCCESS: episode.first_success, "goal_id": episode.goal}
    if not episode.rewarded:
        optional[REWARDED] = False
    return said | {name: value for name, value in optional.items() if value is not None}


def _checked_entry(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    if taken := sorted(_SAID_BY_EPISODES & set(entry)):
        raise ValueError(f"{name}: `episode_metadata` must not hold {taken}, which the `Episode` itself says")
    for key, value in entry.items():
        if not isinstance(value, str | bool | numbers.Real) and np.asarray(value).dtype.kind not in "fiub":
            raise TypeError(
                f"{name}: `episode_metadata[{key!r}]` must be a string, a number or an array of numbers,"
                f" got {type(value).__name__}"
            )
    return dict(entry)


def episode_buffer(
    observations: Any, actions: np.ndarray, rewards: np.ndarray, *, terminated: bool = False, **more: Any
) -> Any:
    """Make Minari's buffer of one whole episode.

    :param observations: (T + 1, *obs_shape), or a dict of such arrays.
    :param actions: (T, action_dim); ``rewards`` are (T,).
    :param terminated: mark the last step as the end of the task, else as cut off or at a time limit.
    :param more: further arguments of the buffer, such as ``seed``.
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


@contextmanager
def _minari_root(path: Path) -> Iterator[None]:
    """Set the environment variable that tells Minari the folder: it takes no argument for it."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(path)
    try:
        yield
    finally:
        del os.environ["MINARI_DATASETS_PATH"]
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before
