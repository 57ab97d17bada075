"""Says whether the critic of a training has converged, by the curve of its mean value."""

from collections.abc import Mapping, Sequence

import numpy as np

VALUE = "train/q_value"
"""Name under which the mean value is logged."""

_LAST = 0.25
"""Share of the training, at its end, over which the value should stand still."""
_STILL = 0.05
"""Share of the value's whole range that it may move there."""
_FEWEST = 8
"""Points of a curve that says anything."""


def drift(steps: Sequence[float], values: Sequence[float]) -> float | None:
    """Compute how far a curve moves over the last quarter of its steps, by a line through that part.

    :param steps: (n,), increasing.
    :param values: (n,).
    :return: the move, as a signed share of the range of all values, 0 for a constant; None for fewer than
        eight points.
    """
    if len(steps) < _FEWEST:
        return None
    at, value = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    last = at >= at[-1] - _LAST * (at[-1] - at[0])
    if not np.ptp(value):
        return 0.0
    slope = np.polyfit(at[last] - at[-1], value[last], 1)[0]
    return float(slope * np.ptp(at[last]) / np.ptp(value))


def is_moving(rows: Sequence[Mapping[str, float]]) -> bool:
    """Tell whether a critic was trained, and has clearly not converged.

    :param rows: as for `critic_sentence`.
    """
    points = _points(rows)
    moved = drift(*zip(*points, strict=True)) if points else None
    return moved is not None and abs(moved) > _STILL


def critic_sentence(rows: Sequence[Mapping[str, float]]) -> str:
    """Say in one line whether the critic has converged.

    :param rows: learning curve, with ``step`` and ``train/q_value``.
    :return: the line; says so where no critic was trained, or the curve is too short.
    """
    points = _points(rows)
    if not points:
        return "No critic was trained, or its learning curve is not there."
    moved = drift(*zip(*points, strict=True))
    if moved is None:
        return f"Whether the critic has converged cannot be told from {len(points)} points of its curve."
    said = f"over the last quarter of the training its mean value moved by {abs(moved):.0%} of its range"
    if abs(moved) <= _STILL:
        return f"The critic has converged: {said}."
    way = "up" if moved > 0 else "down"
    return f"The critic has not converged: {said}, {way}. Train longer, or trust its values less."


def _points(rows: Sequence[Mapping[str, float]]) -> list[tuple[float, float]]:
    return [(row["step"], row[VALUE]) for row in rows if VALUE in row]
