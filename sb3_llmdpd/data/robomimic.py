"""Reads hdf5 files of robomimic's layout, which LIBERO, MimicGen and RoboCasa share."""

import difflib
import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from sb3_llmdpd.common.optional_imports import require
from sb3_llmdpd.data.checks import first_true, listed, truth_of
from sb3_llmdpd.data.episode_source import AS_RECORDED, EpisodeSource, Reading, Record
from sb3_llmdpd.data.metadata import decoded
from sb3_llmdpd.data.step_arrays import StepArrays
from sb3_llmdpd.data.step_files import existing_file, measured_space, sound_file

_BROKEN = (OSError, RuntimeError, KeyError)
_MISREAD = (*_BROKEN, ValueError, TypeError, AttributeError)
"""Errors of h5py for a damaged file: as it is opened, and as anything in it is read."""

_LAYOUT = "robomimic's files hold data/demo_0, data/demo_1 and so on, each with `actions` and `obs`"

_FEWEST_IMAGE_AXES = 3
"""Steps, rows and columns: bytes of so many axes are images."""


class RobomimicSource(EpisodeSource):
    """A file of demonstrations, ``data/demo_0`` and so on, in the order of their numbers.

    A demonstration has ``actions`` (T, A), and ``obs`` with T rows under each key. It may have ``rewards``,
    ``dones`` and ``next_obs``. The observation is one vector: the keys of numbers side by side, in
    alphabetical order. Images are not read, with a warning.

    With ``next_obs`` an episode has T steps. Without, what the last action led to is not recorded, and the
    action is left out; unless the task ended there, when the last observation stands for the result, which is
    not learned from. ``dones`` may mark the end of a recording alone: it is the end of the task where the
    step has the first reward above 0.

    Success is the attribute ``success`` of the demonstration. Without, the first reward of 1 tells it, where
    all rewards of the file are 0 or 1, and not all 0.

    The sentence is that of the demonstration (``lang`` in RoboCasa's ``ep_meta``), else that of the file
    (``language_instruction`` in LIBERO's ``problem_info``, or ``env_lang`` in ``env_args``).

    The action space is Box(-1, 1), as robosuite's, where hardly an action lies outside; else, with a warning,
    it spans the values of each entry. `Reading.action_low` says other bounds.

    :param path: path of the hdf5 file; ``~`` is the home folder.
    :param task: task of all episodes; by default their sentence, or the file's name without its suffix.
    :param observation_key: key of ``obs`` that is the observation, or several, put side by side in their
        order. By default all of numbers whose rows are numbers or vectors.
    :param reading: options of reading, see `Reading`.
    :raises ValueError: when the file is not there, damaged, or not laid out like this, a key is unknown, or
        actions are labels.
    :raises TypeError: when a key is no string, or an array does not hold numbers.
    """

    kind = "robomimic"
    bounds_from_data = True

    def __init__(
        self,
        path: str | Path,
        *,
        task: str | None = None,
        observation_key: str | Sequence[str] | None = None,
        reading: Reading = AS_RECORDED,
    ) -> None:
        self._path = existing_file(path)
        self._task = task
        self._remarks: list[str] = []
        name = str(path)
        with self._opened(name) as (demos, _):
            self._sizes = self._chosen(demos[0], observation_key)
            action_space = self._bounds(name, demos, reading)
        observation_space = spaces.Box(-np.inf, np.inf, (sum(self._sizes.values()),), np.float32)
        super().__init__(name, observation_space, action_space, reading)

    @contextmanager
    def _opened(self, name: str) -> Iterator[tuple[list["_Demonstration"], "_Attributes"]]:
        """Open the file as a context in which demonstrations, and attributes of all, can be read."""
        with sound_file(name, "an hdf5 file", _BROKEN), require("h5py", "all").File(self._path, "r") as file:
            yield _demonstrations(file, name), _Attributes(name, file["data"])

    def _chosen(self, first: "_Demonstration", given: Any) -> dict[str, int]:
        """Choose the keys of the observation by those of the first demonstration; others become remarks.

        :return: numbers in a row of each.
        """
        entries = first.entries("obs")
        if not entries:
            raise ValueError(
                f"{first.source}: has no observations, `obs`, but holds {listed(first.keys())}; {_LAYOUT}."
                " Where simulator states alone were recorded, robomimic's dataset_states_to_obs.py makes them"
            )
        images = [key for key, entry in entries.items() if entry.is_image]
        numbers = [key for key, entry in entries.items() if entry.is_number and not entry.is_image]
        if given is not None:
            keys = _checked_keys(first.source, given, numbers, images)
            return {key: entries[key].size for key in keys}
        keys = [key for key in numbers if len(entries[key].shape) <= 2]
        if not keys:
            raise ValueError(
                f"{first.source}: `obs` has no vectors of numbers, but {listed(entries)}. Images are not"
                " read; `observation_key` may name numbers of more axes"
            )
        if images:
            self._remarks.append(f"the images {listed(images)} are not read, numbers alone are")
        if others := [key for key in entries if key not in (*images, *keys)]:
            self._remarks.append(
                f"{listed(others)} of the observations are no vectors of numbers, and are not read;"
                " `observation_key` may name numbers of more axes"
            )
        return {key: entries[key].size for key in keys}

    def _bounds(self, name: str, demos: Sequence["_Demonstration"], reading: Reading) -> spaces.Box:
        """Make the action space: of the bounds that were given, else of the values of all demonstrations."""
        actions = [demo.required("actions") for demo in demos]
        for demo, rows in zip(demos, actions, strict=True):
            if rows.shape[1:] != actions[0].shape[1:]:
                raise ValueError(
                    f"{demo.source}: an action must be of shape {actions[0].shape[1:]}, as in"
                    f" {demos[0].source}, got {rows.shape[1:]}"
                )
        joined = np.concatenate(actions)
        # Of what these hold besides actions, nothing is read.
        steps = StepArrays(joined, joined, None, np.zeros(len(joined), bool), source=name)
        if (given := reading.bounds_of(name, joined.shape[1:])) is not None:
            return given
        measured, remark = measured_space(steps)
        if remark is not None:
            self._remarks.append(remark.removeprefix(f"{name}: "))
        return measured

    def files(self) -> Sequence[Path]:
        """See `EpisodeSource.files`."""
        return [self._path]

    def options(self) -> dict[str, Any]:
        """See `EpisodeSource.options`."""
        return {"task": self._task, "observation_key": list(self._sizes)}

    def records(self) -> Iterator[Record]:
        """See `EpisodeSource.records`."""
        counts: Counter[str] = Counter()
        with self._opened(self.name) as (demos, of_all):
            told = _successes_are_told(demos)
            remarks = list(self._remarks)
            common = _sentence_of_all(of_all, remarks.append)
            for remark in remarks:
                warnings.warn(f"{self.name}: {remark}", stacklevel=2)
            for demo in demos:
                record = self._record(demo, told, counts)
                if record is not None:
                    about = demo.attributes.json("ep_meta", lambda remark: counts.update([remark]))
                    text = _sentence(about.get("lang")) or common
                    texts = () if text is None else (text,)
                    yield {**record, "task": self._task or text or self._path.stem, "task_texts": texts}
            n_demos = len(demos)
        for remark, n in counts.items():
            warnings.warn(f"{self.name}: in {n:,} of {n_demos:,} demonstrations {remark}", stacklevel=2)

    def _record(self, demo: "_Demonstration", told: bool, counts: Counter[str]) -> Record | None:
        """Read one demonstration, None when it has no step; remarks for the user are counted.

        :param told: whether rewards tell success.
        """
        actions = demo.required("actions")
        n_rows = len(actions)
        observations = self._observations(demo, "obs", n_rows)
        rewards, dones = demo.one_a_step("rewards", n_rows), demo.one_a_step("dones", n_rows)
        reached = np.zeros(n_rows, bool) if rewards is None else rewards > 0
        ends = np.zeros(n_rows, bool) if dones is None else dones != 0
        n_steps = n_rows
        if n_rows and set(demo.entries("next_obs")) & set(self._sizes):
            observations = np.concatenate([observations, self._observations(demo, "next_obs", n_rows)[-1:]])
        elif n_rows and ends[-1] and first_true(reached) == n_rows - 1:
            observations = np.concatenate([observations, observations[-1:]])
        else:
            n_steps = n_rows - 1
        if n_steps < 1:
            counts["no step has a recorded result; they are left out"] += 1
            return None
        if n_steps < n_rows and first_true(reached) == n_steps:
            counts[
                "the only reward is that of the last action, which is left out, as what it led to is not"
                " recorded. `dones` there would say that the task ended"
            ] += 1
        success = truth_of(demo.attributes.get("success"))
        if success is None and told and rewards is not None:
            success = bool(reached.any())
        return {
            "observations": observations,
            "actions": actions[:n_steps],
            "rewards": np.zeros(n_steps, np.float32) if rewards is None else rewards[:n_steps],
            "terminated": bool(ends[n_steps - 1]) and first_true(reached) == n_steps - 1,
            "success": success,
            "first_success": first_true(reached[:n_steps]) if told and success else None,
            "source": demo.source,
            "rewarded": rewards is not None,
            "n_left_out": n_rows - n_steps,
        }

    def _observations(self, demo: "_Demonstration", group: str, n_rows: int) -> np.ndarray:
        """Read vectors, (n_rows, size)."""
        parts = []
        for key, size in self._sizes.items():
            rows = demo.required(f"{group}/{key}")
            demo.check_length(f"{group}/{key}", rows, n_rows)
            if math.prod(rows.shape[1:]) != size:
                raise ValueError(
                    f"{demo.source}: a row of `{group}/{key}` must hold {size} numbers, as in the first"
                    f" demonstration, got shape {rows.shape[1:]}"
                )
            with np.errstate(over="ignore"):  # what overflows is refused as infinite
                parts.append(rows.reshape(n_rows, size).astype(np.float32))
        return np.concatenate(parts, axis=1)


