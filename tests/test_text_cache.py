"""The cache of sentence vectors: an encoder is asked once for a sentence, and no entry is half-written."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sb3_llmdpd.common import files
from sb3_llmdpd.common.files import default_cache_directory
from sb3_llmdpd.prompts.text_cache import CachedTextEncoder
from sb3_llmdpd.prompts.text_encoders import HashingTextEncoder, revision_of

MonkeyPatch = pytest.MonkeyPatch


class CountingEncoder(HashingTextEncoder):
    """Remembers what it was asked for."""

    def __init__(self, name: str = "counting", revision: str | None = "") -> None:
        super().__init__(dim=8)
        self.name = name
        self.revision = revision
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        return super().encode(texts)


TEXTS = ["open the drawer", "close it", "open the drawer"]
VECTORS = HashingTextEncoder(8).encode(TEXTS)


def entries(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_a_sentence_reaches_the_encoder_once(tmp_path):
    first, second = CountingEncoder(), CountingEncoder()
    assert_array_equal(CachedTextEncoder(first, tmp_path).encode(TEXTS), VECTORS)
    assert_array_equal(CachedTextEncoder(second, tmp_path).encode([*TEXTS, "push"])[:3], VECTORS)
    assert first.asked == ["open the drawer", "close it"]
    assert second.asked == ["push"]


def test_white_space_around_a_sentence_makes_no_other_entry(tmp_path):
    CachedTextEncoder(CountingEncoder(), tmp_path).encode(TEXTS)
    encoder = CountingEncoder()
    assert_array_equal(CachedTextEncoder(encoder, tmp_path).encode([" close it\n"]), VECTORS[1:2])
    assert encoder.asked == []


@pytest.mark.parametrize("other", [CountingEncoder("other"), CountingEncoder(revision="2")])
def test_another_encoder_or_revision_has_its_own_entries(other, tmp_path):
    CachedTextEncoder(CountingEncoder(revision="1"), tmp_path).encode(TEXTS)
    CachedTextEncoder(other, tmp_path).encode(["close it"])
    assert "close it" in other.asked
    assert len(entries(tmp_path)) == 3


def test_nothing_is_kept_of_weights_that_nobody_can_name(tmp_path):
    for _ in range(2):
        encoder = CountingEncoder(revision=None)
        assert_array_equal(CachedTextEncoder(encoder, tmp_path).encode(TEXTS), VECTORS)
        assert encoder.asked == ["open the drawer", "close it"]
    assert entries(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"no array at all"])
def test_a_damaged_entry_is_encoded_again_and_mended(content, tmp_path):
    CachedTextEncoder(CountingEncoder(), tmp_path).encode(["close it"])
    (entry,) = entries(tmp_path)
    whole = entry.read_bytes()
    entry.write_bytes(content)
    assert_array_equal(CachedTextEncoder(CountingEncoder(), tmp_path).encode(["close it"]), VECTORS[1:2])
    assert entry.read_bytes() == whole


def test_an_entry_that_holds_a_pickle_is_not_opened(tmp_path):
    CachedTextEncoder(CountingEncoder(), tmp_path).encode(["close it"])
    (entry,) = entries(tmp_path)
    np.save(entry, np.array([print], dtype=object), allow_pickle=True)
    assert_array_equal(CachedTextEncoder(CountingEncoder(), tmp_path).encode(["close it"]), VECTORS[1:2])


def test_an_interrupted_write_leaves_no_file(tmp_path, monkeypatch):
    def full_disk(path: Path, vector: np.ndarray, **options: bool) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.warns(UserWarning, match=r"cannot be written \(No space left on device\)"):
        vectors = CachedTextEncoder(CountingEncoder(), tmp_path).encode(TEXTS)
    assert_array_equal(vectors, VECTORS)
    assert entries(tmp_path) == []


def test_a_directory_that_cannot_be_made_is_said_and_does_no_harm(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match=r"set \$SB3_LLMDPD_CACHE"):
        assert_array_equal(CachedTextEncoder(CountingEncoder(), tmp_path / "file").encode(TEXTS), VECTORS)


def test_vectors_with_nan_are_refused_and_not_kept(tmp_path, monkeypatch):
    encoder = CountingEncoder()
    monkeypatch.setattr(encoder, "encode", lambda texts: np.full((len(texts), 8), np.nan))
    with pytest.raises(ValueError, match="gave NaN or infinity for 'open the drawer'"):
        CachedTextEncoder(encoder, tmp_path).encode(TEXTS)
    assert entries(tmp_path) == []


def test_the_cache_passes_for_the_encoder_behind_it(tmp_path):
    cached = CachedTextEncoder(CountingEncoder(revision="7"), tmp_path)
    assert (cached.name, cached.dim, revision_of(cached)) == ("counting", 8, "7")
    assert cached.encode([]).shape == (0, 8)


def test_the_environment_moves_the_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("SB3_LLMDPD_CACHE", str(tmp_path))
    assert CachedTextEncoder(HashingTextEncoder()).directory == tmp_path
    monkeypatch.delenv("SB3_LLMDPD_CACHE")
    assert default_cache_directory() == Path.home() / ".cache" / "sb3_llmdpd"


@pytest.mark.parametrize("asked", ["", "~/cache"])
def test_without_a_home_directory_the_cache_is_a_temporary_one_which_is_said_once(asked, monkeypatch):
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.delenv("HOME")
    monkeypatch.setenv("SB3_LLMDPD_CACHE", asked)
    files._temporary_caches.cache_clear()
    with pytest.warns(UserWarning, match=r"no home directory.* set \$SB3_LLMDPD_CACHE"):
        directory = default_cache_directory()
    assert default_cache_directory() == directory  # warnings are errors in the tests
    assert directory.is_relative_to(tempfile.gettempdir())
