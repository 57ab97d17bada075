"""Reads LeRobot data sets, whose episodes are rows of parquet files."""

import math
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from sb3_llmdpd.data.checks import LABELS, Observations, first_true, listed, parts_of
from sb3_llmdpd.data.episode_source import AS_RECORDED, EpisodeSource, Reading, Record
from sb3_llmdpd.data.lerobot_files import (
    ACTION,
    DONE,
    EPISODE,
    FRAME,
    NOTES,
    REWARD,
    ROW,
    SUCCESS,
    TASK,
    TIME,
    WHOLE_NUMBERS,
    Contents,
    Frames,
    Notes,
)
from sb3_llmdpd.data.spaces import space_of_extremes

_IMAGES = ("image", "video")
"""Kinds of features that are images."""

Key = str | Sequence[str] | None
"""Feature that is read, several of them, or None for the usual one."""


class _Part(NamedTuple):
    """A part of a step: where it usually stands, where else it may, and which features it never is."""

    noun: str
    usual: str
    others: tuple[str, ...]
    prefixes: tuple[str, ...]
    never: tuple[str, ...]

    @property
    def option(self) -> str:
        return f"{self.noun}_key"


_CONSEQUENCES = (REWARD, DONE, SUCCESS)
_PLACES = (EPISODE, ROW, TASK)
"""Features that an observation must not show, either: its place in the data."""

_ACTION = _Part(
    "action", ACTION, ("actions",), ("action.", "actions."), (*_CONSEQUENCES, *_PLACES, FRAME, TIME)
)
_OBSERVATION = _Part(
    "observation",
    "observation.state",
    ("state", "observation", "observations"),
    ("observation.state.", "observation.states.", "state."),
    (*_CONSEQUENCES, *_PLACES, ACTION),
)