class _Entry(NamedTuple):
    """Type and shape of an array; of anything else there is no type."""

    dtype: np.dtype[Any] | None
    shape: tuple[int, ...]

    @property
    def is_number(self) -> bool:
        return self.dtype is not None and self.dtype.kind in "fiub" and len(self.shape) >= 1

    @property
    def is_image(self) -> bool:
        return self.dtype == np.uint8 and len(self.shape) >= _FEWEST_IMAGE_AXES

    @property
    def size(self) -> int:
        """Numbers in a row."""
        return math.prod(self.shape[1:])


class _Attributes:
    """Attributes of a group."""

    def __init__(self, source: str, group: Any) -> None:
        self._source, self._group = source, group

    def get(self, key: str) -> Any:
        """Read an attribute; None where there is none."""
        with sound_file(self._source, "an hdf5 file", _MISREAD):
            return self._group.attrs.get(key)

    def json(self, key: str, remark: Callable[[str], None]) -> dict[str, Any]:
        """Read an attribute that is a JSON object; empty where there is none.

        :param remark: told of one that is something else.
        """
        text = decoded(self.get(key))
        if not text:
            return {}
        with suppress(ValueError, RecursionError):
            if isinstance(read := json.loads(text), dict):
                return read
        remark(f"the attribute `{key}` is no JSON object, and is not searched for a sentence")
        return {}


