"""`StepFileSource`, the base of the sources whose episodes are cut out of one file of flat arrays."""

import difflib
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from sb3_llmdpd.data.checks import LABELS, listed, one_line
from sb3_llmdpd.data.episode_source import AS_RECORDED, MOST_CLIPPED, EpisodeSource, Reading, Record
from sb3_llmdpd.data.spaces import space_of_extremes, unbounded_space, widened
from sb3_llmdpd.data.step_arrays import StepArrays, check_limit, read_flags, split_steps

LONG_EPISODE = 10_000
"""Steps; a longer episode is probably many episodes, whose ends were not recorded."""

ARRAYS = ("observations", "actions", "rewards", "next_observations")
"""Names of the arrays that are read beside flags; neither of the first two may be missing."""

FLAGS = {
    "terminals": ("terminals", "terminations", "terminated", "terminateds"),
    "timeouts": ("timeouts", "truncations", "truncated", "truncateds"),
    "ends": ("episode_terminals", "episode_ends", "dones", "done"),
    "valids": ("valids",),
    "masks": ("masks",),
    "successes": ("infos/success", "infos/goal_achieved", "success", "successes", "is_success"),
}
"""Names of the arrays of 0 and 1 by what they mean, the best known first.

``ends`` mark the last step of an episode, whatever ended it; ``valids`` are 0 where a row is no step, and
``masks`` are 0 where the task itself ended, both as in OGBench."""

DISCRETE = "discrete_action"
"""Entry in which d3rlpy says that actions are labels."""

READ = {*ARRAYS, DISCRETE, *(name for names in FLAGS.values() for name in names)}
"""Names of all that is read."""

_ROWS = 2**16
"""Actions that are measured at once."""

_UNIT = 1.0
"""Bound of the actions of D4RL's environments, which is taken where nearly all actions lie within it."""


