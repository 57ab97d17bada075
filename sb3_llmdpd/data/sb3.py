"""Reads the replay buffers of Stable-Baselines3."""

import pickle
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.save_util import load_from_pkl

from sb3_llmdpd.data.checks import check_bounded, entries_of, parts_of
from sb3_llmdpd.data.episode_source import AS_RECORDED, EpisodeSource, Reading, Record
from sb3_llmdpd.data.spaces import unscale_actions
from sb3_llmdpd.data.step_arrays import StepArrays, split_steps
from sb3_llmdpd.data.step_files import existing_file, sound_file

_DAMAGED = (pickle.UnpicklingError, EOFError, OSError, MemoryError, OverflowError)
"""Errors of opening a damaged pickle."""
_OF_ANOTHER_LIBRARY = (ImportError, AttributeError, IndexError, KeyError, TypeError, ValueError)
"""Further errors of opening a pickle of another library's classes."""

_AT_BOUND = 0.95
"""Share of a bound that the largest of many actions reaches where the bound limits them."""

_ROUNDING = 1e-5
"""Distance by which a scaled action may leave [-1, 1]."""


class ReplayBufferSource(EpisodeSource):
    """Experience of an off-policy algorithm of Stable-Baselines3: a replay buffer, or the file of one.

    Each environment gives its own episodes, in their order, and `find_episodes` says where they end: at
    ``dones``, of which those at a time limit are no terminations, and where an environment was reset
    otherwise. The oldest episode of a full buffer may have lost its beginning, and the newest lack its end.

    Off-policy algorithms store actions scaled to [-1, 1], so that they are scaled back to the action space.
    Others, such as CleanRL's, store them in environment units: a warning questions a buffer whose actions
    fill the action space and lie within [-1, 1]. Observations and rewards are stored as the environment gave
    them, also under a VecNormalize.

    Buffers that draw differently, such as ``HerReplayBuffer``, hold the same steps and are read alike; the
    goals that they substitute as they sample are not among the steps. A buffer that saves memory
    (``optimize_memory_usage``) lacks the observation after an episode's end: the last one is repeated.

    :param buffer: a ``ReplayBuffer`` or ``DictReplayBuffer``, or the path of a saved one.
    :param task: task of all episodes.
    :param allow_pickle: whether to open such a file, which executes its content: only your own.
    :param scaled_actions: whether actions are scaled to [-1, 1], or in environment units; None takes them for
        scaled where nothing speaks against it.
    :param reading: options of reading, see `Reading`.
    :raises TypeError: when it is another kind of buffer, or none.
    :raises ValueError: when the file is not there, not allowed or damaged, the buffer is empty, the actions
        cannot have been scaled, or the action space is no Box with finite bounds.
    """

    kind = "sb3"

    def __init__(
        self,
        buffer: ReplayBuffer | str | Path,
        *,
        task: str = "task",
        allow_pickle: bool = False,
        scaled_actions: bool | None = None,
        reading: Reading = AS_RECORDED,
    ) -> None:
        self._task, self._scaled = task, scaled_actions
        self._question: str | None = None
        self._path: Path | None = None
        name = "replay buffer"
        if isinstance(buffer, str | Path):
            name = str(buffer)
            self._path = _file_of(buffer)
            buffer = _unpickled(self._path, name, allow_pickle)
        self._buffer = _checked(buffer, name)
        super().__init__(name, self._buffer.observation_space, self._buffer.action_space, reading)
        box = check_bounded(self._buffer.action_space, f"{name}: the action space")
        self._low, self._high = box.low, box.high
        self._is_unit = (box.low == -1.0) & (box.high == 1.0)
        self._check_scale()

    def files(self) -> Sequence[Path]:
        """See `EpisodeSource.files`; none where the buffer was handed over."""
        return [] if self._path is None else [self._path]

    def options(self) -> dict[str, Any]:
        """See `EpisodeSource.options`."""
        return {"task": self._task, "scaled_actions": self._scaled}

    def records(self) -> Iterator[Record]:
        """See `EpisodeSource.records`."""
        if not self._buffer.handle_timeout_termination and self._buffer.dones.any():
            warnings.warn(
                f"{self.name}: it was told not to tell time limits from terminations"
                " (handle_timeout_termination=False), so that every end is read as a termination. Where"
                " episodes end at a time limit, record them with True",
                stacklevel=2,
            )
        if self._question is not None:
            warnings.warn(self._question, stacklevel=2)
        for column in range(self._buffer.n_envs):
            for record in split_steps(self._steps(column)):
                yield {**record, "task": self._task}

    def _steps(self, column: int) -> StepArrays:
        """Collect the steps of one environment, oldest first."""
        buffer, rows = self._buffer, self._rows
        dones = buffer.dones[rows, column].astype(bool)
        timeouts = buffer.timeouts[rows, column].astype(bool) & dones
        actions = buffer.actions[rows, column].reshape(len(rows), *self._low.shape)
        return StepArrays(
            self._observations(buffer.observations, rows, column),
            actions if self._scaled is False else self._in_environment_units(actions),
            buffer.rewards[rows, column],
            dones & ~timeouts,  # SB3 says `done` at a time limit, too
            timeouts,
            self._next_observations(rows, column, dones),
            source=self.name if buffer.n_envs == 1 else f"{self.name}, environment {column}",
        )

    @property
    def _rows(self) -> np.ndarray:
        """Rows that hold a step, oldest first."""
        buffer = self._buffer
        if not buffer.full:
            return np.arange(buffer.pos)
        rows = (buffer.pos + np.arange(buffer.buffer_size)) % buffer.buffer_size
        # With memory saved, the oldest row holds the observation after the newest step, and no step any more.
        return rows[1:] if buffer.optimize_memory_usage else rows

    def _next_observations(self, rows: np.ndarray, column: int, dones: np.ndarray) -> Any:
        buffer = self._buffer
        if not buffer.optimize_memory_usage:
            return self._observations(buffer.next_observations, rows, column)
        following = (rows + 1) % buffer.buffer_size
        # The row after an end holds the next episode's first observation, except where none has begun yet.
        following[:-1] = np.where(dones[:-1], rows[:-1], following[:-1])
        return self._observations(buffer.observations, following, column)

    def _observations(self, stored: Any, rows: np.ndarray, column: int) -> Any:
        """Read rows of an environment in the shapes of the space: SB3 gives a Discrete one an axis."""
        parts, arrays = parts_of(self._buffer.observation_space), entries_of(stored)
        shapes = {key: (len(rows), *(part.shape or ())) for key, part in parts.items()}
        read = {key: arrays[key][rows, column].reshape(shape) for key, shape in shapes.items()}
        return read if isinstance(stored, dict) else read[""]

    def _in_environment_units(self, scaled: np.ndarray) -> np.ndarray:
        # Clipped, since rounding may leave the bounds a little, see `_check_scale`.
        actions = np.clip(unscale_actions(scaled, self._low, self._high), self._low, self._high)
        return np.where(self._is_unit, scaled, actions)  # to the bit where nothing was scaled

    def _check_scale(self) -> None:
        """Refuse actions that leave [-1, 1], and so are not scaled to it; question those that may not be."""
        rescaled = ~self._is_unit.reshape(-1)  # entries in [-1, 1] anyway are clipped or refused later
        actions = self._buffer.actions[self._rows][..., rescaled]
        farthest = float(np.abs(actions).max(initial=0.0))
        if self._scaled is not False and farthest > 1.0 + _ROUNDING:
            raise ValueError(
                f"{self.name}: its actions reach {farthest:.4g}, and Stable-Baselines3 stores them scaled to"
                " [-1, 1]; where these are in environment units, say so with scaled_actions=False"
                " (--unscaled-actions)"
            )
        bounds = [bound.reshape(-1)[rescaled] for bound in (self._low, self._high)]
        is_within = bool(((actions >= bounds[0] - _ROUNDING) & (actions <= bounds[1] + _ROUNDING)).all())
        reached = [np.abs(actions[..., bound != 0] / bound[bound != 0]).max(initial=0.0) for bound in bounds]
        if self._scaled is None and is_within and max(reached) > _AT_BOUND:
            self._question = (
                f"{self.name}: its actions fill the action space, {self._low.min():.4g} to"
                f" {self._high.max():.4g}, and leave it nowhere, as actions in environment units do. They are"
                " read as Stable-Baselines3 stores them, scaled to [-1, 1]: say which they are with"
                " scaled_actions=False (--unscaled-actions), or with True"
            )