class _Demonstration:
    """A group of arrays, of which none is read before it is asked for."""

    def __init__(self, file: str, key: str, group: Any) -> None:
        self.source = f"{file}, {key}"
        self.attributes = _Attributes(self.source, group)
        self._group = group

    def keys(self) -> list[str]:
        """List what the group holds."""
        with self._sound():
            return sorted(map(str, self._group))

    def entries(self, group: str) -> dict[str, "_Entry"]:
        """Describe what a group within holds by its keys, sorted; empty where there is none."""
        with self._sound():
            found = self._group.get(group)
            keys = sorted(map(str, found)) if isinstance(found, Mapping) else []
            read = {key: found[key] for key in keys}
            return {
                key: _Entry(getattr(entry, "dtype", None), getattr(entry, "shape", None) or ())
                for key, entry in read.items()
            }

    def numbers(self, path: str) -> np.ndarray | None:
        """Read an array; None where there is none."""
        with self._sound():
            entry = self._group.get(path)
            value = None if entry is None or isinstance(entry, Mapping) else np.asarray(entry[()])
        if entry is None:
            return None
        if value is None or value.dtype.kind not in "fiub":
            found = "a group" if value is None else f"dtype {value.dtype}"
            raise TypeError(f"{self.source}: `{path}` must be an array of numbers, got {found}")
        if not value.ndim:
            raise ValueError(f"{self.source}: `{path}` must be an array over steps, got a single number")
        return value

    def required(self, path: str) -> np.ndarray:
        """Read an array that must be there."""
        if (value := self.numbers(path)) is not None:
            return value
        group = path.rpartition("/")[0]
        holds = listed(self.entries(group) if group else self.keys())
        raise ValueError(
            f"{self.source}: has no `{path}`, but {f'`{group}`' if group else 'it'} holds {holds}"
        )

    def one_a_step(self, path: str, n_rows: int) -> np.ndarray | None:
        """Read an array of one number a step, (n_rows,); None where there is none."""
        value = self.numbers(path)
        if value is None:
            return None
        self.check_length(path, value, n_rows)
        if value.size != n_rows:
            raise ValueError(f"{self.source}: `{path}` must be one number a step, got shape {value.shape}")
        return value.reshape(n_rows)

    def check_length(self, path: str, value: np.ndarray, n_rows: int) -> None:
        """Refuse an array of another length than the actions'."""
        if len(value) != n_rows:
            raise ValueError(
                f"{self.source}: all arrays must have one row for each step, but `{path}` has {len(value)}"
                f" and `actions` {n_rows}"
            )

    def _sound(self) -> Any:
        return sound_file(self.source, "an hdf5 file", _MISREAD)


