"""`TextTable`, the sentences a model knows, each encoded once."""

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from sb3_llmdpd.data.checks import check_texts
from sb3_llmdpd.prompts.alike_texts import alike_pairs
from sb3_llmdpd.prompts.language_models import unit_length
from sb3_llmdpd.prompts.text_cache import cached_encoder
from sb3_llmdpd.prompts.text_encoders import TextEncoder, check_vectors, probe, revision_of

PROBE_TOLERANCE = 0.02
"""Largest relative distance of two probe vectors of one encoder.

Another device, dtype or version of the library changes less; "open the faucet" and "close the faucet" differ
by ten times as much."""

_LEAST_SCALE = 1e-6
_MOST_COMPARED = 500

_DATA = ("texts", "encoder_name", "encoder_revision")
_TENSORS = ("vectors", "probe")


class TextTable:
    """Known sentences with their raw vectors; any other sentence is encoded at its first use, and remembered.

    Looking up a known sentence needs no language model.

    :param texts: the n distinct sentences.
    :param vectors: (n, dim), raw: not standardised.
    :param encoder_name: spec of the encoder they come from (see `make_text_encoder`).
    :param probe: (dim,), the encoder's vector of `PROBE_SENTENCE`.
    :param encoder_revision: weights of that encoder, where they are known (see `revision_of`).
    :param encoder: encoder of other sentences, in place of one made from ``encoder_name``.
    :param trusted: True where an encoder may be made from ``encoder_name``, see `cached_encoder`.
    :raises ValueError: when the parts do not fit together.
    """

    def __init__(
        self,
        texts: Sequence[str],
        vectors: np.ndarray,
        encoder_name: str,
        probe: np.ndarray,
        *,
        encoder_revision: str | None = "",
        encoder: TextEncoder | None = None,
        trusted: bool = True,
    ) -> None:
        self.texts = tuple(texts)
        self.vectors = _read_only(vectors)
        self.probe = _read_only(probe)
        self.encoder_name = encoder_name
        self.encoder_revision = encoder_revision
        n = len(self.texts)
        if self.probe.ndim != 1 or self.vectors.shape != (n, len(self.probe)):
            raise ValueError(
                f"a table of {n} texts needs `vectors` ({n}, dim) and `probe` (dim,),"
                f" got {self.vectors.shape} and {self.probe.shape}"
            )
        self._index = {text: i for i, text in enumerate(self.texts)}
        if len(self._index) < n:
            raise ValueError(f"the {n} texts of a table must differ, only {len(self._index)} do")
        self._encoder = encoder
        self._trusted = trusted
        self._encoder_is_checked = False
        self._other_vectors: dict[str, np.ndarray] = {}

    @classmethod
    def encode(cls, texts: Sequence[str] | Mapping[str, Sequence[str]], encoder: TextEncoder) -> "TextTable":
        """Encode sentences into a table.

        :param texts: sentences, or the sentences of each task by its name; then a warning names those of
            different tasks that are the same, or hardly differ in the encoder's eyes (see `alike_pairs`).
        :param encoder: encoder of these, and later of other sentences.
        :return: the table of the distinct sentences, in order of first appearance.
        :raises ValueError: on an empty sentence, on one that the encoder cannot read, or when the encoder
            gives NaN or a wrong shape.
        """
        by_task = texts if isinstance(texts, Mapping) else {"": texts}
        names = {task: f"task {task!r}" if task else "`texts`" for task in by_task}
        checked = {task: check_texts(own, names[task]) for task, own in by_task.items()}
        distinct = tuple(dict.fromkeys(text for own in checked.values() for text in own))
        vectors = check_vectors(encoder.encode(distinct), distinct, encoder)
        probed, revision = probe(encoder), revision_of(encoder)
        table = cls(distinct, vectors, encoder.name, probed, encoder_revision=revision, encoder=encoder)
        table._encoder_is_checked = True
        table._warn_of_similar_tasks(checked)
        return table

    @property
    def dim(self) -> int:
        """Length of a sentence's vector."""
        return len(self.probe)

    def __len__(self) -> int:
        """Number of known sentences."""
        return len(self.texts)

    def index(self, text: str) -> int | None:
        """Find the row of a known sentence.

        :param text: sentence, compared to the letter but for white space around it.
        :return: its row in `texts` and `vectors`, None when it is not known.
        """
        return self._index.get(text.strip())

    def lookup(self, texts: Sequence[str]) -> np.ndarray:
        """Look up the raw vectors of sentences, known or not.

        :param texts: m sentences.
        :return: (m, dim), float32.
        :raises ValueError: on an empty sentence, on one that the encoder cannot read, or on an encoder that
            cannot be made again, is not trusted, or has changed.
        """
        sentences = check_texts(texts, "`texts`")
        distinct = dict.fromkeys(sentences)
        others = [text for text in distinct if text not in self._index and text not in self._other_vectors]
        if others:
            encoder = self._checked_encoder()
            vectors = check_vectors(encoder.encode(others), others, encoder)
            self._other_vectors.update(zip(others, vectors, strict=True))
        if not sentences:
            return np.zeros((0, self.dim), np.float32)
        known, other = self._index, self._other_vectors
        return np.stack([self.vectors[known[text]] if text in known else other[text] for text in sentences])

    def extended(self, texts: Sequence[str]) -> "TextTable":
        """Make a table with more sentences.

        :param texts: sentences, known or not.
        :return: a table that knows them all, the known ones first; this one when there is nothing new.
        :raises ValueError: as `lookup`.
        """
        new = [text for text in dict.fromkeys(check_texts(texts, "`texts`")) if text not in self._index]
        if not new:
            return self
        tensors = {"vectors": np.concatenate([self.vectors, self.lookup(new)]), "probe": self.probe}
        data = self.to_dict() | {"texts": [*self.texts, *new]}
        table = TextTable.from_parts(data, tensors, self._encoder)
        table._encoder_is_checked = True  # by `lookup`
        return table

    def read_by(self, encoder: TextEncoder) -> "TextTable":
        """Make a table whose other sentences are read by the encoder of training in another place.

        :param encoder: the same language model, moved or with other options.
        :return: a table with the same sentences and vectors, and the name of this encoder.
        :raises ValueError: when its vector of the probe sentence is another one.
        """
        self._check_encoder(encoder)
        named = {"encoder_name": encoder.name, "encoder_revision": revision_of(encoder)}
        table = TextTable.from_parts(self.to_dict() | named, self.tensors(), encoder)
        table._encoder_is_checked = True
        return table

    def nearest(self, text: str) -> tuple[str, float]:
        """Find the known sentence that is nearest in meaning, in the encoder's eyes.

        :param text: any sentence.
        :return: the known sentence, and the cosine of the angle between both.
        :raises ValueError: when no sentence is known, or ``text`` cannot be looked up.
        """
        if not self.texts:
            raise ValueError("no sentence is known, so none is nearest")
        cosines = unit_length(self.vectors) @ unit_length(self.lookup([text]))[0]  # (n,)
        best = int(cosines.argmax())
        return self.texts[best], float(cosines[best])

    def likeness(self, vectors: np.ndarray) -> np.ndarray:
        """Compare sentences with the known ones, as the policy sees them: standardised over these.

        Raw vectors hardly differ: those of "open the drawer" and "close the drawer" have a cosine of 0.9.

        :param vectors: (m, dim), raw vectors of m sentences.
        :return: (m, n), cosines of the standardised vectors, in [-1, 1].
        """
        mean, scale, known = self._standardised
        cosines: np.ndarray = unit_length((vectors - mean) / scale) @ known.T
        return cosines

    @cached_property
    def least_likeness(self) -> float:
        """Likeness to its nearest neighbour of the known sentence that is farthest from all others.

        At most `_MOST_COMPARED` sentences are looked at, spread over all. With one sentence it is -1.
        """
        if len(self) < 2:
            return -1.0
        rows = np.unique(np.linspace(0, len(self) - 1, min(len(self), _MOST_COMPARED)).round().astype(int))
        cosines = self.likeness(self.vectors[rows])
        cosines[np.arange(len(rows)), rows] = -1.0
        return float(cosines.max(axis=1).min())

    @cached_property
    def _standardised(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(mean, scale, known vectors of length 1); a single sentence has nothing to be standardised over."""
        mean = self.vectors.mean(axis=0) if len(self) > 1 else np.zeros(self.dim, np.float32)
        scale = self.vectors.std(axis=0) if len(self) > 1 else np.ones(self.dim, np.float32)
        scale = np.where(scale > _LEAST_SCALE, scale, 1.0).astype(np.float32)
        return mean, scale, unit_length((self.vectors - mean) / scale)

    def to_dict(self) -> dict[str, Any]:
        """Give the part of the table that is JSON; `tensors` is the rest."""
        return {name: getattr(self, name) for name in _DATA} | {"texts": list(self.texts)}

    def tensors(self) -> dict[str, np.ndarray]:
        """Give the arrays of the table: ``vectors`` (n, dim) and ``probe`` (dim,), float32."""
        return {name: getattr(self, name) for name in _TENSORS}

    @classmethod
    def from_parts(
        cls,
        data: Mapping[str, Any],
        tensors: Mapping[str, np.ndarray],
        encoder: TextEncoder | None = None,
        trusted: bool = True,
    ) -> "TextTable":
        """Put a table together again; no encoder is made yet.

        :param data: mapping from `to_dict`.
        :param tensors: mapping from `tensors`.
        :param encoder: encoder of other sentences, in place of one made from the encoder's name.
        :param trusted: True where one may be made from that name, see `cached_encoder`.
        :return: the table.
        :raises ValueError: when a part is missing or does not fit.
        """
        parts = {name: data[name] for name in _DATA if name in data}
        parts |= {name: tensors[name] for name in _TENSORS if name in tensors}
        missing = {*_DATA, *_TENSORS} - parts.keys()
        if missing:
            names = ", ".join(sorted(missing))
            raise ValueError(f"the table of task texts lacks {names}; the file was not written whole")
        if not isinstance(parts["encoder_name"], str):
            raise ValueError(f"the table of task texts names the text encoder {parts['encoder_name']!r}")
        return cls(**parts, encoder=encoder, trusted=trusted)

    def _checked_encoder(self) -> TextEncoder:
        if self._encoder is None:
            self._encoder = cached_encoder(self.encoder_name, self._trusted)
        if not self._encoder_is_checked:
            self._check_encoder(self._encoder)
            self._encoder_is_checked = True
        return self._encoder

    def _check_encoder(self, encoder: TextEncoder) -> None:
        found = probe(encoder)
        if found.shape == self.probe.shape:
            # A probe of zeros, from an encoder of labels, has no length to measure by.
            length = float(np.linalg.norm(self.probe)) or 1.0
            distance = float(np.linalg.norm(found - self.probe)) / length
            if distance <= PROBE_TOLERANCE:
                return
            detail = f"relative distance {distance:.3g}"
        else:
            detail = f"dimension {len(found)} instead of {self.dim}"
        raise ValueError(
            f"this model was trained with encoder {self.encoder_name!r} (revision"
            f" {self.encoder_revision or 'unknown'}), whose vectors differ from those of {encoder.name!r}"
            f" (revision {revision_of(encoder) or 'unknown'}) as found here: {detail} on a probe sentence."
            f" Put the encoder of training back, or use one of the {len(self)} known sentences,"
            " which need no encoder"
        )

    def _warn_of_similar_tasks(self, by_task: Mapping[str, Sequence[str]]) -> None:
        tasks_of: dict[str, dict[str, None]] = {text: {} for text in self.texts}
        for task, texts in by_task.items():
            for text in texts:
                tasks_of[text][task] = None
        found = [f"{text!r} stands for {sorted(tasks)}" for text, tasks in tasks_of.items() if len(tasks) > 1]
        found += [
            f"{self.texts[pair.one]!r} and {self.texts[pair.other]!r} (cosine {pair.cosine:.3f})"
            for pair in alike_pairs(self.vectors, list(tasks_of.values()))
        ]
        if found:
            more = f", and {len(found) - 5:,} more" if len(found) > 5 else ""
            warnings.warn(
                f"encoder {self.encoder_name!r} hardly tells the texts of different tasks apart:"
                f" {'; '.join(found[:5])}{more}. A policy told by text alone will mix them up;"
                " word them further apart, or give an example trajectory",
                stacklevel=3,
            )


def _read_only(array: np.ndarray) -> np.ndarray:
    copy = np.array(array, np.float32)
    copy.setflags(write=False)
    return copy