class LeRobotSource(EpisodeSource):
    """A LeRobotDataset of version v2.1 or v3.0, of which numbers are read and images are not.

    A frame is an observation and the action after it. The result of the last of n actions is not recorded, so
    that an episode has n - 1 steps: its last action is left out, with its reward. It has n where the task
    ended with the last frame. The observation after that frame repeats the last one, and is not learned from.
    Where ``next.done`` is set in the last frame but one, the last one shows its result.

    ``next.done`` may be a time limit. It is the end of the task where ``next.success`` is first set in the
    same frame, or, in a data set without that feature, where the frame has the only reward of the episode.
    Without ``next.reward`` all rewards are zero, with a warning.

    The task is the string of the first frame's ``task_index``, which is also the sentence. An episode of an
    empty string has none, and its task is the data set.

    The action space is that of `Reading.action_low` and `action_high`. Without these it spans the values of
    each entry, since no limits are recorded; that of several such data sets spans the values of all.

    A data set of `write_lerobot` gives equal episodes, and the spaces that it was written with.

    :param folder: holds ``meta/info.json``; or an id of the Hugging Face hub, see `find_folder`.
    :param observation_key: feature that is the observation, or several, put side by side in their order. By
        default ``observation.state``; where there is none, ``state``, ``observation`` or ``observations``, or
        all below ``observation.state.``, ``observation.states.`` or ``state.``, with a warning.
    :param action_key: likewise of the action: by default ``action``; else ``actions``, or all below
        ``action.`` or ``actions.``, with a warning.
    :param reading: options of reading, see `Reading`.
    :raises ValueError: when the data set is missing, damaged or of another version, a feature is missing or
        no numbers, or actions are labels.
    :raises TypeError: when a key is no string.
    """

    kind = "lerobot"
    bounds_from_data = True

    def __init__(
        self,
        folder: str | Path,
        *,
        observation_key: Key = None,
        action_key: Key = None,
        reading: Reading = AS_RECORDED,
    ) -> None:
        name = str(folder)
        self._contents = Contents(name)
        self._remarks: list[str] = []
        self._notes = notes = self._fitting_notes()
        self._action_keys = self._chosen(name, _ACTION, action_key)
        # Notes say the spaces of what was written, and not those of other features that a user names.
        self._acts_as_noted = notes is not None and action_key is None
        self._observes_as_noted = notes is not None and observation_key is None
        if notes is not None and self._observes_as_noted:
            self._observation_keys = list(notes.features.values())
            observation_space = notes.observation_space
        else:
            self._observation_keys = self._chosen(name, _OBSERVATION, observation_key, self._action_keys)
            size = sum(math.prod(self._contents.shapes[key]) for key in self._observation_keys)
            observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        if notes is not None and self._acts_as_noted:
            self.bounds_from_data, action_space = False, notes.action_space
        else:
            action_space = self._bounds(name, reading)
        super().__init__(name, observation_space, action_space, reading)

    def _fitting_notes(self) -> Notes | None:
        """Read the notes of `write_lerobot`; a remark for the user says where they do not fit."""
        try:
            return self._contents.notes()
        except ValueError as error:
            self._remarks.append(
                f"{NOTES} does not fit the data set, which is read like one of LeRobot's own: {error}. Delete"
                " that file, or write the data set again"
            )
            return None

    def _chosen(self, name: str, part: _Part, given: Key, but: Collection[str] = ()) -> list[str]:
        """Choose the features of a part of a step: those given, else the usual ones."""
        known = [key for key in self._contents.shapes if key not in (*part.never, *but)]
        if given is not None:
            return self._checked(name, part, given, known)
        if part.usual in known:
            return [part.usual]
        below = ([key for key in known if key.startswith(prefix)] for prefix in part.prefixes)
        candidates = [*([key] for key in part.others if key in known), *filter(None, below)]
        if not candidates:
            raise ValueError(
                f"{name}: there is no feature `{part.usual}` of numbers, nor another that is known as"
                f" {part.noun}. Its features of numbers are {listed(map(repr, self._contents.shapes))}: name"
                f" the {part.noun}, or several to put side by side, with `{part.option}` (--{part.noun}-key)"
            )
        self._remarks.append(
            f"there is no feature `{part.usual}`; taken for the {part.noun}:"
            f" {listed(map(repr, candidates[0]))}. `{part.option}` (--{part.noun}-key) names others"
        )
        return candidates[0]

    def _checked(self, name: str, part: _Part, given: Any, known: Sequence[str]) -> list[str]:
        """Check the features that a user named, and return them as a list."""
        keys = [given] if isinstance(given, str) or not isinstance(given, Sequence) else list(given)
        names = listed(map(repr, known))
        if not keys or not all(isinstance(key, str) for key in keys):
            raise TypeError(f"{name}: `{part.option}` must be a name or several, of {names}; got {given!r}")
        if unknown := [key for key in keys if key not in known]:
            reason = f"there is no feature {unknown[0]!r}"
            if unknown[0] in self._contents.shapes:
                reason = f"{unknown[0]!r} is no {part.noun}"
            elif dtype := self._contents.dtypes.get(unknown[0]):
                reason = f"{unknown[0]!r} is no {part.noun} of numbers, but {dtype}"
            raise ValueError(f"{name}: {reason}; `{part.option}` may name {names}")
        if len(set(keys)) < len(keys):
            raise ValueError(f"{name}: `{part.option}` names a feature twice, got {keys}")
        return keys

    def _bounds(self, name: str, reading: Reading) -> spaces.Box:
        """Make the action space: of the bounds that were given, else of the values of all frames.

        :raises ValueError: on whole numbers from 0 on, which are labels, where no bounds were given.
        """
        keys, shape = self._action_keys, self._contents.shape(self._action_keys)
        if (given := reading.bounds_of(name, shape)) is not None:
            return given
        low, high = self._contents.extremes(keys)
        dtypes = {self._contents.dtypes[key] for key in keys}
        if math.prod(shape) == 1 and dtypes <= WHOLE_NUMBERS and (low >= 0).all():
            raise ValueError(
                f"{name}: `{keys[0]}` is one whole number a frame, of {listed(dtypes)}, from {low.min():g} to"
                f" {high.max():g}: such {LABELS}. Where they are quantities, say their bounds with"
                " `action_low` and `action_high`"
            )
        return space_of_extremes(low, high)

    def files(self) -> Sequence[Path]:
        """See `EpisodeSource.files`."""
        return self._contents.files

    def options(self) -> dict[str, Any]:
        """See `EpisodeSource.options`; None where the notes of `write_lerobot` say what is read."""
        return {
            "observation_key": None if self._observes_as_noted else self._observation_keys,
            "action_key": None if self._acts_as_noted else self._action_keys,
        }

    def records(self) -> Iterator[Record]:
        """See `EpisodeSource.records`."""
        told = [key for key in _CONSEQUENCES if key in self._contents.shapes]
        for remark in [*self._remarks, *self._remarks_on_features()]:
            warnings.warn(f"{self.name}: {remark}", stacklevel=2)
        counts: Counter[str] = Counter()
        for frames in self._contents.frames([*self._observation_keys, *self._action_keys, TASK, *told]):
            if self._notes is not None:
                yield self._noted_record(frames, self._notes)
            elif record := self._record(frames, counts):
                yield record
        for remark, n in counts.items():
            told_of = f"{self.name}: {n:,} of {self._contents.n_episodes:,} episodes {remark}"
            warnings.warn(told_of, stacklevel=2)

    def _remarks_on_features(self) -> Iterator[str]:
        unread = [key for key, dtype in self._contents.dtypes.items() if dtype in _IMAGES]
        if unread:
            yield (
                f"the images {listed(map(repr, unread))} are not read, numbers alone are. To learn from them,"
                " decode the frames to arrays and pass `Episode`s that observe them, see docs/howto/arrays.md"
            )
        if REWARD not in self._contents.shapes:
            remark = "and all are read as zero: only cloning can be learned, eta=0"
            yield f"there are no rewards (`{REWARD}`), {remark}"

    def _vectors(self, frames: Frames) -> np.ndarray:
        """Read the observations of all frames, (n_frames, size)."""
        parts = [frames.floats(key) for key in self._observation_keys]
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    def _noted_record(self, frames: Frames, notes: Notes) -> Record:
        """Read an episode of `write_lerobot`, whose last frame shows the result of its last action."""
        seen = _noted_observations(frames, notes) if self._observes_as_noted else self._vectors(frames)
        return {
            "observations": seen,
            "actions": frames.joined(self._action_keys)[:-1],
            "rewards": frames.column(REWARD)[:-1],
            **notes.episodes[frames.episode],
            "source": frames.source,
        }

    def _record(self, frames: Frames, counts: Counter[str]) -> Record | None:
        """Read one episode, None when it has no step; remarks for the user are counted."""
        actions, rewards = frames.joined(self._action_keys), frames.column(REWARD)
        dones, successes = frames.column(DONE).astype(bool), frames.column(SUCCESS).astype(bool)
        n_frames, observations = len(actions), self._vectors(frames)

        # An end in the last frame but one: the last shows its result, and the last action belongs to no step.
        closed = n_frames > 1 and bool(dones[-2])
        n_steps = n_frames - 1
        told = successes if SUCCESS in frames.shapes else rewards != 0
        if not closed and dones[-1] and first_true(told) == n_steps:
            n_steps = n_frames
            observations = np.concatenate([observations, observations[-1:]])
        if n_steps == 0:
            counts["have a single frame, which is no step, and were left out"] += 1
            return None
        is_cut = n_steps < n_frames and not closed
        if is_cut and rewards[-1] and not rewards[:-1].any():
            counts[
                "have no reward but that of their last action, which is left out: what it led to is not"
                f" recorded. `{DONE}` there, with `{SUCCESS}` where that is recorded, would say that it ended"
            ] += 1
        text = self._task_text(frames, counts)
        return {
            "observations": observations,
            "actions": actions[:n_steps],
            "rewards": rewards[:n_steps],
            "task": text or self.name,
            "task_texts": (text,) if text else (),
            "terminated": bool(dones[n_steps - 1]) and first_true(told) == n_steps - 1,
            "success": bool(successes.any()) if SUCCESS in frames.shapes else None,
            "first_success": first_true(successes[:n_steps]),
            "source": frames.source,
            "rewarded": REWARD in frames.shapes,
            "n_left_out": int(is_cut),
        }

    def _task_text(self, frames: Frames, counts: Counter[str]) -> str:
        first, *others = dict.fromkeys(frames.column(TASK).tolist())
        if others:
            counts["have several tasks, of which that of their first frame was taken"] += 1
        if first not in self._contents.tasks:
            known = listed(sorted(self._contents.tasks))
            raise ValueError(
                f"{frames.source}: `{TASK}` is {first:g}, and the table of the tasks has [{known}]"
            )
        return self._contents.tasks[first]


def _noted_observations(frames: Frames, notes: Notes) -> Observations:
    """Read the observations of all frames as they were written: an array, or a dict of arrays."""
    parts = parts_of(notes.observation_space)
    rows = {key: frames.values(notes.features[key], part.shape or ()) for key, part in parts.items()}
    return rows if isinstance(notes.observation_space, spaces.Dict) else rows[""]
