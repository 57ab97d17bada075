"""`StoredDataset`, episodes whose steps stay in a file."""

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_llmdpd.checkpoint.values import space_from_json
from sb3_llmdpd.data.episodes import Episode, OfflineDataset
from sb3_llmdpd.data.flat_file import FlatFile

FORMAT = 2
"""Version of the files; those of another version are built anew."""

ABOUT, STEPS, REWARDS, EPISODES = "store.json", "steps.bin", "rewards.bin", "episodes.jsonl"
"""Spaces and checksums; an observation and an action a step; a float32 a step; a line an episode."""

SAID = tuple(each.name for each in fields(Episode) if each.name not in ("observations", "actions", "rewards"))
"""Fields of an episode besides its arrays."""

_BLOCK = 2**24


@dataclass(frozen=True, eq=False, repr=False)
class StoredDataset(OfflineDataset):
    """A data set that was checked when it was written. The arrays of its episodes are views of a mapped file.

    :param file: with all steps, perhaps also those of episodes outside this data set.
    :param first_rows: (n_episodes,), row where each episode begins; one of T steps has T + 1 rows.
    :param digests: digest of each episode, see `episode_digest`.
    """

    file: FlatFile
    first_rows: np.ndarray
    digests: tuple[str, ...]

    def only(self, kept: Callable[[Episode], bool]) -> "StoredDataset":
        """See `OfflineDataset.only`; the steps stay in the file."""
        numbers = [number for number, episode in enumerate(self.episodes) if kept(episode)]
        episodes = tuple(self.episodes[number] for number in numbers)
        digests = tuple(self.digests[number] for number in numbers)
        rows = self.first_rows[numbers]
        return replace(self, episodes=episodes, first_rows=rows, digests=digests, checked=True)


def open_stored(folder: Path) -> StoredDataset:
    """Open the files of `memory_mapped` in a folder; the steps are not read.

    :raises ValueError: when the files are damaged or of another format.
    :raises OSError: when they cannot be read.
    """
    about = read_about(folder)
    file = FlatFile(folder / STEPS, record_dtype(about["observations"], about["actions"]))
    rewards = np.fromfile(folder / REWARDS, np.float32)
    rewards.setflags(write=False)
    episodes, first_rows, digests = [], [], []
    row = 0
    with (folder / EPISODES).open() as lines:
        for line in map(json.loads, lines):
            episodes.append(_view(file.records, rewards, row, line["n_steps"], line["said"]))
            first_rows.append(row)
            digests.append(line["digest"])
            row += line["n_steps"] + 1
    if not row == len(file) == len(rewards):
        raise ValueError(
            f"{folder} holds {len(file)} steps, {len(rewards)} rewards and episodes of {row} rows"
        )
    seen, acted = space_from_json(about["observation_space"]), space_from_json(about["action_space"])
    assert isinstance(acted, spaces.Box)  # as the data set that was laid out had
    rows = np.array(first_rows)
    return StoredDataset(tuple(episodes), seen, acted, file, rows, tuple(digests), checked=True)


def read_about(folder: Path) -> dict[str, Any]:
    """Read spaces, layout, checksums and identity from a folder's ``store.json``.

    :raises ValueError: when it is no JSON object, or of another format.
    :raises OSError: when it is not there.
    """
    about = json.loads((folder / ABOUT).read_text())
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(f"{folder / ABOUT} is of another format than {FORMAT}")
    return about


def record_dtype(observations: Mapping[str, Any], actions: Mapping[str, Any]) -> np.dtype[Any]:
    """Build the type of a record.

    :param observations: ``dtype`` and ``shape``; for Dict observations ``keys``, with such a pair by key.
    :param actions: ``dtype`` and ``shape`` of one.
    :return: a structured type of ``observations`` and ``actions``, aligned so that torch can read it.
    """

    def plain(entry: Mapping[str, Any]) -> Any:
        return np.dtype((np.dtype(entry["dtype"]), tuple(entry["shape"])))

    if "keys" in observations:
        seen = np.dtype([(key, plain(entry)) for key, entry in observations["keys"].items()], align=True)
    else:
        seen = plain(observations)
    return np.dtype([("observations", seen), ("actions", plain(actions))], align=True)


def checksum(path: Path) -> int:
    """Compute the CRC-32, in [0, 2**32), of a file that may be larger than memory."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc


def _view(records: np.ndarray, rewards: np.ndarray, row: int, n_steps: int, said: dict[str, Any]) -> Episode:
    field = records["observations"][row : row + n_steps + 1]
    names = field.dtype.names
    return Episode.trusted(
        observations=field if names is None else {name: field[name] for name in names},
        actions=records["actions"][row : row + n_steps],
        rewards=rewards[row : row + n_steps],
        **{**said, "task_texts": tuple(said["task_texts"])},
    )
