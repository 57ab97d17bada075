"""Phases of a Meta-World episode: it reached its object, grasped it, lifted it, moved it, and was done."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from sb3_llmdpd.networks.metaworld_layout import GRIPPER, HAND, OBJECT

# Read off the scripted experts: the simulator's own `near_object`, `grasp_success` and `obj_to_target` mean
# another thing in each task, and nothing in some.
_NEAR, _REACH, _LIFT, _MOVE = 0.10, 0.07, 0.01, 0.04  # metres
_OPEN = 0.9


@dataclass(frozen=True)
class Phases:
    """Events of one episode, at any of its steps. The thresholds are the same in all tasks.

    :param reach: the hand was within 7 cm of the object.
    :param grasp: there, the fingers were closed to less than 0.9 of their opening.
    :param lift: the object rose by 1 cm, since the hand first came within 10 cm of it.
    :param move: the object was 4 cm from where it was then, in any direction. Before that, some tasks let the
        object settle over the first steps.
    :param place: success.
    :param closest: least distance of hand and object, in metres; that of the expert is 2 to 7 cm, by task.
    """

    reach: bool
    grasp: bool
    lift: bool
    move: bool
    place: bool
    closest: float


PHASES = tuple(field.name for field in fields(Phases) if field.name != "closest")
"""Names of the phases in order. Not every task has all of them: locking a door grasps nothing, and the expert
of hand-insert drags its cube without lifting it."""


class PhaseWatch:
    """Observer of the phases that running episodes pass.

    :param n_rows: number of episodes that run side by side.
    """

    def __init__(self, n_rows: int) -> None:
        self._start = np.full((n_rows, 3), np.nan)
        self._lowest = np.full(n_rows, np.inf)
        self._closest = np.full(n_rows, np.inf)
        self._passed = np.zeros((n_rows, len(PHASES)), bool)

    def see(self, row: int, observation: np.ndarray, info: dict[str, Any]) -> None:
        """Take note of a step of a row: the observation (39,) after it, and its info, with ``success``."""
        thing = observation[OBJECT]
        distance = float(np.linalg.norm(observation[HAND] - thing))
        self._closest[row] = min(self._closest[row], distance)
        if np.isnan(self._start[row, 0]) and distance <= _NEAR:
            self._start[row] = thing
        if not np.isnan(self._start[row, 0]):
            self._lowest[row] = min(self._lowest[row], thing[2])
        self._passed[row] |= (
            distance <= _REACH,
            distance <= _REACH and observation[GRIPPER] < _OPEN,
            thing[2] - self._lowest[row] >= _LIFT,
            bool(np.linalg.norm(thing - self._start[row]) >= _MOVE),
            bool(info.get("success", False)),
        )

    def phases(self, row: int) -> Phases:
        """Sum up the episode of a row."""
        passed = dict(zip(PHASES, self._passed[row].tolist(), strict=True))
        return Phases(**passed, closest=float(self._closest[row]))


def phase_rates(phases: Sequence[Phases]) -> dict[str, float]:
    """Compute the share of a cell's episodes, in [0, 1], that passed each phase."""
    return {name: float(np.mean([getattr(episode, name) for episode in phases])) for name in PHASES}
