"""Reads and writes episodes as one npz file of flat arrays."""

import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from sb3_llmdpd.checkpoint.values import space_from_json, space_to_json
from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.data.checks import entries_of
from sb3_llmdpd.data.episode_source import Reading, Record
from sb3_llmdpd.data.episodes import Episode, checked_for_file
from sb3_llmdpd.data.spaces import check_flat, float32_space
from sb3_llmdpd.data.step_arrays import StepArrays, split_steps
from sb3_llmdpd.data.step_files import FLAGS, READ, StepFileSource, sound_file, steps_under_names

LENGTHS = "lengths"
"""Entry with the numbers of steps of stacked episodes."""

METADATA = "metadata"
"""Entry with spaces, tasks, sentences, successes and goals, as a JSON string."""

_VERSION = 1

_SAID = ("task", "task_texts", "success", "first_success", "goal", "source")
"""Fields of an episode that are not in the arrays."""

_SAID_LATER = {"rewarded": True}
"""Fields that earlier versions did not write, and what is true of theirs."""

_NESTED = ("observations", "next_observations")
"""Entries that may stand for several, as in ``observations/image``."""

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}

_LIKE_ANOTHER_ZIP = (NotImplementedError, RuntimeError)
"""Errors of zipfile where damage looks like another version or a password."""

_BROKEN = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, *_LIKE_ANOTHER_ZIP)
"""Errors of reading a damaged file."""


class NpzSource(StepFileSource):
    """An npz file in D4RL's layout, from `write_npz` or from anyone.

    It holds ``observations``, ``actions``, ``rewards`` and ``terminals``, one row a step; ``timeouts`` and
    ``next_observations`` are used where it has them, and `find_episodes` says where episodes end. A Dict
    observation has an entry ``observations/key`` for each key. Stacked arrays, (E, T, ...) of E episodes, are
    read with the ``lengths`` (E,) of these; without, all are T steps long.

    A file of `write_npz` gives equal episodes: spaces, tasks, sentences, successes and goals. Any other file
    has one task and no sentence, and the spaces of `StepFileSource`. A raw file of OGBench, known by
    ``qpos``, has a last row in each episode that is no step.

    The arrays are in memory while they are read: an npz cannot be read in part.

    :param path: path of the file; ``~`` is the home folder.
    :param task: task of all episodes; by default those in the file, else its name without its suffix.
    :param max_episode_steps: time limit of the environment, for files that do not say where it was reached.
    :param reading: options of reading, see `Reading`.
    :raises ValueError: when the file is not there, no npz, damaged, holds pickled objects, or lacks an array;
        or when ``max_episode_steps`` would cut episodes of `write_npz`.
    :raises TypeError: when an array does not hold numbers.
    """

    kind = "npz"

    _metadata: dict[str, Any] | None = None
    """Metadata of `write_npz`, once the file was opened."""

    def records(self) -> Iterator[Record]:
        """See `EpisodeSource.records`."""
        if self._metadata is None:
            yield from super().records()
            return
        said = self._metadata["episodes"]
        given = {} if self._given_task is None else {"task": self._given_task}
        n_found = 0
        with self._opened(self.name) as steps:
            for n_found, record in enumerate(split_steps(steps), start=1):
                if n_found <= len(said):
                    entry = said[n_found - 1]
                    yield {**record, **entry, "task_texts": tuple(entry["task_texts"]), **given}
        if n_found != len(said):
            counts = f"it speaks of {len(said)} episodes, and the arrays hold {n_found}"
            raise _contradicted(self.name, counts)

    @contextmanager
    def _opened(self, name: str) -> Iterator[StepArrays]:
        """See `StepFileSource`."""
        with sound_file(name, "an npz file", _BROKEN):
            archive = zipfile.ZipFile(self._path)
        with archive:
            members = [member for member in archive.namelist() if member.endswith(".npy")]
            entries = {member.removesuffix(".npy"): _Entry(archive, member, name) for member in members}
            self._metadata = _read_metadata(entries.pop(METADATA, None), name)
            limit = self._max_episode_steps
            if self._metadata is not None and limit is not None:
                remedy = f"leave out `max_episode_steps`, which is {limit}"
                raise ValueError(f"{name}: says itself where its episodes end; {remedy}")
            read: dict[str, Any] = _with_valids(_unstacked(_nested(entries, name), name))
            yield steps_under_names(read, name, limited=limit is not None)

    def _spaces(self, steps: StepArrays, reading: Reading) -> tuple[Space[Any], spaces.Box]:
        """See `StepFileSource`."""
        if (said := self._metadata) is None:
            return super()._spaces(steps, reading)
        return said["observation_space"], said["action_space"]


