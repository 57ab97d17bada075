"""The protocol of a text encoder, with the specs by which one is named and made."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol
from urllib.parse import parse_qsl

import numpy as np

from sb3_llmdpd.data.checks import check_texts
from sb3_llmdpd.prompts.language_models import (
    MiniLMTextEncoder,
    SentenceTransformersTextEncoder,
    TransformersTextEncoder,
    unit_length,
)
from sb3_llmdpd.prompts.readings import Reading
from sb3_llmdpd.prompts.task_encoders import REGISTRIES, OneHotTextEncoder, RandomTextEncoder

PROBE_SENTENCE = "Put the red block next to the blue one, then close the drawer."
"""Its vector is kept with a trained model, so that a swapped encoder is noticed."""

KNOWN_SPECS = """\
  "minilm"                              all-MiniLM-L6-v2 as packaged by sb3-llmdpd[offline]: needs no network;
                                        options pooling=mean|first-last, and unknown=error|warn: what becomes
                                        of a sentence it cannot read
  "sentence-transformers:NAME_OR_PATH"  the same, and revision, dtype, device, local_files_only
  "transformers:NAME_OR_PATH"           the same, and pooling=mean|last|first-last, normalize,
                                        max_length
  "hashing:DIM"                         hashed character n-grams: for tests, knows no meaning
  "one-hot:metaworld"                   Meta-World task of a known sentence, as a control; zeros for others
  "random:metaworld"                    a random vector of the task instead; any other sentence has its own
Options follow a question mark: "transformers:gpt2?pooling=last&dtype=bfloat16&local_files_only=1"."""
"""Specs that `make_text_encoder` accepts, for help texts and error messages."""


_BUILT_IN = ("minilm", "hashing", "one-hot", "random")
"""Kinds of encoders that the package brings, or finds in a package that it chose: no spec says where."""


class TextEncoder(Protocol):
    """Turns sentences into vectors of one length, always the same vector for the same sentence.

    An encoder whose weights may change under one name also has a ``revision``, see `revision_of`. One that
    knows what of a sentence it did not read also has a method ``read``, see `readings_of`.
    """

    @property
    def name(self) -> str:
        """Spec that makes this encoder again through `make_text_encoder`."""

    @property
    def dim(self) -> int:
        """Length of a sentence's vector."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode sentences.

        :param texts: n sentences.
        :return: (n, dim), float32, raw: not standardised.
        """


class HashingTextEncoder:
    """Hashed character n-grams, for tests: deterministic, without weights, and blind to meaning.

    :param dim: length of the vectors.
    :raises ValueError: when ``dim`` is not from 1 to 2^16.
    """

    default_dim = 256
    largest_dim = 2**16
    _ngram_lengths = (3, 4, 5)

    def __init__(self, dim: int = default_dim) -> None:
        if (
            not 1 <= dim <= self.largest_dim
        ):  # a file may name it: its vectors must not take all of the memory
            raise ValueError(f"`dim` must be from 1 to {self.largest_dim:,}, got {dim}")
        self.dim = dim
        self.name = f"hashing:{dim}"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode sentences.

        :param texts: n sentences.
        :return: (n, dim), float32, rows of length 1.
        """
        sentences = check_texts(texts, "`texts`")
        vectors = np.zeros((len(sentences), self.dim), np.float32)
        for vector, sentence in zip(vectors, sentences, strict=True):
            padded = f"  {sentence.casefold()}  "
            for length in self._ngram_lengths:
                for start in range(len(padded) - length + 1):
                    # blake2b and not hash(), which differs from process to process
                    digest = hashlib.blake2b(padded[start : start + length].encode(), digest_size=8).digest()
                    number = int.from_bytes(digest, "little")
                    vector[(number >> 1) % self.dim] += 1.0 if number & 1 else -1.0
        return unit_length(vectors)


