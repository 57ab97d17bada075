"""A cache of sentence vectors on disk, in front of any text encoder."""

import hashlib
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sb3_llmdpd.common.files import CACHE_VARIABLE, default_cache_directory, whole_file
from sb3_llmdpd.data.checks import check_texts
from sb3_llmdpd.prompts.readings import Reading, check_readings
from sb3_llmdpd.prompts.text_encoders import (
    TextEncoder,
    is_built_in,
    make_text_encoder,
    readings_of,
    revision_of,
)

_LONGEST_SHOWN = 200
"""Characters of a file's word that a message quotes."""

_COUNTS = {"n_tokens": np.int64, "n_read": np.int64, "unknown": np.float64}


class CachedTextEncoder:
    """An encoder that remembers on disk, by its name, its revision and the sentence.

    Only sentences that are not there reach the encoder, so that a known one loads no model. What the encoder
    did not read of a sentence is remembered, too, and said again. Every entry is one ``.npy`` file, written
    under a temporary name and renamed: an entry is whole or absent, and many processes may share a directory.

    :param encoder: encoder of what the cache lacks.
    :param directory: folder of the entries, `default_cache_directory` if None. It can be deleted at any time.
    """

    def __init__(self, encoder: TextEncoder, directory: str | os.PathLike[str] | None = None) -> None:
        self.encoder = encoder
        self.directory = default_cache_directory() if directory is None else Path(directory).expanduser()

    @property
    def name(self) -> str:
        """The encoder's own name: the cache changes no vector."""
        return self.encoder.name

    @property
    def dim(self) -> int:
        """Length of a sentence's vector."""
        return self.encoder.dim

    @property
    def revision(self) -> str | None:
        """The encoder's own revision, see `revision_of`."""
        return revision_of(self.encoder)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode sentences, those in the cache without the encoder.

        :param texts: n sentences.
        :return: (n, dim), float32.
        :raises ValueError: on an empty sentence, on one that the encoder cannot read, or when the encoder
            gives NaN or a wrong shape.
        """
        readings = self.read(texts)
        if not readings:
            return np.zeros((0, self.dim), np.float32)
        check_readings(readings, texts, self.name, getattr(self.encoder, "unknown", "error"))
        return np.stack([reading.vector for reading in readings])

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Encode sentences as `encode` does, and say nothing of those that are read in part."""
        sentences = check_texts(texts, "`texts`")
        folder = self._folder()
        found = _read(folder, sentences) if folder is not None else {}
        missing = [text for text in dict.fromkeys(sentences) if text not in found]
        if missing:
            new = dict(zip(missing, readings_of(self.encoder, missing), strict=True))
            folder = self._folder()  # again: the encoder may have fetched its weights only now
            if folder is not None:
                _write(folder, new)
            found |= new
        return [found[text] for text in sentences]

    def _folder(self) -> Path | None:
        """Name the folder of this encoder's entries; None while nobody can know which weights it has."""
        revision = self.revision
        if revision is None:
            return None
        key = hashlib.sha256(f"{self.name}\n{revision}".encode()).hexdigest()[:16]
        readable = re.sub(r"[^A-Za-z0-9]+", "-", self.name)[-60:].strip("-")
        return self.directory / "texts" / f"{readable}-{key}"


def cached_encoder(spec: str, trusted: bool = True) -> CachedTextEncoder:
    """Make an encoder from its name, behind the cache.

    :param spec: name, see `make_text_encoder`.
    :param trusted: False for a name out of a model file whose reader has not said yes to it. One that is not
        built in is then refused, since whoever wrote the file has chosen what it reads.
    :return: the encoder; its model is loaded at the first use.
    :raises ValueError: on a name that is unknown, or not trusted.
    """
    if not trusted and not is_built_in(spec):
        shown = repr(spec[:_LONGEST_SHOWN])
        raise ValueError(
            f"the model file names the text encoder {shown}, which is not built in: a folder of this machine,"
            " or a model of the Hugging Face hub, that the file's author chose. If you trust it, load with"
            " trust_encoder=True (on the command line --trust-encoder), or name its place yourself:"
            " LLMDPD.load(path, text_encoder=NAME). Known sentences need no encoder"
        )
    return CachedTextEncoder(make_text_encoder(spec))


def _read(folder: Path, texts: Sequence[str]) -> dict[str, Reading]:
    found = {}
    for text in texts:
        try:
            entry = np.load(folder / _file_name(text), allow_pickle=False)
        except (OSError, ValueError, EOFError):  # absent, or damaged: encoded again
            continue
        # An entry of an earlier version is the vector alone, which does not say what was not read.
        if entry.dtype.names == Reading._fields and np.isfinite(entry["vector"]).all():
            found[text] = Reading(*entry[()])
    return found


def _write(folder: Path, readings: dict[str, Reading]) -> None:
    try:
        for text, reading in readings.items():
            with whole_file(folder / _file_name(text)) as temporary:
                np.save(temporary, _entry(reading), allow_pickle=False)
    except OSError as error:
        warnings.warn(
            f"the cache of sentence vectors cannot be written ({error}), so they will be computed again;"
            f" set ${CACHE_VARIABLE} to a directory that can be written",
            stacklevel=3,
        )


def _entry(reading: Reading) -> np.ndarray:
    """Make one record of a reading, whose fields have its names."""
    types = [("vector", np.float32, reading.vector.shape), *_COUNTS.items()]
    return np.array(tuple(reading), types)


def _file_name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest() + ".npy"