def write_npz(
    path: str | Path, episodes: Iterable[Episode], observation_space: Space[Any], action_space: spaces.Box
) -> None:
    """Write episodes as one npz file, whole or not at all, from which `NpzSource` reads equal ones.

    Other tools that read D4RL's layout find ``observations``, ``actions``, ``rewards``, ``terminals``,
    ``timeouts`` and ``next_observations`` in it, one row a step. All is in memory meanwhile.

    :param path: ends in ``.npz``; ``~`` is the home folder. An earlier file is replaced.
    :param episodes: at least one.
    :param observation_space: space of the episodes, one array or a Dict of arrays.
    :param action_space: space of the episodes.
    :raises ValueError: without episodes, when one does not fit the spaces, or the path has another suffix.
    :raises TypeError: when an entry is not an `Episode`.
    :raises OSError: when the file cannot be written.
    """
    file = Path(path).expanduser()
    if file.suffix != ".npz":
        raise ValueError(f"`path` must end in .npz, which tells readers the format; got {str(path)!r}")
    check_flat(str(path), observation_space)
    written: list[Episode] = []
    for episode, _ in checked_for_file(str(path), episodes, observation_space, action_space):
        written.append(episode)
    said = (*_SAID, *_SAID_LATER)
    metadata = {
        "version": _VERSION,
        "observation_space": space_to_json(float32_space(observation_space)),  # episodes hold no other floats
        "action_space": space_to_json(float32_space(action_space)),
        "episodes": [{name: getattr(episode, name) for name in said} for episode in written],
    }
    as_json = json.dumps(metadata, default=np.generic.item)  # numpy's numbers are no JSON
    arrays = {**_flat_arrays(written), METADATA: np.array(as_json)}
    with whole_file(file) as temporary:
        np.savez(temporary, **arrays)


def _flat_arrays(episodes: list[Episode]) -> dict[str, Any]:
    """Join the arrays of all episodes, one row a step, under the names of D4RL's layout."""
    ends = np.cumsum([len(episode) for episode in episodes]) - 1
    terminals, timeouts = np.zeros(ends[-1] + 1, bool), np.zeros(ends[-1] + 1, bool)
    terminated = np.array([bool(episode.terminated) for episode in episodes])
    terminals[ends], timeouts[ends] = terminated, ~terminated
    arrays: dict[str, Any] = {
        "actions": np.concatenate([episode.actions for episode in episodes]),
        "rewards": np.concatenate([episode.rewards for episode in episodes]),
        "terminals": terminals,
        "timeouts": timeouts,
    }
    for key in _arrays_of(episodes[0]):
        observations = [_arrays_of(episode)[key] for episode in episodes]
        arrays[f"observations{key}"] = np.concatenate([rows[:-1] for rows in observations])
        arrays[f"next_observations{key}"] = np.concatenate([rows[1:] for rows in observations])
    return arrays


def _arrays_of(episode: Episode) -> dict[str, np.ndarray]:
    """Return the observations' arrays by the ending of their entries' names."""
    arrays = entries_of(episode.observations)
    return {f"/{key}" if key else "": rows for key, rows in arrays.items()}


class _Entry:
    """One array of an npz, which is read when it is first sliced."""

    def __init__(self, archive: zipfile.ZipFile, member: str, source: str) -> None:
        self._archive, self._member, self._source = archive, member, source
        self._array: np.ndarray | None = None
        with sound_file(source, "an npz file", _BROKEN), archive.open(member) as file:
            self.shape, _, self.dtype = _HEADERS[np.lib.format.read_magic(file)](file)

    def __getitem__(self, rows: Any) -> np.ndarray:
        if self._array is None:
            sound = sound_file(self._source, "an npz file", _BROKEN)
            with sound, self._archive.open(self._member) as file:
                self._array = np.lib.format.read_array(file, allow_pickle=False)
        return self._array[rows]

    def refuse_pickle(self) -> None:
        """Refuse an array of Python objects, which could execute anything as it is read."""
        if self.dtype.hasobject:
            raise ValueError(
                f"{self._source}: `{self._member.removesuffix('.npy')}` is a pickle of Python objects, which"
                " could execute anything and is not opened; save it as an array of numbers"
            )


