"""Finds sentences of different tasks that a text encoder hardly tells apart."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch as th

from sb3_llmdpd.common.threads import one_thread
from sb3_llmdpd.prompts.language_models import unit_length

SIMILAR_COSINE = 0.95
"""Cosine of sentences of different tasks above which they are alike."""

ALL_PAIRS = 4_096
"""Most sentences of which all pairs are compared: the pairs of more take quadratic time and memory."""

_CELL, _ROUNDS = 256, 4  # found 98 % of the pairs at the limit among random vectors, 99.5 % among sentences


class AlikePair(NamedTuple):
    """Two sentences of different tasks, by their numbers, and the cosine of their vectors."""

    one: int
    other: int
    cosine: float


def alike_pairs(vectors: np.ndarray, owners: Sequence[Collection[str]]) -> list[AlikePair]:
    """Find for each sentence the nearest one of another task, if it is near.

    All pairs of up to `ALL_PAIRS` sentences are compared. More are compared where their vectors lie nearest
    to the same one of several that are drawn at random, in four rounds. Then memory grows as n and time
    nearly so, and two of a hundred pairs may be missed, fewer the nearer they are.

    :param vectors: (n, dim), raw vectors of the sentences.
    :param owners: tasks of each of the n sentences, at least one.
    :return: pairs with a cosine above `SIMILAR_COSINE`, each once, the nearest first.
    """
    n = len(vectors)
    if n < 2:
        return []
    # Sentences of zeros, which an encoder of labels does not know, are all alike to it.
    unit = np.hstack([unit_length(vectors), ~vectors.any(axis=1, keepdims=True)], dtype=np.float32)
    cosines, others = np.full(n, -np.inf, np.float32), np.zeros(n, np.int64)
    n_sentences = Counter(task for tasks in owners for task in tasks)
    several = [[task for task in tasks if n_sentences[task] > 1] for tasks in owners]
    with one_thread():  # of matrices so small, several wait for each other longer than they work
        for cell in _cells(unit):
            found, nearest = _nearest_of_another_task(unit[cell], [several[i] for i in cell.tolist()])
            nearer = found > cosines[cell]
            cosines[cell[nearer]], others[cell[nearer]] = found[nearer], cell[nearest[nearer]]
    alike = np.flatnonzero(cosines > SIMILAR_COSINE)
    alike = alike[np.argsort(-cosines[alike], kind="stable")]
    pairs = {(min(i, j), max(i, j)): float(cosines[i]) for i, j in zip(alike, others[alike], strict=True)}
    return [AlikePair(int(i), int(j), min(cosine, 1.0)) for (i, j), cosine in pairs.items()]


def _cells(unit: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the numbers of sentences that are compared with each other, of many sentences several times."""
    n = len(unit)
    if n <= ALL_PAIRS:
        yield np.arange(n)
        return
    generator = np.random.default_rng(0)  # the same findings for the same sentences
    for _ in range(_ROUNDS):
        order = generator.permutation(n)  # shuffled, so that a cell that is cut is cut at random
        centres = unit[order[: n // _CELL]]
        blocks = (order[start : start + ALL_PAIRS] for start in range(0, n, ALL_PAIRS))
        cell_of = np.concatenate([_products(unit[block], centres).argmax(axis=1) for block in blocks])
        order = order[np.argsort(cell_of, kind="stable")]
        for cell in np.split(order, np.cumsum(np.bincount(cell_of))[:-1]):
            for start in range(0, len(cell), 2 * _CELL):
                yield cell[start : start + 2 * _CELL]


def _nearest_of_another_task(
    unit: np.ndarray, owners: Sequence[Collection[str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest one of another task for each of m sentences: cosines (m,) and numbers (m,).

    The owners may leave out a task that has one sentence alone.
    """
    cosines = _products(unit, unit)  # (m, m)
    np.fill_diagonal(cosines, -np.inf)
    of_task: dict[str, list[int]] = {}
    for number, tasks in enumerate(owners):
        for task in tasks:
            of_task.setdefault(task, []).append(number)
    for numbers in of_task.values():
        if len(numbers) > 1:
            cosines[np.ix_(numbers, numbers)] = -np.inf  # sentences of one task may be alike
    nearest = cosines.argmax(axis=1)
    return cosines[np.arange(len(unit)), nearest], nearest


def _products(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    return (th.from_numpy(some) @ th.from_numpy(others).T).numpy()
