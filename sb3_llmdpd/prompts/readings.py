"""Checks how much of a sentence a language model read, and says so of those that it read in part."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MULTILINGUAL = "sentence-transformers:sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
"""A small encoder of some fifty languages; it is downloaded once."""

MOST_UNKNOWN = 1 / 3
"""Largest share of tokens that a model may not know of a sentence that it is to read."""

ON_UNKNOWN = ("error", "warn")
"""Treatments of a sentence with more unknown tokens."""


class Reading(NamedTuple):
    """A sentence as an encoder read it; an encoder that counts no tokens gives the vector alone.

    :param vector: (dim,), float32.
    :param n_tokens: tokens of the sentence, with those that the tokenizer adds.
    :param n_read: tokens that the model took; the rest was cut off.
    :param unknown: share of the sentence's own tokens that the model does not know, from 0 to 1.
    """

    vector: np.ndarray
    n_tokens: int = 0
    n_read: int = 0
    unknown: float = 0.0


def check_readings(readings: Sequence[Reading], texts: Sequence[str], name: str, on_unknown: str) -> None:
    """Warn of sentences that a model read in part, and refuse those that it cannot read.

    :param readings: n readings.
    :param texts: the n sentences.
    :param name: name of the encoder.
    :param on_unknown: one of `ON_UNKNOWN`; ``"warn"`` refuses no sentence.
    :raises ValueError: when the model does not know more than `MOST_UNKNOWN` of a sentence's tokens.
    """
    pairs = list(zip(texts, readings, strict=True))
    if cut := [(text, reading) for text, reading in pairs if reading.n_read < reading.n_tokens]:
        text, reading = max(cut, key=lambda pair: pair[1].n_tokens)
        warnings.warn(
            f"text encoder {name!r} reads {reading.n_read} tokens, {text[:40]!r}... has {reading.n_tokens}"
            f"{_others(cut)}. What comes after is cut off; put what tells the tasks apart first",
            stacklevel=3,
        )
    if unknown := [(text, reading) for text, reading in pairs if reading.unknown > 0]:
        text, reading = max(unknown, key=lambda pair: pair[1].unknown)
        message = (
            f"text encoder {name!r} does not know {reading.unknown:.0%} of the tokens of {text!r}"
            f"{_others(unknown)}, and cannot tell apart what differs in them alone. Write the sentence in a"
            f" language that it reads, or train with a multilingual encoder: text_encoder={MULTILINGUAL!r}"
        )
        if reading.unknown > MOST_UNKNOWN and on_unknown != "warn":
            with_warning = f"{name}{'&' if '?' in name else '?'}unknown=warn"
            raise ValueError(
                f"{message}. More than {MOST_UNKNOWN:.0%} is refused; text_encoder={with_warning!r} makes it"
                " a warning"
            )
        warnings.warn(message, stacklevel=3)


def _others(pairs: Sequence[tuple[str, Reading]]) -> str:
    return f" (and there are {len(pairs) - 1:,} more such sentences)" if len(pairs) > 1 else ""
