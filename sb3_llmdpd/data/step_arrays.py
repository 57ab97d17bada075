"""Cuts flat arrays of consecutive steps into episodes."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sb3_llmdpd.data.checks import LABELS, entries_of, first_true
from sb3_llmdpd.data.episode_source import Record

_CHUNK_BYTES = 2**24
"""Size of the observations that are compared at once."""


@dataclass(frozen=True, eq=False)
class StepArrays:
    """Consecutive steps of one or many episodes, one row a step, as in D4RL's files and replay buffers.

    Arrays may be numpy's, or anything with ``shape`` and ``dtype`` that is read by slicing, such as a data
    set of h5py. Observations and actions are read a slice at a time, and may be larger than memory.

    :param observations: (N, *obs_shape), seen before each action; a dict of such arrays for a Dict space.
    :param actions: (N, *action_shape).
    :param rewards: (N,), raw. (N, 1) is accepted here and for the flags, too. None when not recorded.
    :param terminals: (N,), 0 or 1: whether the step ended the task itself.
    :param timeouts: (N,), 0 or 1: whether the episode was cut off after the step; None when unknown.
    :param next_observations: like ``observations``, seen after each action; None when not recorded.
    :param successes: (N,), 0 or 1: whether the step's result was a success; None when unknown.
    :param valids: (N,), 0 or 1: 0 where a row holds no step, and its observation is what the episode's last
        action led to; None where all rows are steps.
    :param stays_at_goal: whether every step at a goal is a terminal, and only timeouts begin a new episode.
    :param source: name of the origin, for messages.
    :param rewarded: False, or without ``rewards``, where these are zeros and not recorded.
    :raises ValueError: on different lengths or shapes, flags that are not 0 or 1, or no step at all.
    :raises TypeError: on values that are not numbers.
    """

    observations: Any
    actions: Any
    rewards: Any
    terminals: Any
    timeouts: Any = None
    next_observations: Any = None
    successes: Any = None
    valids: Any = None
    stays_at_goal: bool = False
    source: str = "steps"
    rewarded: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "actions", self._numbers("actions", self.actions))
        if not len(self):
            raise self._refusal("holds no step, `actions` is empty")
        object.__setattr__(self, "rewarded", self.rewarded and self.rewards is not None)
        rewards = np.zeros(len(self), np.float32)
        if self.rewards is not None:
            rewards = _one_a_step("rewards", self.rewards, len(self), self.source)
        object.__setattr__(self, "rewards", rewards)
        for name in ("terminals", "timeouts", "successes", "valids"):
            if getattr(self, name) is not None:
                flags = read_flags(name, getattr(self, name), len(self), self.source)
                object.__setattr__(self, name, flags)
        object.__setattr__(self, "observations", self._checked_observations("observations"))
        if len(shape := self.actions.shape) < 2:
            if self.actions.dtype.kind in "iub":
                raise self._refusal(
                    f"`actions` are one whole number a step, shape {shape}: such {LABELS}. Where they are"
                    " quantities, save them as (N, 1) and say their bounds"
                )
            raise self._refusal(
                f"`actions` must be (N, *action_shape), (N, 1) for a single number, got shape {shape}"
            )
        if self.next_observations is not None:
            object.__setattr__(self, "next_observations", self._checked_observations("next_observations"))
            self._check_alike()

    def __len__(self) -> int:
        """The number of steps N."""
        return int(self.actions.shape[0])

    def _refusal(self, reason: str) -> ValueError:
        return ValueError(f"{self.source}: {reason}")

    def _checked_observations(self, name: str) -> Any:
        value = getattr(self, name)
        if not isinstance(value, Mapping):
            return self._checked(name, value)
        if not value:
            raise self._refusal(f"`{name}` is empty; it must hold an array, or one for each key of a Dict")
        return {key: self._checked(f"{name}[{key!r}]", part) for key, part in value.items()}

    def _checked(self, name: str, value: Any) -> Any:
        array = self._numbers(name, value)
        self._check_length(name, array)
        return array

    def _numbers(self, name: str, value: Any) -> Any:
        return _numbers(name, value, self.source)

    def _check_length(self, name: str, array: Any) -> None:
        _check_length(name, array, len(self), self.source)

    def _check_alike(self) -> None:
        """Refuse next observations of another kind than the observations."""
        here, there = _parts(self.observations), _parts(self.next_observations)
        if set(here) != set(there):
            entries = f"the entries of `observations`, {sorted(here)}, got {sorted(there)}"
            raise self._refusal(f"`next_observations` must have {entries}")
        for key, array in here.items():
            other = there[key]
            both_floats = array.dtype.kind == other.dtype.kind == "f"  # episodes make float32 of any
            if array.shape != other.shape or not (both_floats or array.dtype == other.dtype):
                wanted, found = (f"{each.dtype} of shape {each.shape}" for each in (array, other))
                name = f"observations{key}"
                raise self._refusal(f"`next_{name}` must be like `{name}`, {wanted}, got {found}")


def read_flags(name: str, value: Any, n_steps: int, source: str) -> np.ndarray:
    """Read one 0 or 1 for each step.

    :param name: name of the array, for messages.
    :param value: (N,) or (N, 1), numbers.
    :param n_steps: N.
    :param source: named first in the error message.
    :return: (N,), bool.
    :raises ValueError: on another shape, or other numbers.
    :raises TypeError: on values that are not numbers.
    """
    array = _one_a_step(name, value, n_steps, source)
    strange = ~np.isin(array, (0, 1))
    if strange.any():
        step = int(strange.argmax())
        first = f"{array[step]} at step {step}, the first of {int(strange.sum())} other values"
        raise ValueError(f"{source}: `{name}` must be 0 or 1 at each step, got {first}")
    return array.astype(bool)


def _one_a_step(name: str, value: Any, n_steps: int, source: str) -> np.ndarray:
    array = np.asarray(_numbers(name, value, source)[:])
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        wanted = f"must be (N,), one number for each step, got shape {array.shape}"
        raise ValueError(f"{source}: `{name}` {wanted}")
    _check_length(name, array, n_steps, source)
    return array


def _numbers(name: str, value: Any, source: str) -> Any:
    array = value if hasattr(value, "shape") and hasattr(value, "dtype") else np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{source}: `{name}` must be an array of numbers, got dtype {array.dtype}")
    if not array.shape:
        raise ValueError(f"{source}: `{name}` must be an array over steps, got a single number")
    if 0 in array.shape[1:]:
        raise ValueError(f"{source}: `{name}` holds no number, its shape is {array.shape}; leave it out")
    return array


def _check_length(name: str, array: Any, n_steps: int, source: str) -> None:
    if array.shape[0] != n_steps:
        raise ValueError(
            f"{source}: all arrays must have one row for each step, but `{name}` has {array.shape[0]} and"
            f" `actions` {n_steps}; leave out the rows that the others lack"
        )


class Stretch(NamedTuple):
    """The rows [start, stop) of one episode.

    ``terminated`` says if the last step ended the task itself, and ``result`` where the observation is that
    it led to: a row of the next observations where these are recorded, else one of the observations.
    """

    start: int
    stop: int
    terminated: bool
    result: int
    n_left_out: int = 0


def split_steps(steps: StepArrays, max_episode_steps: int | None = None) -> Iterator[Record]:
    """Read the episodes of `find_episodes` one after the other, as `EpisodeSource.records`.

    :return: arguments of `Episode`, as far as the arrays tell them.
    """
    for number, stretch in enumerate(find_episodes(steps, max_episode_steps)):
        yield {**_read_episode(steps, stretch), "source": f"{steps.source}, episode {number}"}


def find_episodes(steps: StepArrays, max_episode_steps: int | None = None) -> list[Stretch]:
    """Find where episodes begin and end.

    An episode ends at a terminal. Without a termination it ends at a timeout, where an action led to
    something else than the next row, before a row that is no step, after ``max_episode_steps``, and at the
    end of the arrays. Where policies stay at the goal, it ends at the first terminal, and what follows until
    the timeout belongs to no episode.

    An episode needs the result of its last action. Where next observations are not recorded, one that did not
    terminate loses its last step, whose row shows that result; an episode without any step left is left out.
    Example: five rows with a timeout at row 2 are the steps 0 and 1, and the step 3.

    A step that is both terminal and timeout counts as terminal: a goal may be reached at the last moment. A
    warning tells of it: terminals may mean any end of an episode, and time limits are then misread.

    :param steps: all of them.
    :param max_episode_steps: time limit of the environment, where the arrays do not say when it was reached.
    :return: the rows of each episode, in their order.
    :raises ValueError: when ``max_episode_steps`` is no positive whole number.
    """
    check_limit(max_episode_steps)
    ends: np.ndarray = steps.terminals.copy()
    if steps.valids is not None:
        ends |= ~steps.valids
    if steps.timeouts is not None:
        ends |= steps.timeouts
        if not steps.stays_at_goal:
            _warn_of_both(steps)
    if steps.next_observations is not None:
        ends |= _jumps(steps)
    ends[-1] = True
    stretches: list[Stretch | None] = []
    for start, stop in _spans(steps, ends):
        limit = max_episode_steps or stop - start
        stretches += [_stretch(steps, first, min(first + limit, stop)) for first in range(start, stop, limit)]
    return [stretch for stretch in stretches if stretch is not None]


def _spans(steps: StepArrays, ends: np.ndarray) -> Iterator[tuple[int, int]]:
    """Find the steps [start, stop) of each episode."""
    if steps.stays_at_goal and steps.timeouts is not None:
        ends = steps.timeouts | (np.arange(len(steps)) == len(steps) - 1)
    stops = (np.flatnonzero(ends) + 1).tolist()
    for start, stop in zip([0, *stops], stops, strict=False):
        at_goal = steps.terminals[start:stop]
        if steps.stays_at_goal and at_goal.any():
            stop = start + int(at_goal.argmax()) + 1
        if steps.valids is not None and not steps.valids[stop - 1]:
            stop -= 1
        if stop > start:
            yield start, stop


def _stretch(steps: StepArrays, start: int, stop: int) -> Stretch | None:
    """Find where the result of the last step is; the step is left out where that is unknown."""
    terminated = bool(steps.terminals[stop - 1])
    if steps.next_observations is not None:
        return Stretch(start, stop, terminated, stop - 1)
    if steps.valids is not None and stop < len(steps) and not steps.valids[stop]:
        return Stretch(start, stop, terminated, stop)
    if terminated:  # no value of the result is ever used: a row only has to be there
        return Stretch(start, stop, terminated, stop - 1)
    # The next row may be another episode's.
    return Stretch(start, stop - 1, terminated, stop - 1, n_left_out=1) if stop - start > 1 else None


def _read_episode(steps: StepArrays, stretch: Stretch) -> Record:
    """Read the arguments of `Episode`, without task and source."""
    start, stop, terminated, row, n_left_out = stretch
    following = steps.observations if steps.next_observations is None else steps.next_observations
    last = {key: np.asarray(rows[row : row + 1]) for key, rows in entries_of(following).items()}
    seen = {key: np.asarray(rows[start:stop]) for key, rows in entries_of(steps.observations).items()}
    joined = {key: np.concatenate([rows, last[key]]) for key, rows in seen.items()}
    record: Record = {
        "observations": joined if isinstance(steps.observations, dict) else joined[""],
        "actions": np.asarray(steps.actions[start:stop]),
        "rewards": steps.rewards[start:stop],
        "terminated": terminated,
        "rewarded": steps.rewarded,
        "n_left_out": n_left_out,
    }
    if steps.successes is not None:
        successes = steps.successes[start:stop]
        record["success"] = bool(successes.any())
        record["first_success"] = first_true(successes)
    return record


def check_limit(max_episode_steps: int | None) -> None:
    """Raise a ValueError when a time limit is neither None nor a positive whole number."""
    is_number = isinstance(max_episode_steps, int) and not isinstance(max_episode_steps, bool)
    if max_episode_steps is not None and not (is_number and max_episode_steps >= 1):
        raise ValueError(
            f"`max_episode_steps` must be a whole number, at least 1, or None; got {max_episode_steps!r}"
        )


def _parts(observations: Any) -> dict[str, Any]:
    """Return the arrays of observations by the way in which a message writes their key."""
    return {f"[{key!r}]" if key else "": part for key, part in entries_of(observations).items()}


def _jumps(steps: StepArrays) -> np.ndarray:
    """Tell of each of the N steps whether its result differs from the observation of the next row."""
    n_steps = len(steps)
    jumps = np.zeros(n_steps, bool)
    following = entries_of(steps.next_observations)
    for key, rows in entries_of(steps.observations).items():
        size = max(1, _CHUNK_BYTES // max(1, rows.dtype.itemsize * int(np.prod(rows.shape[1:]))))
        for start in range(0, n_steps - 1, size):
            stop = min(start + size, n_steps - 1)
            led_to, begun = np.asarray(following[key][start:stop]), np.asarray(rows[start + 1 : stop + 1])
            jumps[start:stop] |= ~_same(led_to, begun)
    return jumps


def _same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Tell of each of n rows whether they are equal, but for rounding to a coarser kind of float."""
    axes = tuple(range(1, one.ndim))
    same = (one == other).all(axis=axes)
    if one.dtype.kind == "f":
        rest = np.flatnonzero(~same)
        with np.errstate(over="ignore"):  # values that are far apart
            # NaN is refused as such, later.
            close = np.isclose(one[rest], other[rest], rtol=1e-5, atol=1e-6, equal_nan=True)
        same[rest] = close.all(axis=axes)
    return same


def _warn_of_both(steps: StepArrays) -> None:
    both = int((steps.terminals & steps.timeouts).sum())
    if both:
        warnings.warn(
            f"{steps.source}: {both} of {int(steps.timeouts.sum())} `timeouts` are `terminals`, too, and are"
            " read as terminations. Where `terminals` was meant as any end of an episode, write 0 there: a"
            " time limit does not end the task",
            stacklevel=3,
        )
