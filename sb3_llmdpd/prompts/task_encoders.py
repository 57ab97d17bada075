"""Encoders that know which task a sentence stands for and nothing of what it says: controls for text as a prompt."""

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from sb3_llmdpd.data.checks import check_texts

REGISTRIES = ("metaworld",)
"""Whose sentences the encoders here know."""


class KnownTasks:
    """The tasks behind known sentences; read at the first use.

    :param registry: one of ``REGISTRIES``.
    :raises ValueError: on another one.
    """

    def __init__(self, registry: str) -> None:
        if registry not in REGISTRIES:
            raise ValueError(
                f"the tasks known by their sentences are those of {', '.join(REGISTRIES)}, got {registry!r}"
            )
        self.registry = registry

    @cached_property
    def by_text(self) -> dict[str, str]:
        """The name of the task that each known sentence stands for."""
        from sb3_llmdpd.data.metaworld.sentences import (
            SENTENCES,
        )  # here, since its package imports the data sources

        return {text: task for task, texts in SENTENCES.items() for text in texts}

    @cached_property
    def names(self) -> list[str]:
        """Of all tasks, sorted."""
        return sorted(set(self.by_text.values()))

    @property
    def revision(self) -> str:
        """A digest of the sentences: what was encoded before a sentence was added or moved no longer counts."""
        return hashlib.sha256(repr(sorted(self.by_text.items())).encode()).hexdigest()[:16]


class OneHotTextEncoder:
    """The unit vector of the task that a known sentence stands for; zeros for any other sentence.

    :param registry: one of ``REGISTRIES``.
    :raises ValueError: on another one.
    """

    def __init__(self, registry: str) -> None:
        self.tasks = KnownTasks(registry)
        self.name = f"one-hot:{registry}"

    @property
    def dim(self) -> int:
        """The number of tasks."""
        return len(self.tasks.names)

    @property
    def revision(self) -> str:
        """See `KnownTasks.revision`."""
        return self.tasks.revision

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode sentences.

        :param texts: n sentences, known to the letter or not at all.
        :return: (n, dim), float32.
        """
        named = [self.tasks.by_text.get(text) for text in check_texts(texts, "`texts`")]
        rows = [[task == name for name in self.tasks.names] for task in named]
        return np.array(rows, np.float32).reshape(len(rows), self.dim)


class RandomTextEncoder:
    """A fixed random vector for each task, shared by its sentences; one of its own for any sentence that is not known.

    Of a language model's size and hardly correlated: what a language model's vectors do better is meaning.

    :param registry: one of ``REGISTRIES``.
    :raises ValueError: on another one.
    """

    dim = 384  # MiniLM's

    def __init__(self, registry: str) -> None:
        self.tasks = KnownTasks(registry)
        self.name = f"random:{registry}"

    @property
    def revision(self) -> str:
        """See `KnownTasks.revision`."""
        return self.tasks.revision

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode sentences.

        :param texts: n sentences.
        :return: (n, dim), float32, standard normal.
        """
        known = self.tasks.by_text
        # No sentence can be taken for a task: their kinds are part of the seed.
        seeds = [
            f"task {known[text]}" if text in known else f"sentence {text}"
            for text in check_texts(texts, "`texts`")
        ]
        return np.array([self._draw(seed) for seed in seeds], np.float32).reshape(len(seeds), self.dim)

    def _draw(self, seed: str) -> np.ndarray:
        digest = hashlib.blake2b(seed.encode(), digest_size=8).digest()
        return np.random.default_rng(int.from_bytes(digest, "little")).standard_normal(self.dim)
