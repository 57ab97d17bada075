"""The search for sentences of different tasks that are alike: exact for few, in linear time for many."""

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from sb3_llmdpd.prompts.alike_texts import ALL_PAIRS, SIMILAR_COSINE, alike_pairs
from sb3_llmdpd.prompts.text_table import TextTable

MANY, DIM = ALL_PAIRS + 1_000, 64


def with_twins(n: int, n_twins: int, cosine: float) -> np.ndarray:
    """Make random vectors (n, DIM), of which row n_twins + i has the cosine to row i, for i < n_twins."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((n, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first, noise = vectors[:n_twins], rng.standard_normal((n_twins, DIM))
    noise -= (noise * first).sum(axis=1, keepdims=True) * first
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    vectors[n_twins : 2 * n_twins] = cosine * first + (1 - cosine**2) ** 0.5 * noise
    return vectors.astype(np.float32)


def own_tasks(n: int) -> list[list[str]]:
    return [[f"task {i}"] for i in range(n)]


def test_the_nearest_pairs_come_first_and_each_once():
    vectors = np.array([[1, 0], [1, 0.2], [1, 0.21], [0, 1]], np.float32)
    pairs = alike_pairs(vectors, own_tasks(4))
    assert [(pair.one, pair.other) for pair in pairs] == [(1, 2), (0, 1)]
    assert pairs[1].cosine == pytest.approx(1 / 1.04**0.5)


def test_sentences_that_share_one_of_several_tasks_are_no_pair():
    vectors = np.ones((3, 2), np.float32)
    assert alike_pairs(vectors, [["a", "b"], ["b", "c"], ["b"]]) == []
    assert alike_pairs(vectors, [["a", "b"], ["b", "c"], ["d"]])[0][:2] == (0, 2)


def test_no_sentence_is_no_pair():
    assert alike_pairs(np.zeros((0, 3), np.float32), []) == []


def test_of_many_sentences_nearly_all_alike_pairs_are_found():
    n_twins = 500
    pairs = alike_pairs(with_twins(MANY, n_twins, cosine=SIMILAR_COSINE + 0.002), own_tasks(MANY))
    assert {pair.other - pair.one for pair in pairs} == {n_twins}
    assert 0.95 * n_twins < len(pairs) <= n_twins


def test_the_same_sentences_give_the_same_pairs():
    vectors = with_twins(MANY, 50, cosine=0.96)
    assert alike_pairs(vectors, own_tasks(MANY)) == alike_pairs(vectors, own_tasks(MANY))


def test_many_sentences_of_two_tasks_that_are_all_the_same_are_found_alike():
    owners = [[f"task {i % 2}"] for i in range(MANY)]
    found = {number for pair in alike_pairs(np.ones((MANY, 2), np.float32), owners) for number in pair[:2]}
    assert_array_equal(sorted(found), np.arange(MANY))


class Vectors:
    """An encoder of fixed vectors, in the order of the sentences."""

    name, dim, revision = "vectors", DIM, ""

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.random.default_rng(0).standard_normal((len(texts), DIM)).astype(np.float32)


def test_reading_many_sentences_takes_memory_of_their_number_and_not_of_its_square():
    n = 8_000
    texts = {f"task {i}": [f"put block {i} away"] for i in range(n)}
    tracemalloc.start()
    TextTable.encode(texts, Vectors())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6  # bytes; all pairs at once would be 256e6