def _checked(buffer: Any, name: str) -> ReplayBuffer:
    """Refuse anything without steps that could be read."""
    accepted = "a ReplayBuffer or DictReplayBuffer of Stable-Baselines3, or a file from save_replay_buffer"
    kind = type(buffer).__name__
    if isinstance(buffer, ReplayBuffer) and hasattr(buffer, "texts_by_task"):  # a PromptReplayBuffer
        raise TypeError(f"{name}: a {kind} was made of a data set; give that. Accepted is {accepted}")
    if isinstance(buffer, BaseBuffer) and not isinstance(buffer, ReplayBuffer):
        raise TypeError(
            f"{name}: a {kind} does not keep what its actions led to, and forgets them after each update;"
            f" record the policy with record_policy. Accepted is {accepted}"
        )
    if not isinstance(buffer, ReplayBuffer):
        raise TypeError(f"{name}: accepted is {accepted}, got {kind}")
    if not hasattr(buffer, "handle_timeout_termination"):
        raise ValueError(
            f"{name}: was written by a version of Stable-Baselines3 that did not keep time limits; load it"
            " into a model with load_replay_buffer, and save it again"
        )
    if reason := _misfit(buffer):
        raise ValueError(f"{name}: is damaged, {reason}; load it where it was written, and save it again")
    if not buffer.size():
        raise ValueError(f"{name}: the buffer holds no step; fill it with model.learn(...) first")
    return buffer


