"""Judges what held-out errors and distances mean: the prompt to use, tasks that work, odd episodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MARGIN = 0.1
"""Share by which another prompt's error must be below that of an example alone to be advised."""
WORKS = 0.3
"""Share of the error without a prompt that a prompt must take away for a task to count as one that works."""
ODD_Z, ODD_TIMES = 3.5, 2.0
"""Robust z, and error over the median of its task, from which an episode disagrees with its task."""

LIKELY, OPEN, UNLIKELY = "likely", "open", "unlikely"
"""Verdicts."""
_LIKELY_GAIN, _UNLIKELY_GAIN = 0.4, 0.2
"""Gains from which and below which a verdict on measured errors is sure."""
_LIKELY_FROM, _UNLIKELY_UNTIL = 0.7, 0.2
"""Shares of the tasks that were left out and lie as far, of which those that worked decide the verdict."""
_AS_FAR = 5
"""Tasks that were left out, those with the most similar distance, that are counted for a verdict."""

_SMALLEST_SCALE = 0.05
"""Smallest scale of the logarithms of errors: where all episodes agree, none is odd by a hair."""
_MAD_TO_DEVIATION = 1.4826
_ORDER = ("example", "both", "sentence", "none")


def advised_prompt(errors: Mapping[str, float], margin: float = MARGIN) -> str:
    """Choose the prompt of a task: an example alone, unless another one has a clearly lower error.

    Errors of the example with and without a sentence differ little, and a sentence that was never trained on
    costs more success than they say.

    :param errors: relative errors by prompt, at least one of ``"example"``, ``"both"``, ``"sentence"`` and
        ``"none"``; others are not looked at.
    :param margin: share by which the error must be lower.
    """
    measured = [prompt for prompt in _ORDER if prompt in errors]
    lowest = min(measured, key=lambda prompt: errors[prompt])
    return lowest if errors[lowest] < (1.0 - margin) * errors[measured[0]] else measured[0]


def gain(error: float, alone: float) -> float:
    """Compute the share of the error without a prompt that a prompt takes away.

    An error by itself tells hard motions from easy ones, and not whether the prompt is followed.

    :param error: relative error under the prompt.
    :param alone: relative error of the same model in the same states without one.
    :return: 1 for no error at all, 0 for a prompt that is no help; below 0 for one that harms.
    """
    return 1.0 - error / alone if alone > 0 else 0.0


def odd_scores(errors: Sequence[float], tasks: Sequence[str]) -> list[float | None]:
    """Compute a robust z of each episode's error beside those of its task.

    It is the logarithm of the error over the median of its task, in units of the median deviation in all
    tasks.

    :param errors: (n,), relative errors.
    :param tasks: (n,), their tasks.
    :return: (n,); None for episodes of tasks with fewer than three.
    """
    logs, names = np.log(np.maximum(errors, 1e-6)), np.array(tasks)
    centred = logs - np.array([np.median(logs[names == name]) for name in tasks])
    counts = np.array([np.sum(names == name) for name in tasks])
    if not (counts >= 3).any():
        return [None] * len(tasks)
    scale = max(_MAD_TO_DEVIATION * float(np.median(np.abs(centred[counts >= 3]))), _SMALLEST_SCALE)
    return [float(z) if n >= 3 else None for z, n in zip(centred / scale, counts, strict=True)]


@dataclass(frozen=True)
class LeftOut:
    """Outcome of a task that was left out, with one kind of prompt.

    :param distance: its distance to the nearest known task.
    :param worked: True if its `gain` was at least `WORKS`.
    """

    distance: float
    worked: bool


@dataclass(frozen=True)
class Judgement:
    """A verdict on one kind of prompt for a new task.

    :param verdict: `LIKELY`, `OPEN` or `UNLIKELY`.
    :param reason: the reason, which goes on after a colon.
    """

    verdict: str
    reason: str


def judge_distance(distance: float, left_out: Sequence[LeftOut]) -> Judgement:
    """Judge a new task by what became of tasks that were left out at its distance.

    :param distance: its distance to the nearest known task.
    :param left_out: those tasks, at least one.
    """
    farthest = max(task.distance for task in left_out)
    working = [task.distance for task in left_out if task.worked]
    beside = f"at distance {distance:.2f}"
    if not working:
        return Judgement(UNLIKELY, f"of the {len(left_out)} tasks that were left out, none worked")
    if distance > farthest:
        reason = f"{beside} it is farther than every task that was left out (up to {farthest:.2f})"
        return Judgement(UNLIKELY, reason)
    as_far = sorted(left_out, key=lambda task: abs(task.distance - distance))[:_AS_FAR]
    n_worked = sum(task.worked for task in as_far)
    reason = f"{beside}, {n_worked} of the {len(as_far)} left-out tasks that were about as far worked"
    if distance > max(working):
        return Judgement(UNLIKELY, f"{reason}, and none that was farther than {max(working):.2f}")
    share = n_worked / len(as_far)
    if share >= _LIKELY_FROM:
        return Judgement(LIKELY, reason)
    return Judgement(UNLIKELY if share <= _UNLIKELY_UNTIL else OPEN, reason)


def judge_error(error: float, alone: float) -> Judgement:
    """Judge a new task by the error on its own episodes, of models that have not learned from it.

    :param error: relative error under the prompt.
    :param alone: relative error without a prompt.
    """
    share = gain(error, alone)
    reason = f"its error is {error:.2f}, and {alone:.2f} without a prompt"
    if share >= _LIKELY_GAIN:
        return Judgement(LIKELY, reason)
    return Judgement(UNLIKELY if share < _UNLIKELY_GAIN else OPEN, reason)