def _demonstrations(file: Any, name: str) -> list[_Demonstration]:
    """List the demonstrations of a file in the order of their numbers.

    :raises ValueError: when there is none.
    """
    with sound_file(name, "an hdf5 file", _MISREAD):
        data = file.get("data")
        groups = {str(key): data[key] for key in data} if isinstance(data, Mapping) else {}
        groups = {key: group for key, group in groups.items() if isinstance(group, Mapping)}
        holds = listed(sorted(map(str, file)))
    if not groups:
        raise ValueError(f"{name}: has no demonstrations, but holds {holds}; {_LAYOUT}")
    return [_Demonstration(name, key, groups[key]) for key in sorted(groups, key=_place)]


def _place(key: str) -> tuple[float, str]:
    """Return what demonstrations are sorted by: the number at the end, and behind all of these the name."""
    number = re.search(r"\d+$", key)
    return (float(number[0]) if number else math.inf), key


def _checked_keys(source: str, given: Any, numbers: Sequence[str], images: Sequence[str]) -> list[str]:
    """Check the keys that a user named, and return them as a list."""
    keys = [given] if isinstance(given, str) or not isinstance(given, Sequence) else list(given)
    if not keys or not all(isinstance(key, str) for key in keys):
        raise TypeError(
            f"{source}: `observation_key` must be a key of `obs` or several, of {listed(numbers)}; got"
            f" {given!r}"
        )
    for key in keys:
        if key in numbers:
            continue
        near = difflib.get_close_matches(key, numbers, n=1)
        reason = f"{key!r} is an image, and numbers alone are read" if key in images else f"has no {key!r}"
        hint = f", nearest is {near[0]!r}" if near and key not in images else ""
        raise ValueError(f"{source}: {reason}{hint}; `observation_key` may name {listed(numbers)}")
    if len(set(keys)) < len(keys):
        raise ValueError(f"{source}: `observation_key` names a key twice, got {keys}")
    return keys


def _successes_are_told(demos: Sequence[_Demonstration]) -> bool:
    """Tell whether the rewards of all demonstrations are 0 or 1, and some 1: zeros alone may be unknown."""
    values: set[float] = set()
    for demo in demos:
        rewards = demo.numbers("rewards")
        if rewards is not None:
            values |= set(np.unique(rewards).tolist())
        if not values <= {0, 1}:
            return False
    return 1 in values


def _sentence_of_all(attributes: _Attributes, remark: Callable[[str], None]) -> str | None:
    """Look for the sentence of a file."""
    problem, env = (attributes.json(key, remark) for key in ("problem_info", "env_args"))
    kwargs = env.get("env_kwargs")
    said = [problem.get("language_instruction")]
    said += [place.get("env_lang") for place in (kwargs, env) if isinstance(place, dict)]
    return next(filter(None, map(_sentence, said)), None)


def _sentence(value: Any) -> str | None:
    """Read a sentence, which some of LIBERO's files put into quotation marks; None where there is none."""
    text = decoded(value)
    return text.strip('"').strip() or None if text else None
