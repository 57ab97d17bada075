"""The table of known sentences, which need no language model; others get the encoder of training."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sb3_llmdpd.prompts import text_table
from sb3_llmdpd.prompts.text_cache import CachedTextEncoder
from sb3_llmdpd.prompts.text_encoders import PROBE_SENTENCE, HashingTextEncoder
from sb3_llmdpd.prompts.text_table import TextTable

MonkeyPatch = pytest.MonkeyPatch
TEXTS = ("open the drawer", "close the window", "push the puck")


class FixedEncoder:
    """Gives the vectors it was made with."""

    name = "fixed"
    dim = 2
    revision = "abc"

    def __init__(self, **vectors: Sequence[float]) -> None:
        self.vectors = {"probe": [1.0, 0.0], **vectors}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        keys = ["probe" if text == PROBE_SENTENCE else text for text in texts]
        return np.array([self.vectors[key] for key in keys], np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setenv("SB3_LLMDPD_CACHE", str(tmp_path))


@pytest.fixture
def table() -> TextTable:
    return TextTable.encode(TEXTS, HashingTextEncoder(8))


def restored(table: TextTable, encoder: Any = None, **changes: Any) -> TextTable:
    """Bring a table back as from a checkpoint: through JSON and plain arrays."""
    tensors = {key: np.array(value) for key, value in table.tensors().items()}
    return TextTable.from_parts(json.loads(json.dumps(table.to_dict())) | changes, tensors, encoder)


def no_encoder(spec: str, trusted: bool = True) -> None:
    raise AssertionError(f"the encoder {spec} was made")


def test_a_table_holds_each_distinct_sentence_once_in_its_first_order():
    table = TextTable.encode([*TEXTS, f" {TEXTS[0]}\n"], HashingTextEncoder(8))
    assert table.texts == TEXTS
    assert (len(table), table.dim, table.encoder_name, table.encoder_revision) == (3, 8, "hashing:8", "")
    assert_array_equal(table.vectors, HashingTextEncoder(8).encode(TEXTS))
    assert_array_equal(table.probe, HashingTextEncoder(8).encode([PROBE_SENTENCE])[0])


def test_the_row_of_a_sentence_is_found_to_the_letter(table):
    assert [table.index(text) for text in (TEXTS[1], f" {TEXTS[1]} ", "Close the window")] == [1, 1, None]


def test_known_sentences_need_no_encoder(table, monkeypatch):
    table = restored(table)
    monkeypatch.setattr(text_table, "cached_encoder", no_encoder)
    assert_array_equal(table.lookup([TEXTS[2], TEXTS[0], TEXTS[2]]), table.vectors[[2, 0, 2]])
    assert table.nearest(TEXTS[1]) == (TEXTS[1], pytest.approx(1))
    assert table.lookup([]).shape == (0, 8)


def test_a_table_is_restored_without_a_language_model(table, monkeypatch):
    for module in ("transformers", "sentence_transformers"):
        monkeypatch.setitem(sys.modules, module, None)  # importing it now fails
    table = restored(table, encoder_name="transformers:some/model")
    assert table.lookup(TEXTS).shape == (3, 8)


def test_an_unknown_sentence_gets_the_vector_of_the_encoder_of_training(table):
    table = restored(table)
    texts = ["pull the lever", TEXTS[0]]
    assert_array_equal(table.lookup(texts), HashingTextEncoder(8).encode(texts))
    assert table.texts == TEXTS


def test_an_unknown_sentence_is_encoded_once(monkeypatch):
    encoder = FixedEncoder(a=[1, 0], b=[0, 1])
    table = TextTable.encode(["a"], encoder)
    first = table.lookup(["b", "b"])
    monkeypatch.setattr(encoder, "encode", no_encoder)
    assert_array_equal(table.lookup(["b", "b"]), first)


def test_the_encoder_is_made_once_and_cached(table, monkeypatch):
    table = restored(table)
    table.lookup(["pull the lever"])
    monkeypatch.setattr(text_table, "cached_encoder", no_encoder)
    table.lookup(["turn the dial"])
    cached = CachedTextEncoder(HashingTextEncoder(8))
    monkeypatch.setattr(cached.encoder, "encode", no_encoder)
    assert_array_equal(cached.encode(["turn the dial"]), table.lookup(["turn the dial"]))


@pytest.mark.parametrize(
    ("probe", "message"),
    [([0.9, 0.3], r"relative distance 0\.316"), ([1.0, 0.0, 0.0], "dimension 3 instead of 2")],
)
def test_another_encoder_under_the_same_name_is_noticed(probe, message):
    table = TextTable.encode(["a"], FixedEncoder(a=[1, 0]))
    swapped = restored(table, FixedEncoder(probe=probe, b=[0, 1]))
    differs = r"trained with encoder 'fixed' \(revision abc\).* vectors differ .*"
    with pytest.raises(ValueError, match=differs + message):
        swapped.lookup(["b"])
    assert_array_equal(swapped.lookup(["a"]), [[1, 0]])  # known sentences go on working


def test_what_another_device_changes_in_a_vector_is_tolerated():
    table = TextTable.encode(["a"], FixedEncoder(a=[1, 0]))
    moved = restored(table, FixedEncoder(probe=[1, 1e-3], b=[0, 1]))
    assert_array_equal(moved.lookup(["b"]), [[0, 1]])


def test_an_encoder_that_cannot_be_made_again_is_answered_with_the_known_ones():
    table = restored(TextTable.encode(["a"], FixedEncoder(a=[1, 0])))
    with pytest.raises(ValueError, match=r"unknown text encoder 'fixed'. Known are:"):
        table.lookup(["b"])


def test_the_nearest_sentence_has_the_smallest_angle():
    table = TextTable.encode(["up", "right"], FixedEncoder(up=[0, 5], right=[1, 0], mostly_right=[4, 3]))
    text, cosine = table.nearest("mostly_right")
    assert text == "right"
    assert cosine == pytest.approx(0.8)


def test_without_known_sentences_none_is_nearest():
    with pytest.raises(ValueError, match="no sentence is known"):
        TextTable.encode([], HashingTextEncoder(8)).nearest("open the drawer")


def test_sentences_of_different_tasks_that_hardly_differ_are_named_in_one_warning():
    encoder = FixedEncoder(a=[1, 0], b=[1, 0.1], c=[0, 1], d=[0.1, 1])
    with pytest.warns(UserWarning, match=r"'a' and 'b' \(cosine 0\.995\)") as warned:
        TextTable.encode({"one": ["a"], "two": ["b"], "three": ["c", "d"]}, encoder)
    assert len(warned) == 1
    assert "'c' and 'd'" not in str(warned[0].message)  # phrasings of one task


def test_a_sentence_that_stands_for_two_tasks_is_named():
    with pytest.warns(UserWarning, match=r"'a' stands for \['push', 'push-back'\]"):
        TextTable.encode({"push": ["a"], "push-back": ["a"]}, FixedEncoder(a=[1, 0]))


def test_a_long_list_of_close_sentences_is_cut_short():
    vectors = {f"t{i}": [1.0, 0.01 * i] for i in range(8)}
    with pytest.warns(UserWarning, match=r"cosine.*, and 1 more\."):
        TextTable.encode({text: [text] for text in vectors}, FixedEncoder(**vectors))


def test_sentences_whose_tasks_differ_enough_give_no_warning():
    # warnings are errors in the tests; the same encoder's vectors of a plain list are not compared at all
    TextTable.encode({"one": ["a"], "two": ["c"]}, FixedEncoder(a=[1, 0], c=[0, 1]))
    TextTable.encode(["a", "b"], FixedEncoder(a=[1, 0], b=[1, 0]))


def test_a_table_comes_back_from_its_parts_to_the_bit(table):
    again = restored(table)
    assert again.to_dict() == table.to_dict()
    assert again.tensors().keys() == table.tensors().keys()
    for key, array in table.tensors().items():
        assert_array_equal(again.tensors()[key], array)


def test_the_vectors_of_a_table_cannot_be_changed(table):
    with pytest.raises(ValueError, match="read-only"):
        table.vectors[0] = 0
    rows = table.lookup(TEXTS)
    rows[:] = 0  # a copy
    assert_allclose(np.linalg.norm(table.vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("part", ["texts", "encoder_name", "encoder_revision", "vectors", "probe"])
def test_a_missing_part_is_named(table, part):
    data = {key: value for key, value in table.to_dict().items() if key != part}
    tensors = {key: value for key, value in table.tensors().items() if key != part}
    with pytest.raises(ValueError, match=f"lacks {part}"):
        TextTable.from_parts(data, tensors)


@pytest.mark.parametrize(
    ("texts", "vectors", "probe", "message"),
    [
        (["a"], np.zeros((2, 4)), np.zeros(4), r"a table of 1 texts needs .* got \(2, 4\) and \(4,\)"),
        (["a"], np.zeros((1, 4)), np.zeros(3), r"got \(1, 4\) and \(3,\)"),
        (["a", "a"], np.zeros((2, 4)), np.zeros(4), "the 2 texts of a table must differ, only 1 do"),
    ],
)
def test_bad_parts_are_refused(texts, vectors, probe, message):
    with pytest.raises(ValueError, match=message):
        TextTable(texts, vectors, "hashing:4", probe)


def test_an_empty_sentence_is_refused_with_its_task(table):
    with pytest.raises(ValueError, match="task 'push': a task text is empty"):
        TextTable.encode({"push": [" "]}, HashingTextEncoder(8))
    with pytest.raises(ValueError, match="`texts`: a task text is empty"):
        table.lookup([""])


@pytest.mark.parametrize(("vectors", "text"), [(dict(a=[np.nan, 0]), "a"), (dict(probe=[np.nan, 0]), "Put ")])
def test_an_encoder_that_gives_nan_is_refused(vectors, text):
    with pytest.raises(ValueError, match=f"'fixed' gave NaN or infinity for '{text}"):
        TextTable.encode(["a"], FixedEncoder(**{"a": [1, 0], **vectors}))
