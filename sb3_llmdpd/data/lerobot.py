"""Reads LeRobot data sets, whose episodes are rows of parquet files."""

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_llmdpd.data.episode_source import AS_RECORDED, EpisodeSource, Reading, Record
from sb3_llmdpd.data.lerobot_files import ACTION, DONE, REWARD, SUCCESS, Contents, Frames


class LeRobotSource(EpisodeSource):
    """A local LeRobotDataset of version v2.1 or v3.0, of which numbers are read and images are not.

    A frame is an observation and the action after it. The result of the last of n actions is not recorded, so
    that an episode has n - 1 steps: its last action is left out, with its reward. It has n where the task
    ended with the last frame. The observation after that frame repeats the last one, and is not learned from.
    Where ``next.done`` is set in the last frame but one, the last one shows its result.

    ``next.done`` may be a time limit. It is the end of the task where ``next.success`` is first set in the
    same frame, or, in a data set without that feature, where the frame has the only reward of the episode.
    Without ``next.reward`` all rewards are zero, with a warning.

    The task is the string of the first frame's ``task_index``, which is also the sentence. An episode of an
    empty string has none, and its task is the data set. The action space spans the values of each entry,
    since no limits are recorded; that of several such data sets spans the values of all.

    :param folder: holds ``meta/info.json``; ``~`` is the home folder.
    :param observation_key: feature that is the observation, or several, put side by side in their order.
    :param reading: options of reading, see `Reading`.
    :raises ValueError: when the folder is missing, damaged or of another version, or lacks a feature of
        numbers.
    :raises TypeError: when a key is no string.
    """

    kind = "lerobot"
    bounds_from_data = True

    def __init__(
        self,
        folder: str | Path,
        *,
        observation_key: str | Sequence[str] = "observation.state",
        reading: Reading = AS_RECORDED,
    ) -> None:
        name = str(folder)
        self._contents = Contents(name, Path(folder).expanduser())
        self._keys = self._contents.checked_keys(observation_key)
        size = sum(math.prod(self._contents.shapes[key]) for key in self._keys)
        observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        super().__init__(name, observation_space, self._contents.action_space(), reading)

    def files(self) -> Sequence[Path]:
        """See `EpisodeSource.files`."""
        return self._contents.files

    def options(self) -> dict[str, Any]:
        """See `EpisodeSource.options`."""
        return {"observation_key": self._keys}

    def records(self) -> Iterator[Record]:
        """See `EpisodeSource.records`."""
        told = [key for key in (REWARD, DONE, SUCCESS) if key in self._contents.shapes]
        if REWARD not in told:
            remark = "and all are read as zero: only cloning can be learned, eta=0"
            warnings.warn(f"{self.name}: there are no rewards (`{REWARD}`), {remark}", stacklevel=2)
        counts: Counter[str] = Counter()
        for frames in self._contents.frames([*self._keys, ACTION, "task_index", *told]):
            record = self._record(frames, counts)
            if record is not None:
                yield record
        for remark, n in counts.items():
            told_of = f"{self.name}: {n:,} of {self._contents.n_episodes:,} episodes {remark}"
            warnings.warn(told_of, stacklevel=2)

    def _record(self, frames: Frames, counts: Counter[str]) -> Record | None:
        """Read one episode, None when it has no step; remarks for the user are counted."""
        actions, rewards = frames.floats(ACTION), frames.column(REWARD)
        dones, successes = frames.column(DONE).astype(bool), frames.column(SUCCESS).astype(bool)
        n_frames = len(actions)
        parts = [frames.floats(key).reshape(n_frames, -1) for key in self._keys]
        observations = np.concatenate(parts, axis=1)

        # An end in the last frame but one: the last shows its result, and the last action belongs to no step.
        closed = n_frames > 1 and bool(dones[-2])
        n_steps = n_frames - 1
        told = successes if SUCCESS in frames.shapes else rewards != 0
        if not closed and dones[-1] and _first(told) == n_steps:
            n_steps = n_frames
            observations = np.concatenate([observations, observations[-1:]])
        if n_steps == 0:
            counts["have a single frame, which is no step, and were left out"] += 1
            return None
        if n_steps < n_frames and not closed and rewards[-1] and not rewards[:-1].any():
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
            "terminated": bool(dones[n_steps - 1]) and _first(told) == n_steps - 1,
            "success": bool(successes.any()) if SUCCESS in frames.shapes else None,
            "first_success": _first(successes[:n_steps]),
            "source": frames.source,
        }

    def _task_text(self, frames: Frames, counts: Counter[str]) -> str:
        first, *others = dict.fromkeys(frames.column("task_index").tolist())
        if others:
            counts["have several tasks, of which that of their first frame was taken"] += 1
        if first not in self._contents.tasks:
            known = sorted(self._contents.tasks)
            raise ValueError(
                f"{frames.source}: `task_index` is {first:g}, and the table of the tasks has {known}"
            )
        return self._contents.tasks[first]


def _first(told: np.ndarray) -> int | None:
    """Find the first true entry; None where there is none."""
    return int(told.argmax()) if told.any() else None
