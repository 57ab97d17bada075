"""Goals told in words: tasks of Meta-World whose goal lies at a named place, which the sentence alone says.

The scene shows nothing of the place where the observation hides the goal. Words of places are read from
``told_goals.toml`` and combined, so that every word can be known and its combination new.
"""

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import product
from typing import Any
from zlib import crc32

import numpy as np

COLUMNS = {"left": -0.2, "middle": 0.0, "right": 0.2}
"""Metres to the robot's right."""
ROWS = {"near": 0.5, "central": 0.75, "far": 0.9}
"""Metres from the robot."""
HEIGHTS = {"low": 0.1, "shoulder": 0.2, "high": 0.3}
"""Metres above the table."""
N_PHRASINGS = 16
"""Sentences of a task in training data."""
N_TESTS = 10
"""Sentences of a task of either kind that no data set holds."""
REARRANGED = "rearranged"
"""Style of sentences that are new, of a frame and words of the place that are known."""

_ON_TABLE = {"push": 0.015, "coffee-push": 0.0}
"""Height of the goal, in metres, in tasks that leave their object on the table."""
_HEIGHTS_OF = {"pick-place-wall": ("shoulder", "high")}
"""Heights of tasks that have not all; low, behind or before the wall, even the expert fails."""
_OUT_OF_REACH = {("coffee-push", "near", "middle")}
"""Places at which the expert fails: there the coffee machine stands where the mug begins."""
_WORDS: dict[str, Any] = tomllib.loads(
    files("sb3_llmdpd.data.metaworld").joinpath("told_goals.toml").read_text(encoding="utf-8")
)
BASES = tuple(_WORDS["tasks"])
"""Tasks that can be told any of the places."""
_KINDS = ("rows", "columns", "heights")


@dataclass(frozen=True)
class ToldGoal:
    """A task and the place of its goal.

    :param base: task of Meta-World that is played.
    :param row: key of `ROWS`.
    :param column: key of `COLUMNS`.
    :param height: key of `HEIGHTS`; None on the table.
    """

    base: str
    row: str
    column: str
    height: str | None = None

    @property
    def name(self) -> str:
        """Name of the task with its goal, as ``"reach-to-far-left-high"``."""
        return "-".join([self.base, "to", *self.words])

    @property
    def words(self) -> tuple[str, ...]:
        """Names of row, column and, above the table, height."""
        return tuple(word for word in (self.row, self.column, self.height) if word is not None)

    @property
    def position(self) -> tuple[float, float, float]:
        """Position of the goal: metres to the right, away from the robot, and up."""
        z = _ON_TABLE[self.base] if self.height is None else HEIGHTS[self.height]
        return (COLUMNS[self.column], ROWS[self.row], z)

    @property
    def opposite(self) -> str:
        """Name of the same task with its goal on the other side, or from the middle to the left."""
        other = {"left": "right", "right": "left", "middle": "left"}[self.column]
        return ToldGoal(self.base, self.row, other, self.height).name

    def texts(self) -> tuple[str, ...]:
        """Draw the sentences of training data, always the same."""
        return self._known()[:N_PHRASINGS]

    def rearranged(self) -> tuple[str, ...]:
        """Draw sentences that no data set holds, of phrasings that are in others."""
        return self._known()[N_PHRASINGS:]

    def paraphrases(self) -> tuple[str, ...]:
        """Draw sentences that no data set holds: one phrasing of each, of frame or place, is in no other."""
        return self._distinct(N_TESTS, np.random.default_rng(crc32(f"{self.name} anew".encode())), new=True)

    def _known(self) -> tuple[str, ...]:
        return self._distinct(
            N_PHRASINGS + N_TESTS, np.random.default_rng(crc32(self.name.encode())), new=False
        )

    def _distinct(self, n: int, rng: np.random.Generator, *, new: bool) -> tuple[str, ...]:
        said: dict[str, None] = {}
        while len(said) < n:
            said[self._sentence(rng, new=new)] = None
        return tuple(said)

    def _sentence(self, rng: np.random.Generator, *, new: bool) -> str:
        """Choose a phrasing of each part, of one part a new one, and an order of the place's words."""
        parts = [_WORDS["tasks"][self.base]]
        parts += [_WORDS[kind][word] for kind, word in zip(_KINDS, self.words, strict=False)]
        unknown = int(rng.integers(len(parts))) if new else None
        kinds = ("paraphrases" if number == unknown else "phrasings" for number in range(len(parts)))
        phrasings = [part[kind] for part, kind in zip(parts, kinds, strict=True)]
        frame, *place = (of_part[int(rng.integers(len(of_part)))] for of_part in phrasings)
        rng.shuffle(place)
        return str(frame.format(place=", ".join(place)))


def _told_goals() -> Iterator[ToldGoal]:
    for base, row, column in product(BASES, ROWS, COLUMNS):
        above = _HEIGHTS_OF.get(base, tuple(HEIGHTS))
        heights: Sequence[str | None] = (None,) if base in _ON_TABLE else above
        if (base, row, column) not in _OUT_OF_REACH:
            yield from (ToldGoal(base, row, column, height) for height in heights)


TOLD_GOALS: dict[str, ToldGoal] = {goal.name: goal for goal in _told_goals()}
"""All tasks with the places of their goals, by name."""


def group_of(goal: ToldGoal) -> int:
    """Deal a combination of task and place into one of five groups.

    :return: 0 to 4; no two places of a task that differ in one word alone are in one group.
    """
    numbers = [BASES.index(goal.base), 2 * list(ROWS).index(goal.row), list(COLUMNS).index(goal.column)]
    if goal.height is not None:
        numbers.append(3 * list(HEIGHTS).index(goal.height))
    return sum(numbers) % 5
