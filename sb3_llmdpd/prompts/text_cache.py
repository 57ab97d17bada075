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
from sb3_llmdpd.prompts.text_encoders import TextEncoder, check_vectors, revision_of


class CachedTextEncoder:
    """An encoder that remembers on disk, by its name, its revision and the sentence.

    Only sentences that are not there reach the encoder, so that a known one loads no model. Every entry is
    one ``.npy`` file, written under a temporary name and renamed: an entry is whole or absent, and many
    processes may share a directory.

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
        :raises ValueError: on an empty sentence, or when the encoder gives NaN or a wrong shape.
        """
        sentences = check_texts(texts, "`texts`")
        if not sentences:
            return self.encoder.encode(sentences)
        folder = self._folder()
        found = _read(folder, sentences) if folder is not None else {}
        missing = [text for text in dict.fromkeys(sentences) if text not in found]
        if missing:
            vectors = check_vectors(self.encoder.encode(missing), missing, self.encoder)
            new = dict(zip(missing, vectors, strict=True))
            folder = self._folder()  # again: the encoder may have fetched its weights only now
            if folder is not None:
                _write(folder, new)
            found |= new
        return np.stack([found[text] for text in sentences])

    def _folder(self) -> Path | None:
        """Name the folder of this encoder's entries; None while nobody can know which weights it has."""
        revision = self.revision
        if revision is None:
            return None
        key = hashlib.sha256(f"{self.name}\n{revision}".encode()).hexdigest()[:16]
        readable = re.sub(r"[^A-Za-z0-9]+", "-", self.name)[-60:].strip("-")
        return self.directory / "texts" / f"{readable}-{key}"


def _read(folder: Path, texts: Sequence[str]) -> dict[str, np.ndarray]:
    found = {}
    for text in texts:
        try:
            vector = np.load(folder / _file_name(text), allow_pickle=False)
        except (OSError, ValueError, EOFError):  # absent, or damaged: encoded again
            continue
        if vector.ndim == 1 and vector.dtype == np.float32 and np.isfinite(vector).all():
            found[text] = vector
    return found


def _write(folder: Path, vectors: dict[str, np.ndarray]) -> None:
    try:
        for text, vector in vectors.items():
            with whole_file(folder / _file_name(text)) as temporary:
                np.save(temporary, vector, allow_pickle=False)
    except OSError as error:
        warnings.warn(
            f"the cache of sentence vectors cannot be written ({error}), so they will be computed again;"
            f" set ${CACHE_VARIABLE} to a directory that can be written",
            stacklevel=3,
        )


def _file_name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest() + ".npy"