class StepFileSource(EpisodeSource):
    """A file of consecutive steps under D4RL's names. A format is a subclass that opens it.

    The observation space is an unbounded Box or a Dict of such. The action space is Box(-1, 1), as in D4RL,
    where hardly an action lies outside; else, with a warning, it spans the values of each entry.
    `Reading.action_low` says other bounds. Whole numbers are refused as labels of discrete actions, unless
    bounds are given.

    :param path: path of the file; ``~`` is the home folder.
    :param task: task of all episodes; by default the file's name without its suffix.
    :param max_episode_steps: as in `find_episodes`.
    :param reading: options of reading, see `Reading`.
    :raises ValueError: when the file is not there, damaged, or not laid out like this.
    :raises TypeError: when an array does not hold numbers.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        task: str | None = None,
        max_episode_steps: int | None = None,
        reading: Reading = AS_RECORDED,
    ) -> None:
        check_limit(max_episode_steps)
        self._path = existing_file(path)
        self._given_task = task
        self._task = task if task is not None else self._path.stem
        self._max_episode_steps = max_episode_steps
        self._remark_on_bounds: str | None = None
        # Warnings come when episodes are read, and once.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with self._opened(str(path)) as steps:
                super().__init__(str(path), *self._spaces(steps, reading), reading)

    @abstractmethod
    def _opened(self, name: str) -> AbstractContextManager[StepArrays]:
        """Open the file as a context in which the arrays can be read.

        :param name: name of the source.
        :raises ValueError: when the file is damaged, or lacks an array.
        """

    def _spaces(self, steps: StepArrays, reading: Reading) -> tuple[Space[Any], spaces.Box]:
        """Make the spaces of observations and actions."""
        self.bounds_from_data = True
        action_space = reading.bounds_of(steps.source, steps.actions.shape[1:])
        if action_space is None:
            action_space, self._remark_on_bounds = measured_space(steps)
        return unbounded_space(steps.observations), action_space

    def files(self) -> Sequence[Path]:
        """See `EpisodeSource.files`."""
        return [self._path]

    def options(self) -> dict[str, Any]:
        """See `EpisodeSource.options`."""
        return {"task": self._given_task, "max_episode_steps": self._max_episode_steps}

    def records(self) -> Iterator[Record]:
        """See `EpisodeSource.records`."""
        with self._opened(self.name) as steps:
            self._warn_of_length(steps)
            if self._remark_on_bounds is not None:
                warnings.warn(self._remark_on_bounds, stacklevel=2)
            for record in split_steps(steps, self._max_episode_steps):
                yield {**record, "task": self._task}

    def _warn_of_length(self, steps: StepArrays) -> None:
        """Warn when many episodes seem to lack their ends."""
        if self._max_episode_steps is not None or steps.next_observations is not None:
            return
        ends = steps.terminals if steps.timeouts is None else steps.terminals | steps.timeouts
        bounds = np.concatenate([[0], np.flatnonzero(ends) + 1, [len(steps)]])
        longest = int(np.diff(bounds).max())
        if longest > LONG_EPISODE:
            warnings.warn(
                f"{steps.source}: {longest:,} steps follow each other with neither a terminal nor a timeout,"
                " and are read as one long episode. Where there is a time limit, say it with"
                " `max_episode_steps`",
                stacklevel=3,
            )


def steps_under_names(entries: Mapping[str, Any], source: str, limited: bool) -> StepArrays:
    """Put together the arrays of a file.

    :param entries: its arrays by their names; those of Dict observations in a mapping.
    :param source: name of the file in messages.
    :param limited: whether a time limit says where episodes end, in place of the file.
    :raises ValueError: when one is missing; `StepArrays` says when else, and raises TypeErrors.
    """
    if missing := [name for name in ARRAYS[:2] if name not in entries]:
        raise ValueError(
            f"{source}: has no {' and no '.join(f'`{name}`' for name in missing)}, but {_listed(entries)}."
            " Such a file holds `observations`, `actions`, `rewards` and `terminals`, one row a step, and may"
            " hold `timeouts` and `next_observations`"
        )
    arrays: dict[str, Any] = {name: entries.get(name) for name in ARRAYS}
    if not (n_steps := _n_steps(entries)):
        return StepArrays(**arrays, terminals=None, source=source)  # which refuses the actions
    if DISCRETE in entries and np.any(np.asarray(entries[DISCRETE][()])):
        raise ValueError(f"{source}: says by `{DISCRETE}` that its {LABELS}")
    flags = {kind: _flag(entries, names, n_steps, source) for kind, names in FLAGS.items()}
    if not limited and all(flags[kind] is None for kind in ("terminals", "timeouts", "ends", "valids")):
        warnings.warn(
            f"{source}: has neither `terminals` nor `timeouts`, but {_listed(entries)}: no end of an episode"
            " is read as one of the task. Name them like this, or say the time limit with"
            " `max_episode_steps`",
            stacklevel=4,
        )
    if unread := [name for name in entries if name not in READ and _is_flag(entries[name], n_steps)]:
        verbs = ("holds", "is") if len(unread) == 1 else ("hold", "are")
        warnings.warn(
            f"{source}: {_quoted(unread)} {verbs[0]} 0 or 1 at each step, and {verbs[1]} not read. Ends of"
            " episodes are named `terminals` or `timeouts`, and successes `success`",
            stacklevel=4,
        )
    return StepArrays(**arrays, **_endings(flags, n_steps, source), source=source)


def _flag(entries: Mapping[str, Any], names: Sequence[str], n_steps: int, source: str) -> np.ndarray | None:
    """Read the flags of one meaning; where they stand under several names, these have to agree."""
    found = {name: read_flags(name, entries[name][()], n_steps, source) for name in names if name in entries}
    for (one, first), (other, second) in pairwise(found.items()):
        if not np.array_equal(first, second):
            raise ValueError(f"{source}: `{one}` and `{other}` mean the same and differ; leave one out")
    return next(iter(found.values()), None)


def _endings(flags: Mapping[str, np.ndarray | None], n_steps: int, source: str) -> dict[str, Any]:
    """Make of all flags those that `StepArrays` takes."""
    terminals, timeouts, ends, valids, masks = (
        flags[kind] for kind in ("terminals", "timeouts", "ends", "valids", "masks")
    )
    if valids is not None or masks is not None:
        given = [each for each in (terminals, timeouts, ends) if each is not None]
        any_end = np.logical_or.reduce(given) if given else None
        at_goal = np.zeros(n_steps, bool) if masks is None else ~masks
        # In OGBench, terminals are any end of an episode, and the goal may be passed before.
        terminals = at_goal if terminals is None else at_goal & terminals
        timeouts = None if any_end is None else any_end & ~terminals
    elif terminals is None and timeouts is None and ends is not None:
        warnings.warn(
            f"{source}: says where episodes end, and not why: each end is read as one of the task. Where time"
            " limits are among them, add `timeouts`",
            stacklevel=5,
        )
        terminals = ends
    elif terminals is None:
        terminals = np.zeros(n_steps, bool) if ends is None or timeouts is None else ends & ~timeouts
    elif ends is not None:  # an end that is no termination is a time limit
        timeouts = ends & ~terminals if timeouts is None else timeouts | (ends & ~terminals)
    return {"terminals": terminals, "timeouts": timeouts, "valids": valids, "successes": flags["successes"]}


def _n_steps(entries: Mapping[str, Any]) -> int:
    """Count the steps; 0 where `StepArrays` refuses the actions."""
    return int((*getattr(entries["actions"], "shape", ()), 0)[0])


def _is_flag(entry: Any, n_steps: int) -> bool:
    """Tell whether an entry is an array of one 0 or 1 a step."""
    shape, dtype = getattr(entry, "shape", None), getattr(entry, "dtype", None)
    if dtype is None or dtype.kind not in "fiub" or shape not in ((n_steps,), (n_steps, 1)):
        return False
    return bool(np.isin(np.asarray(entry[()]), (0, 1)).all())


def measured_space(steps: StepArrays) -> tuple[spaces.Box, str | None]:
    """Make the space of the actions: Box(-1, 1) where hardly one lies outside, else that of their extremes.

    :return: the space, and a remark for the user where it is not the first.
    :raises ValueError: on whole numbers, which are labels.
    """
    shape, n_outside = steps.actions.shape[1:], 0
    low, high = np.full(shape, np.inf), np.full(shape, -np.inf)
    are_whole = steps.actions.dtype.kind in "iub" or np.prod(shape) == 1
    for start in range(0, len(steps), _ROWS):
        rows = np.asarray(steps.actions[start : start + _ROWS], np.float64)
        low, high = widened(low, high, rows)
        outside = np.isfinite(rows) & (np.abs(rows) > _UNIT)
        n_outside += int(outside.reshape(len(rows), -1).any(axis=1).sum())
        are_whole = are_whole and bool((rows == np.round(rows)).all())
    if are_whole and (low >= 0).all() and (high >= 1).any():
        raise ValueError(
            f"{steps.source}: `actions` are whole numbers from {low.min():g} to {high.max():g}, of"
            f" {steps.actions.dtype}: such {LABELS}. Where they are quantities, say their bounds with"
            " `action_low` and `action_high`"
        )
    if n_outside <= MOST_CLIPPED * len(steps):
        return spaces.Box(-_UNIT, _UNIT, shape, np.float32), None
    measured = space_of_extremes(low, high)
    return measured, (
        f"{steps.source}: no bounds of the actions are recorded, and they leave [-1, 1]; taken are their"
        f" smallest and largest values, {measured.low.tolist()} and {measured.high.tolist()}. Say the"
        " actuators' own with `action_low` and `action_high`"
    )


def existing_file(path: str | Path) -> Path:
    """Find a file, in whose path ``~`` is the home folder; a ValueError names the nearest where none is."""
    file = Path(path).expanduser()
    if file.is_file():
        return file
    if file.is_dir():
        raise ValueError(f"{path} is a folder; give the path of one file in it")
    if not file.parent.is_dir():
        raise ValueError(f"there is no file {path}, and no folder {file.parent}")
    names = [path.name for path in file.parent.iterdir() if path.is_file()]
    others = sorted(name for name in names if not name.startswith("."))
    alike = [name for name in others if Path(name).suffix == file.suffix]
    near = difflib.get_close_matches(file.name, others, n=3) or alike[:3]
    nearest = f"nearest there: {', '.join(near)}" if near else "there is nothing like it in that folder"
    raise ValueError(f"there is no file {path}; {nearest}")


@contextmanager
def sound_file(source: str, kind: str, broken: tuple[type[Exception], ...]) -> Iterator[None]:
    """Answer errors of reading a file with a sentence that names it.

    :param kind: expected kind of the file, such as ``"an hdf5 file"``.
    :param broken: errors that a damaged file may raise.
    """
    try:
        yield
    except broken as error:
        raise ValueError(
            f"{source}: is not {kind}, or damaged or half-written ({one_line(error)}); download"
            " or write it again"
        ) from error


def _listed(entries: Mapping[str, Any]) -> str:
    return f"holds {_quoted(sorted(entries))}" if entries else "is empty"


def _quoted(names: Sequence[str]) -> str:
    return listed(f"`{name}`" for name in names)
