"""Cuts flat arrays of consecutive steps into episodes."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sb3_llmdpd.data.checks import entries_of
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
    :param rewards: (N,), raw. (N, 1) is accepted here and for the flags, too.
    :param terminals: (N,), 0 or 1: whether the step ended the task itself.
    :param timeouts: (N,), 0 or 1: whether the episode was cut off after the step; None when unknown.
    :param next_observations: like ``observations``, seen after each action; None when not recorded.
    :param successes: (N,), 0 or 1: whether the step's result was a success; None when unknown.
    :param source: name of the origin, for messages.
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
    source: str = "steps"

    def __post_init__(self) -> None:
        rewards = self._one_a_step("rewards", self.rewards)
        if not len(rewards):
            raise self._refusal("holds no step, `rewards` is empty")
        object.__setattr__(self, "rewards", rewards)
        for name in ("terminals", "timeouts", "successes"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, self._flags(name, getattr(self, name)))
        object.__setattr__(self, "observations", self._checked_observations("observations"))
        object.__setattr__(self, "actions", self._checked("actions", self.actions))
        if len(shape := self.actions.shape) < 2:
            raise self._refusal(
                f"`actions` must be (N, *action_shape), (N, 1) for a single number, got shape {shape}"
            )
        if self.next_observations is not None:
            object.__setattr__(self, "next_observations", self._checked_observations("next_observations"))
            self._check_alike()

    def __len__(self) -> int:
        """The number of steps N."""
        return len(self.rewards)

    def _refusal(self, reason: str) -> ValueError:
        return ValueError(f"{self.source}: {reason}")

    def _one_a_step(self, name: str, value: Any) -> np.ndarray:
        array = np.asarray(self._numbers(name, value)[:])
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim != 1:
            raise self._refusal(f"`{name}` must be (N,), one number for each step, got shape {array.shape}")
        return array

    def _flags(self, name: str, value: Any) -> np.ndarray:
        array = self._one_a_step(name, value)
        self._check_length(name, array)
        strange = ~np.isin(array, (0, 1))
        if strange.any():
            step = int(strange.argmax())
            first = f"{array[step]} at step {step}, the first of {int(strange.sum())} other values"
            raise self._refusal(f"`{name}` must be 0 or 1 at each step, got {first}")
        return array.astype(bool)

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
        array = value if hasattr(value, "shape") and hasattr(value, "dtype") else np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{self.source}: `{name}` must be an array of numbers, got dtype {array.dtype}")
        if not array.shape:
            raise self._refusal(f"`{name}` must be an array over steps, got a single number")
        return array

    def _check_length(self, name: str, array: Any) -> None:
        if array.shape[0] != len(self.rewards):
            raise self._refusal(
                f"all arrays must have one row for each step, but `{name}` has {array.shape[0]} and `rewards`"
                f" {len(self.rewards)}; leave out the rows that the others lack"
            )

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


class Stretch(NamedTuple):
    """The rows [start, stop) of one episode; ``terminated`` says if the last step ended the task itself."""

    start: int
    stop: int
    terminated: bool


def split_steps(steps: StepArrays, max_episode_steps: int | None = None) -> Iterator[Record]:
    """Read the episodes of `find_episodes` one after the other, as `EpisodeSource.records`.

    :return: arguments of `Episode`, as far as the arrays tell them.
    """
    for number, stretch in enumerate(find_episodes(steps, max_episode_steps)):
        yield {**_read_episode(steps, stretch), "source": f"{steps.source}, episode {number}"}


def find_episodes(steps: StepArrays, max_episode_steps: int | None = None) -> list[Stretch]:
    """Find where episodes begin and end.

    An episode ends at a terminal. Without a termination it ends at a timeout, where an action led to
    something else than the next row, after ``max_episode_steps``, and at the end of the arrays.

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
    ends = steps.terminals.copy()
    if steps.timeouts is not None:
        ends |= steps.timeouts
        _warn_of_both(steps)
    if steps.next_observations is not None:
        ends |= _jumps(steps)
    ends[-1] = True
    stops = (np.flatnonzero(ends) + 1).tolist()
    stretches = []
    for start, stop in zip([0, *stops], stops, strict=False):
        limit = max_episode_steps or stop - start
        for first in range(start, stop, limit):
            last = min(first + limit, stop)
            terminated = bool(steps.terminals[last - 1])
            if steps.next_observations is None and not terminated:
                last -= 1  # its result is unknown: the next row may be another episode's
            if last > first:
                stretches.append(Stretch(first, last, terminated))
    return stretches


def _read_episode(steps: StepArrays, stretch: Stretch) -> Record:
    """Read the arguments of `Episode`, without task and source."""
    start, stop, terminated = stretch
    following, row = steps.observations, stop  # the row of the step that `find_episodes` left out
    if steps.next_observations is not None:
        following, row = steps.next_observations, stop - 1
    elif terminated:
        row = stop - 1  # the result is unknown, and no value of it is ever used: the row only has to be there
    last = {key: np.asarray(rows[row : row + 1]) for key, rows in entries_of(following).items()}
    seen = {key: np.asarray(rows[start:stop]) for key, rows in entries_of(steps.observations).items()}
    joined = {key: np.concatenate([rows, last[key]]) for key, rows in seen.items()}
    record: Record = {
        "observations": joined if isinstance(steps.observations, dict) else joined[""],
        "actions": np.asarray(steps.actions[start:stop]),
        "rewards": steps.rewards[start:stop],
        "terminated": terminated,
    }
    if steps.successes is not None:
        successes = steps.successes[start:stop]
        record["success"] = bool(successes.any())
        record["first_success"] = int(successes.argmax()) if record["success"] else None
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
