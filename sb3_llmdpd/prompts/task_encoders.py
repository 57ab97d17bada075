"""Encoders of the task that a sentence stands for, blind to its words: controls for text as a prompt."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np

from sb3_llmdpd.data.checks import check_texts

REGISTRIES = ("metaworld", "metaworld-told")
"""Names of the collections of known sentences: the 50 tasks', and those with a goal told in words."""


class _TaskEncoder:
    """An encoder of the tasks of known sentences, which are read at the first use."""

    _kind: ClassVar[str]

    def __init__(self, registry: str) -> None:
        if registry not in REGISTRIES:
            known = ", ".join(REGISTRIES)
            raise ValueError(f"the tasks known by their sentences are those of {known}, got {registry!r}")
        self.name = f"{self._kind}:{registry}"

    @cached_property
    def by_text(self) -> dict[str, str]:
        """Name of the task of each known sentence."""
        # Here, since its package imports the data sources.
        from sb3_llmdpd.data.metaworld.tasks import TASKS, TOLD_TASKS

        tasks = TOLD_TASKS if self.name.endswith("-told") else TASKS
        return {text: task for task, info in tasks.items() for text in info.texts}

    @cached_property
    def tasks(self) -> list[str]:
        """Names of all tasks, sorted."""
        return sorted(set(self.by_text.values()))

    @property
    def revision(self) -> str:
        """Digest of the sentences: vectors from before a sentence was added or moved no longer count."""
        return hashlib.sha256(repr(sorted(self.by_text.items())).encode()).hexdigest()[:16]


class OneHotTextEncoder(_TaskEncoder):
    """The unit vector of the task that a known sentence stands for; zeros for any other sentence.

    :param registry: one of ``REGISTRIES``.
    :raises ValueError: on another one.
    """

    _kind = "one-hot"

    @property
    def dim(self) -> int:
        """Number of tasks."""
        return len(self.tasks)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode sentences.

        :param texts: n sentences, known to the letter or not at all.
        :return: (n, dim), float32.
        """
        named = [self.by_text.get(text) for text in check_texts(texts, "`texts`")]
        rows = [[task == name for name in self.tasks] for task in named]
        return np.array(rows, np.float32).reshape(len(rows), self.dim)


class RandomTextEncoder(_TaskEncoder):
    """A fixed random vector for each task, shared by its sentences; other sentences have their own.

    The vectors have a language model's size and hardly correlate: the difference to its vectors is meaning.

    :param registry: one of ``REGISTRIES``.
    :raises ValueError: on another one.
    """

    _kind = "random"
    dim = 384  # MiniLM's

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode sentences.

        :param texts: n sentences.
        :return: (n, dim), float32, standard normal.
        """
        known, checked = self.by_text, check_texts(texts, "`texts`")
        # The kind is part of the seed, so that no sentence can be taken for a task.
        seeds = [f"task {known[text]}" if text in known else f"sentence {text}" for text in checked]
        return np.array([self._draw(seed) for seed in seeds], np.float32).reshape(len(seeds), self.dim)

    def _draw(self, seed: str) -> np.ndarray:
        digest = hashlib.blake2b(seed.encode(), digest_size=8).digest()
        return np.random.default_rng(int.from_bytes(digest, "little")).standard_normal(self.dim)