def _nested(entries: dict[str, _Entry], source: str) -> dict[str, Any]:
    """Join entries like ``observations/key`` to mappings."""
    nested: dict[str, Any] = {}
    for name, entry in entries.items():
        head, sign, key = name.partition("/")
        if head in READ:  # other entries may be of any kind
            entry.refuse_pickle()
        if not sign or head not in _NESTED:
            nested[name] = entry
        elif head in entries:
            raise ValueError(
                f"{source}: has both `{head}` and `{name}`; a Dict observation has only the second kind"
            )
        else:
            nested.setdefault(head, {})[key] = entry
    return nested


def _unstacked(entries: dict[str, Any], source: str) -> dict[str, Any]:
    """Lay arrays (E, T, ...) of E episodes out one row a step; others stay as they are."""
    shapes = {name: getattr(entries.get(name), "shape", ()) for name in ("actions", "rewards", LENGTHS)}
    is_stacked = len(shapes["actions"]) > 2 and shapes["rewards"] == shapes["actions"][:2]
    if LENGTHS not in entries and not is_stacked:
        return entries
    n_episodes, n_steps = (*shapes["actions"], 0, 0)[:2]
    lengths = np.full(n_episodes, n_steps) if LENGTHS not in entries else np.ravel(entries[LENGTHS][()])
    if len(shapes["actions"]) < 3 or len(lengths) != n_episodes or lengths.dtype.kind not in "iu":
        raise ValueError(
            f"{source}: `{LENGTHS}` counts the steps of stacked episodes, (E,) whole numbers beside `actions`"
            f" of shape (E, T, ...); got shapes {np.shape(lengths)} and {shapes['actions']}"
        )
    if not ((lengths >= 1) & (lengths <= n_steps)).all():
        raise ValueError(f"{source}: `{LENGTHS}` must lie in 1 to {n_steps}, got {lengths.tolist()[:12]}")
    inside = np.arange(n_steps) < lengths[:, None]  # (E, T)

    def laid_out(entry: Any, after: bool = False) -> Any:
        if isinstance(entry, dict):
            return {key: laid_out(part, after) for key, part in entry.items()}
        stacked = entry[()]
        return stacked[:, 1:][inside] if after else stacked[:, :n_steps][inside]

    flat = {
        name: laid_out(entry)
        for name, entry in entries.items()
        if isinstance(entry, dict) or (len(entry.shape) > 1 and entry.shape[0] == n_episodes)
    }
    seen = list(entries_of(entries.get("observations", {})).values())
    if seen and seen[0].shape[1:2] == (n_steps + 1,):
        flat["next_observations"] = laid_out(entries["observations"], after=True)
    if not set(flat) & {*FLAGS["terminals"], *FLAGS["masks"]}:  # a length does not say that the task ended
        flat["terminals"] = np.zeros(lengths.sum(), bool)
    ends = np.isin(np.arange(lengths.sum()), np.cumsum(lengths) - 1)
    named = [name for name in FLAGS["ends"] if name in flat] or ["episode_ends"]
    return flat | {name: ends | (flat.get(name, 0) != 0) for name in named}


def _with_valids(entries: dict[str, Any]) -> dict[str, Any]:
    """Mark the rows of a raw file of OGBench that are no steps: its terminals."""
    is_raw = "qpos" in entries and "terminals" in entries and not {"rewards", "valids"} & set(entries)
    if not is_raw:
        return entries
    return {**entries, "valids": np.asarray(entries["terminals"][()]) == 0}


def _read_metadata(entry: _Entry | None, source: str) -> dict[str, Any] | None:
    """Read the metadata of `write_npz` and make spaces of theirs; None for a file of another tool."""
    if entry is None:
        return None
    entry.refuse_pickle()
    try:
        metadata = json.loads(str(entry[()]))
        if metadata["version"] != _VERSION:
            raise ValueError(f"it is of version {metadata['version']!r}, and {_VERSION} is known here")
        said = [
            {name: each[name] for name in _SAID}
            | {name: each.get(name, before) for name, before in _SAID_LATER.items()}
            for each in metadata["episodes"]
        ]
        if not all(isinstance(each["task_texts"], list) for each in said):
            raise ValueError("`task_texts` must be lists of sentences")
        if not all(isinstance(each["rewarded"], bool) for each in said):
            raise ValueError("`rewarded` must be true or false")
        read = {name: space_from_json(metadata[name]) for name in ("observation_space", "action_space")}
    except (ValueError, KeyError, TypeError) as error:
        raise _contradicted(source, f"{type(error).__name__}: {error}") from error
    return {"episodes": said, **read}


def _contradicted(source: str, reason: str) -> ValueError:
    return ValueError(
        f"{source}: its `{METADATA}` is not what write_npz writes ({reason}); write the file again, or save"
        f" it without `{METADATA}`"
    )