def _misfit(buffer: ReplayBuffer) -> str | None:
    """Say what of a buffer is not as its constructor makes it; None where nothing is."""
    kinds: dict[str, Any] = {"buffer_size": int, "n_envs": int, "pos": int, "full": bool}
    kinds |= dict.fromkeys(("actions", "rewards", "dones", "timeouts"), np.ndarray)
    kinds |= {"handle_timeout_termination": bool, "optimize_memory_usage": bool}
    kinds |= {"observation_space": Space, "action_space": Space}
    for attribute, kind in kinds.items():
        if not isinstance(found := getattr(buffer, attribute, None), kind):
            return f"its `{attribute}` is of type {type(found).__name__}"
    rows = buffer.buffer_size, buffer.n_envs
    if min(rows) < 1 or not 0 <= buffer.pos < buffer.buffer_size:
        return f"it has {rows[0]} rows of {rows[1]} environments, and its place is {buffer.pos}"
    if not isinstance(buffer.action_space, spaces.Box):
        return None  # which is refused as such
    for label, (array, shape) in _stored(buffer, rows).items():
        if not isinstance(array, np.ndarray):
            return f"its `{label}` is of type {type(array).__name__}"
        if array.dtype.kind not in "fiub" or array.shape != shape:
            found_shape = f"{array.dtype} of shape {array.shape}"
            return f"its `{label}` must be numbers of shape {shape}, and is {found_shape}"
    return None


def _stored(buffer: ReplayBuffer, rows: tuple[int, int]) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Collect the arrays of a buffer by their names, each with the shape that it must have."""
    size = int(np.prod(buffer.action_space.shape))  # type: ignore[arg-type]  # a Box
    stored: dict[str, tuple[Any, tuple[int, ...]]] = {"actions": (buffer.actions, (*rows, size))}
    stored |= {name: (getattr(buffer, name), rows) for name in ("rewards", "dones", "timeouts")}
    for name in ("observations", "next_observations")[: 1 if buffer.optimize_memory_usage else 2]:
        found = entries_of(getattr(buffer, name, None))
        for key, part in parts_of(buffer.observation_space).items():
            label = f"{name}[{key!r}]" if key else name
            stored[label] = found.get(key), (*rows, *(part.shape or (1,)))
    return stored


def _file_of(path: str | Path) -> Path:
    """Find the file of ``save_replay_buffer``, which appends a suffix where there is none."""
    with_suffix = Path(f"{path}.pkl")
    is_appended = not Path(path).suffix and with_suffix.expanduser().is_file()
    return existing_file(with_suffix if is_appended else path)


def _unpickled(file: Path, name: str, allow_pickle: bool) -> Any:
    if not allow_pickle:
        raise ValueError(
            f"{name}: is a pickle, which executes its content as it is opened. Where you wrote it yourself,"
            " say so with allow_pickle=True (--allow-pickle on the command line)"
        )
    sound = sound_file(name, "a pickled replay buffer", (*_DAMAGED, *_OF_ANOTHER_LIBRARY))
    with sound, file.open("rb") as opened:  # SB3 would leave it open where it is damaged
        return load_from_pkl(opened)
