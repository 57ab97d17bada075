"""Reads D4RL's hdf5 files, without D4RL."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sb3_llmdpd.common.optional_imports import require
from sb3_llmdpd.data.episode_source import Record
from sb3_llmdpd.data.step_arrays import StepArrays
from sb3_llmdpd.data.step_files import FLAGS, READ, StepFileSource, sound_file, steps_under_names

_BROKEN = (OSError, RuntimeError, KeyError)
"""Errors of h5py for a damaged file, as it is opened, and as names, headers of arrays or values are read."""

_LOCOMOTION = r"[-_](random|medium|expert|full|mixed)"
_ADROIT = r"[-_](v\d|human|cloned|expert|demos)"
_ANTMAZE = re.compile(r"ant_?maze[-_]")

LOCOMOTION_TEXTS = {
    "halfcheetah": "make the two-legged cheetah run forward as fast as it can",
    "hopper": "make the one-legged hopper hop forward as fast as it can",
    "walker2d": "make the two-legged walker walk forward as fast as it can without falling",
}
"""A sentence for each robot of the locomotion tasks, by its name in data sets."""

_SENTENCES = {
    rf"hopper{_LOCOMOTION}": LOCOMOTION_TEXTS["hopper"],
    rf"half_?cheetah{_LOCOMOTION}": LOCOMOTION_TEXTS["halfcheetah"],
    rf"walker2d{_LOCOMOTION}": LOCOMOTION_TEXTS["walker2d"],
    rf"ant{_LOCOMOTION}": "make the four-legged ant walk forward as fast as it can",
    _ANTMAZE.pattern: "walk the four-legged ant through the maze to the goal",
    r"maze2d[-_]": "roll the ball through the maze to the goal",
    r"kitchen[-_](mixed|microwave_kettle_bottomburner)": (
        "open the microwave, move the kettle to the back, and turn on the bottom burner and the light"
    ),
    r"(mini_)?kitchen[-_](complete|partial|microwave_kettle_light)": (
        "open the microwave, move the kettle to the back, turn on the light, and slide the cabinet door open"
    ),
    rf"pen{_ADROIT}": "turn the pen in the hand until it points the way that the target pen does",
    rf"hammer{_ADROIT}": "pick up the hammer and drive the nail into the board",
    rf"door{_ADROIT}": "undo the latch and pull the door open",
    rf"relocate{_ADROIT}": "pick up the ball and carry it to the target",
}
"""A sentence for each robot, by the beginning of its files' names, those of D4RL and its environments."""


class D4RLSource(StepFileSource):
    """A file in D4RL's layout: ``observations``, ``actions``, ``rewards`` and ``terminals``, one row a step.

    `find_episodes` says where episodes end; ``timeouts`` and ``next_observations`` are used where the file
    has them. A file without any ends is one long episode unless ``max_episode_steps`` says more. Floats of
    double precision become single.

    The action space is that of all of D4RL's environments, Box(-1, 1), see `StepFileSource`. The observation
    space is unbounded.

    The sentence of D4RL's own tasks is known from the name of the file; any other file has none. Success is
    read off ``infos/success`` or ``infos/goal_achieved``, in an antmaze of sparse rewards off rewards of 1.
    An antmaze marks each step at the goal as terminal: an episode ends at its first one, and the next begins
    after a timeout.

    Only one episode at a time is in memory, beside arrays of one number a step.

    :param path: path of the hdf5 file; ``~`` is the home folder.
    :param task: task of all episodes; by default the file's name without its suffix.
    :param max_episode_steps: time limit of the environment, for files that do not say where it was reached.
    :param reading: options of reading, see `Reading`.
    :raises ValueError: when the file is not there, no hdf5 file, damaged, or lacks an array.
    :raises TypeError: when an array does not hold numbers.
    """

    kind = "d4rl"

    def records(self) -> Iterator[Record]:
        """See `EpisodeSource.records`."""
        texts = [text for name, text in _SENTENCES.items() if re.match(name, self._path.stem.lower())]
        for record in super().records():
            yield {**record, "task_texts": tuple(texts[:1])}

    @contextmanager
    def _opened(self, name: str) -> Iterator[StepArrays]:
        """See `StepFileSource`."""
        with sound_file(name, "an hdf5 file", _BROKEN), require("h5py", "all").File(self._path, "r") as file:
            yield self._steps(file, name)

    def _steps(self, file: Any, name: str) -> StepArrays:
        with sound_file(name, "an hdf5 file", (ValueError,)):
            entries = {str(key): _opened_entry(file, key) for key in file}  # a name that is damaged is bytes
            entries |= {key: _opened_entry(file, key) for key in FLAGS["successes"] if key in file}
        steps = steps_under_names(entries, name, limited=self._max_episode_steps is not None)
        stem = self._path.stem.lower()
        if not _ANTMAZE.match(stem):
            return steps
        if steps.successes is None and "dense" not in stem:
            steps = replace(steps, successes=steps.rewards == 1)
        return replace(steps, stays_at_goal=steps.timeouts is not None)


def _opened_entry(group: Any, key: Any) -> Any:
    """Open an array, or a group as a dict of arrays. Entries that are not read may be of any kind."""
    entry = group[key]
    if key not in READ:
        return entry
    parts = {part: entry[part] for part in entry} if isinstance(entry, Mapping) else {"": entry}
    for array in parts.values():
        # h5py reads the type here. A damaged one must not seem to be a mistake of the user's.
        getattr(array, "dtype", None)
    return parts if isinstance(entry, Mapping) else entry
