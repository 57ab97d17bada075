"""Cuts flat arrays of consecutive steps into episodes."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sb3_llmdpd.data.episode_source import Record

_CHUNK_BYTES = 2**24
"""Of observations that are compared at once."""


@dataclass(frozen=True, eq=False)
class StepArrays:
    """Consecutive steps of one or many episodes, one row a step, as D4RL's files and replay buffers have them.

    Arrays may be numpy's, or anything with ``shape`` and ``dtype`` that is read by slicing, such as a data set of h5py.
    Observations and actions are only ever read a slice at a time, so that they may be larger than memory.

    :param observations: (N, *obs_shape), what was seen before each action; a dict of such arrays for a Dict space.
    :param actions: (N, *action_shape).
    :param rewards: (N,), raw. (N, 1) will do here and for all that is one number a step.
    :param terminals: (N,), 0 or 1: whether the step ended the task itself.
    :param timeouts: (N,), 0 or 1: whether the episode was stopped after the step, as at a time limit; None when nobody knows.
    :param next_observations: like ``observations``, what each action led to; None when that is not recorded.
    :param successes: (N,), 0 or 1: whether the step's result was a success; None when nobody knows.
    :param source: where they come from, for messages.
    :raises ValueError: on arrays of different lengths or shapes, flags that are not 0 or 1, or no step at all.
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
            raise ValueError(f"{self.source}: holds no step, `rewards` is empty")
        object.__setattr__(self, "rewards", rewards)
        for name in ("terminals", "timeouts", "successes"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, self._flags(name, getattr(self, name)))
        object.__setattr__(
            self, "observations", self._checked_observations("observations", self.observations)
        )
        object.__setattr__(self, "actions", self._checked("actions", self.actions))
        if len(self.actions.shape) < 2:
            raise ValueError(
                f"{self.source}: `actions` must be (N, *action_shape), (N, 1) for a single number, got shape"
                f" {self.actions.shape}"
            )
        if self.next_observations is not None:
            following = self._checked_observations("next_observations", self.next_observations)
            object.__setattr__(self, "next_observations", following)
            self._check_alike()

    def __len__(self) -> int:
        """The number of steps N."""
        return len(self.rewards)

    def _one_a_step(self, name: str, value: Any) -> np.ndarray:
        array = np.asarray(self._numbers(name, value)[:])
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim != 1:
            raise ValueError(
                f"{self.source}: `{name}` must be (N,), one number for each step, got shape {array.shape}"
            )
        return array

    def _flags(self, name: str, value: Any) -> np.ndarray:
        array = self._one_a_step(name, value)
        self._check_length(name, array)
        strange = ~np.isin(array, (0, 1))
        if strange.any():
            step = int(strange.argmax())
            raise ValueError(
                f"{self.source}: `{name}` must be 0 or 1 at each step, got {array[step]} at step {step}, the first of"
                f" {int(strange.sum())} other values"
            )
        return array.astype(bool)

    def _checked_observations(self, name: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return self._checked(name, value)
        if not value:
            raise ValueError(
                f"{self.source}: `{name}` is empty; it must hold an array, or one for each key of a Dict space"
            )
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
            raise ValueError(f"{self.source}: `{name}` must be an array over steps, got a single number")
        return array

    def _check_length(self, name: str, array: Any) -> None:
        if array.shape[0] != len(self.rewards):
            raise ValueError(
                f"{self.source}: all arrays must have one row for each step, but `{name}` has {array.shape[0]} and `rewards`"
                f" {len(self.rewards)}; leave out the rows that the others lack"
            )

    def _check_alike(self) -> None:
        """Refuse next observations that are of another kind than the observations."""
        here, there = _parts(self.observations), _parts(self.next_observations)
        if set(here) != set(there):
            raise ValueError(
                f"{self.source}: `next_observations` must have the entries of `observations`, {sorted(here)}, got"
                f" {sorted(there)}"
            )
        for key, array in here.items():
            other = there[key]
            both_floats = array.dtype.kind == other.dtype.kind == "f"  # episodes make float32 of any
            if array.shape != other.shape or not (both_floats or array.dtype == other.dtype):
                raise ValueError(
                    f"{self.source}: `next_observations{key}` must be like `observations{key}`, {array.dtype} of shape"
                    f" {array.shape}, got {other.dtype} of shape {other.shape}"
                )


class Stretch(NamedTuple):
    """The rows of one episode.

    :param start: the first row.
    :param stop: the row behind the last one.
    :param terminated: whether its last step ended the task itself.
    """

    start: int
    stop: int
    terminated: bool


def split_steps(steps: StepArrays, max_episode_steps: int | None = None) -> Iterator[Record]:
    """Read the episodes one after the other.

    :param steps: all of them.
    :param max_episode_steps: see `find_episodes`.
    :return: arguments of `Episode` for `EpisodeSource.records`, all that the arrays say.
    :raises ValueError: see `find_episodes`.
    """
    for number, stretch in enumerate(find_episodes(steps, max_episode_steps)):
        yield {**read_episode(steps, stretch), "source": f"{steps.source}, episode {number}"}


def find_episodes(steps: StepArrays, max_episode_steps: int | None = None) -> list[Stretch]:
    """Find where episodes begin and end.

    One ends at a terminal; not terminated, at a timeout, where an action led to something else than the next row, after
    ``max_episode_steps``, and at the end of the arrays.

    An episode needs to know what its last action led to. Where next observations are not recorded, one that did not terminate
    loses its last step; one that has then no step left is left out.

    A step that is both terminal and timeout counts as terminal: a goal may be reached at the last moment. It is warned
    about, since some write 1 for every end of an episode, and their time limits would be taken for ends of the task.

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
                last -= (
                    1  # what its last action led to was not recorded: the next row may be another episode's
                )
            if last > first:
                stretches.append(Stretch(first, last, terminated))
    return stretches


def read_episode(steps: StepArrays, stretch: Stretch) -> Record:
    """Read one episode.

    :param steps: of all episodes.
    :param stretch: its rows, from `find_episodes`.
    :return: arguments of `Episode`, without task and source.
    """
    start, stop, terminated = stretch
    if steps.next_observations is not None:
        last = _rows(steps.next_observations, stop - 1, stop)
    elif terminated:
        # What was seen at the end is not known, and nobody asks: no value is read behind a terminal, the row only has to be.
        last = _rows(steps.observations, stop - 1, stop)
    else:
        last = _rows(steps.observations, stop, stop + 1)  # the row of the step that `find_episodes` left out
    first = _parts(_rows(steps.observations, start, stop))
    joined = {key: np.concatenate([rows, _parts(last)[key]]) for key, rows in first.items()}
    observations = (
        dict(zip(steps.observations, joined.values(), strict=True)) if _is_dict(steps) else joined[""]
    )
    record: Record = {
        "observations": observations,
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
    """Refuse a time limit that is none.

    :param max_episode_steps: steps, or None.
    :raises ValueError: when it is no positive whole number.
    """
    if max_episode_steps is None:
        return
    if isinstance(max_episode_steps, bool) or not isinstance(max_episode_steps, int) or max_episode_steps < 1:
        raise ValueError(
            f"`max_episode_steps` must be a whole number, at least 1, or None; got {max_episode_steps!r}"
        )


def _is_dict(steps: StepArrays) -> bool:
    return isinstance(steps.observations, dict)


def _parts(observations: Any) -> dict[str, Any]:
    """The arrays of observations by how a message writes their key."""
    if isinstance(observations, dict):
        return {f"[{key!r}]": part for key, part in observations.items()}
    return {"": observations}


def _rows(observations: Any, start: int, stop: int) -> Any:
    if isinstance(observations, dict):
        return {key: np.asarray(part[start:stop]) for key, part in observations.items()}
    return np.asarray(observations[start:stop])


def _jumps(steps: StepArrays) -> np.ndarray:
    """(N,), bool: whether an action led to something else than what the next row begins with."""
    n_steps = len(steps)
    jumps = np.zeros(n_steps, bool)
    following = _parts(steps.next_observations)
    for key, rows in _parts(steps.observations).items():
        size = max(1, _CHUNK_BYTES // max(1, rows.dtype.itemsize * int(np.prod(rows.shape[1:]))))
        for start in range(0, n_steps - 1, size):
            stop = min(start + size, n_steps - 1)
            jumps[start:stop] |= ~_same(
                np.asarray(following[key][start:stop]), np.asarray(rows[start + 1 : stop + 1])
            )
    return jumps


def _same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n,), bool: whether rows are the same but for the rounding of one of them to a coarser kind of float."""
    axes = tuple(range(1, one.ndim))
    same = (one == other).all(axis=axes)
    if one.dtype.kind == "f":
        rest = np.flatnonzero(~same)
        with np.errstate(over="ignore"):  # values that are far apart
            close = np.isclose(
                one[rest], other[rest], rtol=1e-5, atol=1e-6, equal_nan=True
            )  # NaN is refused as such, later
        same[rest] = close.all(axis=axes)
    return same


def _warn_of_both(steps: StepArrays) -> None:
    both = int((steps.terminals & steps.timeouts).sum())
    if both:
        warnings.warn(
            f"{steps.source}: {both} of {int(steps.timeouts.sum())} `timeouts` are `terminals`, too, and are read as"
            " terminations. Where `terminals` was meant as any end of an episode, write 0 there: a time limit does not end the"
            " task",
            stacklevel=3,
        )
