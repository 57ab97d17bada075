"""Digests that tell data sets apart, so that a run only continues on the data that it began with."""

import hashlib

import numpy as np

from sb3_llmdpd.data.checks import entries_of
from sb3_llmdpd.data.episodes import Episode, OfflineDataset
from sb3_llmdpd.data.stored_dataset import StoredDataset


def fingerprint(dataset: OfflineDataset) -> str:
    """Compute a digest of all that a model learns from: arrays, tasks, sentences, and endings.

    :return: 32 hexadecimal digits, the same for the same episodes in any order, in memory or in a file.
    """
    digests = dataset.digests if isinstance(dataset, StoredDataset) else map(episode_digest, dataset.episodes)
    return hashlib.blake2b(b"".join(map(bytes.fromhex, sorted(digests))), digest_size=16).hexdigest()


def content_digest(episode: Episode) -> str:
    """Compute a digest, 32 hexadecimal digits, of observations and actions alone, the same in any format."""
    digest = hashlib.blake2b(digest_size=16)
    for array in (*(rows for _, rows in sorted(entries_of(episode.observations).items())), episode.actions):
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array, np.float32).data)
    return digest.hexdigest()


def episode_digest(episode: Episode) -> str:
    """Compute a digest, 32 hexadecimal digits, of all that a model learns from one episode."""
    digest = hashlib.blake2b(digest_size=16)
    names = ("task", "task_texts", "terminated", "success", "first_success", "goal")
    digest.update(repr(tuple(getattr(episode, name) for name in names)).encode())
    if not episode.rewarded:  # otherwise the digest is that of versions before this was known
        digest.update(b"without rewards")
    observations = sorted(entries_of(episode.observations).items())
    for name, array in [*observations, ("actions", episode.actions), ("rewards", episode.rewards)]:
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