def make_text_encoder(spec: str) -> TextEncoder:
    """Make an encoder from its name; its model is loaded at the first use.

    :param spec: ``"minilm"``, ``"sentence-transformers:NAME_OR_PATH"``, ``"transformers:NAME_OR_PATH"``,
        ``"hashing:DIM"``, ``"one-hot:metaworld"`` or ``"random:metaworld"``, with options as in
        ``"transformers:gpt2?pooling=last&dtype=bfloat16&device=cpu&local_files_only=1&revision=main"``.
    :return: the encoder.
    :raises TypeError: when ``spec`` is not a string.
    :raises ValueError: on an unknown form, option or value.
    """
    if not isinstance(spec, str):
        got = type(spec).__name__
        raise TypeError(f"a text encoder is named by a string, got {got}. Known are:\n{KNOWN_SPECS}")
    head, _, query = spec.partition("?")
    kind, _, model = head.partition(":")
    options = partial(_read_options, spec, query)
    if kind == "minilm" and not model:
        return MiniLMTextEncoder(**options(_UNKNOWN_OPTION | {"pooling": str}))
    if kind == "hashing" and (model.isdecimal() or not model):
        return HashingTextEncoder(int(model or HashingTextEncoder.default_dim), **options({}))
    if kind == "one-hot" and model in REGISTRIES:
        return OneHotTextEncoder(model, **options({}))
    if kind == "random" and model in REGISTRIES:
        return RandomTextEncoder(model, **options({}))
    if kind == "sentence-transformers" and model:
        return SentenceTransformersTextEncoder(model, **options(_MODEL_OPTIONS))
    if kind == "transformers" and model:
        return TransformersTextEncoder(model, **options(_MODEL_OPTIONS | _POOLING_OPTIONS))
    raise ValueError(f"unknown text encoder {spec!r}. Known are:\n{KNOWN_SPECS}")


def is_built_in(spec: str) -> bool:
    """Tell whether an encoder reads nothing whose place its name decides: no folder, and no model of the hub.

    :param spec: name, see `make_text_encoder`.
    """
    return spec.partition("?")[0].partition(":")[0] in _BUILT_IN


def probe(encoder: TextEncoder) -> np.ndarray:
    """Encode `PROBE_SENTENCE`, by whose vector, (dim,) float32, a swapped encoder is noticed."""
    return readings_of(encoder, [PROBE_SENTENCE])[0].vector  # in silence: it need not be the user's language


def readings_of(encoder: TextEncoder, texts: Sequence[str]) -> list[Reading]:
    """Encode sentences, and learn what of them the encoder did not read.

    :param encoder: any encoder. Without a method ``read(texts) -> list[Reading]`` it has read everything.
    :param texts: n sentences.
    :return: n readings.
    :raises ValueError: on an empty sentence, or when the encoder gives NaN or a wrong shape.
    """
    read: Callable[[Sequence[str]], list[Reading]] | None = getattr(encoder, "read", None)
    if read is None:
        return [Reading(vector) for vector in check_vectors(encoder.encode(texts), texts, encoder)]
    readings = read(texts)
    if readings:
        check_vectors(np.stack([reading.vector for reading in readings]), texts, encoder)
    return readings


def revision_of(encoder: TextEncoder) -> str | None:
    """Tell which weights an encoder has, beyond its name.

    :param encoder: any encoder.
    :return: a commit or a digest; ``""`` for an encoder without such a thing; None while nobody can know (a
        model of the hub that is not on this machine yet).
    """
    return getattr(encoder, "revision", "")


def check_vectors(vectors: np.ndarray, texts: Sequence[str], encoder: TextEncoder) -> np.ndarray:
    """Check the vectors that an encoder gave.

    :param vectors: (n, dim), of any float type.
    :param texts: the n sentences.
    :param encoder: encoder to name in the message.
    :return: (n, dim), float32.
    :raises ValueError: on another shape, NaN or infinity.
    """
    array, n = np.asarray(vectors, np.float32), len(texts)
    if array.ndim != 2 or len(array) != n:
        raise ValueError(
            f"text encoder {encoder.name!r} must give ({n}, dim) for {n} texts, got {array.shape}"
        )
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        raise ValueError(
            f"text encoder {encoder.name!r} gave NaN or infinity for {texts[int(bad.argmax())]!r};"
            " use a wider dtype (float32) or another encoder"
        )
    return array


def _boolean(value: str) -> bool:
    return {"1": True, "true": True, "0": False, "false": False}[value.lower()]


_Readers = dict[str, Callable[[str], Any]]
_UNKNOWN_OPTION: _Readers = {"unknown": str}
_MODEL_OPTIONS: _Readers = {
    **_UNKNOWN_OPTION,
    "revision": str,
    "dtype": str,
    "device": str,
    "local_files_only": _boolean,
}
_POOLING_OPTIONS: _Readers = {"pooling": str, "normalize": _boolean, "max_length": int}


def _read_options(spec: str, query: str, readers: _Readers) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in readers:
            known = sorted(readers) or "none"
            raise ValueError(f"text encoder {spec!r}: unknown option {key!r}, known here are {known}")
        try:
            options[key] = readers[key](value)
        except (KeyError, ValueError) as error:
            wanted = "1 or 0" if readers[key] is _boolean else "a whole number"
            raise ValueError(f"text encoder {spec!r}: {key!r} must be {wanted}, got {value!r}") from error
    return options
