"""`StepFileSource`, the base of the sources whose episodes are cut out of one file of flat arrays."""

import difflib
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from sb3_llmdpd.data.episode_source import AS_RECORDED, EpisodeSource, Reading, Record
from sb3_llmdpd.data.spaces import unbounded_space
from sb3_llmdpd.data.step_arrays import StepArrays, check_limit, split_steps

LONG_EPISODE = 10_000
"""Steps; a longer episode is probably many episodes, whose ends were not recorded."""

READ = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
"""Names of the arrays that are read; none of the first three may be missing."""


class StepFileSource(EpisodeSource):
    """A file of consecutive steps under D4RL's names. A format is a subclass that opens it.

    The observation space is an unbounded Box or a Dict of such, the action space Box(-1, 1).

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
        with self._opened(str(path)) as steps:
            self._warn_of_length(steps)
            super().__init__(str(path), *self._spaces(steps), reading)

    @abstractmethod
    def _opened(self, name: str) -> AbstractContextManager[StepArrays]:
        """Open the file as a context in which the arrays can be read.

        :param name: name of the source.
        :raises ValueError: when the file is damaged, or lacks an array.
        """

    def _spaces(self, steps: StepArrays) -> tuple[Space[Any], spaces.Box]:
        """Make the spaces of observations and actions, of which only shapes and dtypes are read."""
        return unbounded_space(steps.observations), spaces.Box(-1.0, 1.0, steps.actions.shape[1:], np.float32)

    def files(self) -> Sequence[Path]:
        """See `EpisodeSource.files`."""
        return [self._path]

    def options(self) -> dict[str, Any]:
        """See `EpisodeSource.options`."""
        return {"task": self._given_task, "max_episode_steps": self._max_episode_steps}

    def records(self) -> Iterator[Record]:
        """See `EpisodeSource.records`."""
        with self._opened(self.name) as steps:
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
    if missing := [name for name in READ[:3] if name not in entries]:
        raise ValueError(
            f"{source}: has no {' and no '.join(f'`{name}`' for name in missing)}, but {_listed(entries)}."
            " Such a file holds `observations`, `actions`, `rewards` and `terminals`, one row a step, and may"
            " hold `timeouts` and `next_observations`"
        )
    if "terminals" not in entries and "timeouts" not in entries and not limited:
        warnings.warn(
            f"{source}: has neither `terminals` nor `timeouts`, but {_listed(entries)}: no end of an episode"
            " is read as one of the task. Name them like this, or say the time limit with"
            " `max_episode_steps`",
            stacklevel=4,
        )
    read = {name: entries[name] for name in READ if name in entries}
    if "terminals" not in read:
        read["terminals"] = np.zeros(np.shape(read["rewards"])[:1], bool)
    return StepArrays(**read, source=source)


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
            f"{source}: is not {kind}, or damaged or half-written ({type(error).__name__}: {error}); download"
            " or write it again"
        ) from error


def _listed(entries: Mapping[str, Any]) -> str:
    return f"holds {', '.join(f'`{name}`' for name in sorted(entries))}" if entries else "is empty"
