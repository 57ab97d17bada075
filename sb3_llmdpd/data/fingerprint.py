"""What tells one data set from another, so that a run is not gone on with on other data than it was begun with."""

import hashlib

import numpy as np

from sb3_llmdpd.data.episodes import Episode, OfflineDataset
from sb3_llmdpd.data.stored_dataset import StoredDataset


def fingerprint(dataset: OfflineDataset) -> str:
    """A digest of all that a model learns from: observations, actions, rewards, tasks, sentences, and how episodes end.

    :param dataset: episodes in any order, in memory or in a file.
    :return: 32 hexadecimal digits, the same for the same episodes.
    """
    digests = dataset.digests if isinstance(dataset, StoredDataset) else map(episode_digest, dataset.episodes)
    return hashlib.blake2b(b"".join(map(bytes.fromhex, sorted(digests))), digest_size=16).hexdigest()


def episode_digest(episode: Episode) -> str:
    """The same of one episode.

    :param episode: any.
    :return: 32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    said = (
        episode.task,
        episode.task_texts,
        episode.terminated,
        episode.success,
        episode.first_success,
        episode.goal,
    )
    digest.update(repr(said).encode())
    parts = episode.observations if isinstance(episode.observations, dict) else {"": episode.observations}
    for name, array in [*sorted(parts.items()), ("actions", episode.actions), ("rewards", episode.rewards)]:
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
