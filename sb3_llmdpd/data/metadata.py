"""Reads what the metadata of any project say: sentences, names of tasks and goals, success."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from sb3_llmdpd.data.checks import first_true, listed, truth_of

TEXT_KEYS = (
    "task_texts",
    "task_text",
    "language_instruction",
    "language_instructions",
    "natural_language_instruction",
    "instruction",
    "task",
    "mission",
)
"""Names of the sentence of a task, best first."""

TASK_KEYS = ("task_id", "task_index")
"""Names of the identifier of a task, best first."""

GOAL_KEYS = ("goal_id",)
"""Names of the identifier of a goal."""

SUCCESS_KEYS = ("success", "is_success", "goal_achieved", "task_success")
"""Names of the success of an episode, or of each step, best first."""

FIRST_SUCCESS = "first_success"
"""Name of the index of the first step with success."""

_LIST_AS_JSON = "task_texts"
"""The name under which a list of sentences may be JSON: hdf5 has no lists of strings of its own."""


@dataclass(frozen=True)
class Said:
    """Sentences and names that metadata give a task.

    :param texts: phrasings of its sentence.
    :param task: its identifier; None when there is none.
    :param goal: identifier of the goal.
    :param unread: types of the entries under known names that are of another type, by name.
    """

    texts: tuple[str, ...]
    task: str | None
    goal: str | None
    unread: dict[str, str]


def said_by(places: Mapping[str, Mapping[str, Any]]) -> Said:
    """Read metadata: what is said in the first place that says it.

    A sentence is a string; several phrasings are a list or an array of strings, under ``task_texts`` also as
    JSON. A name is a string or a whole number. Strings may be bytes, and empty ones say nothing.

    :param places: metadata by what stands before their names in messages, e.g. ``"options/"``.
    """
    unread: dict[str, str] = {}

    def first(keys: Sequence[str], read: Any) -> Any:
        found = []
        for prefix, metadata in places.items():
            for key in keys:
                value = metadata.get(key)
                result = None if value is None else read(key, value)
                if value is not None and result is None:
                    unread[f"{prefix}{key}"] = _type_of(value)
                found.append(result)
        return next(filter(None, found), None)

    return Said(first(TEXT_KEYS, _texts) or (), first(TASK_KEYS, _name), first(GOAL_KEYS, _name), unread)


def success_of(
    metadata: Mapping[str, Any], infos: Mapping[str, Any], n_steps: int
) -> tuple[bool | None, int | None]:
    """Read success off the metadata of an episode, else off the infos of its steps.

    :param metadata: one value, or one a step, under one of `SUCCESS_KEYS`; `truth_of` reads it.
    :param infos: likewise, (n_steps,) or (n_steps, 1), or one more where the reset's is the first.
    :param n_steps: number of steps of the episode.
    :return: success, and the first step with it; None where nothing tells.
    """
    outcomes = [
        _outcome(place[key], n_steps) for place in (metadata, infos) for key in SUCCESS_KEYS if key in place
    ]
    told = [success for success, _ in outcomes if success is not None]
    success = told[0] if told else None
    first = None
    if success:
        first = next((step for success, step in outcomes if success and step is not None), None)
    said = metadata.get(FIRST_SUCCESS)
    return success, first if said is None else _index(said)


def success_of_step(info: Mapping[str, Any]) -> bool | None:
    """Read success off the info of one step, under the first of `SUCCESS_KEYS` that says something."""
    told = (truth_of(info[key]) for key in SUCCESS_KEYS if key in info)
    return next((success for success in told if success is not None), None)


def decoded(value: Any) -> str | None:
    """Read a string, which may be bytes, without white space around it; None for any other value."""
    try:
        text = value.decode() if isinstance(value, bytes) else value
        if isinstance(text, str):
            text.encode()  # h5py reads bytes that are no UTF-8 as strings that cannot be written again
            return text.strip()
    except UnicodeError:
        pass
    return None


def _texts(key: str, value: Any) -> tuple[str, ...] | None:
    """Read one sentence or several; None where the value is of another type."""
    if isinstance(value, np.ndarray):
        value = value.ravel().tolist()
    text = decoded(value)
    if key == _LIST_AS_JSON and text is not None and text.startswith("["):
        with suppress(ValueError):  # otherwise it is a sentence in brackets
            value = json.loads(text)
    texts = [decoded(each) for each in (value if isinstance(value, list | tuple) else [value])]
    return None if None in texts else tuple(filter(None, texts))


def _name(key: str, value: Any) -> str | None:
    """Read a name; None where the value is of another type."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.ravel()[0]
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    return str(int(value)) if is_whole else decoded(value)


def _type_of(value: Any) -> str:
    """Name the type of a value for a message."""
    if isinstance(value, np.ndarray):
        return f"array of {value.dtype}, shape {value.shape}"
    if isinstance(value, list | tuple):
        return f"list of {listed(dict.fromkeys(type(each).__name__ for each in value))}"
    return type(value).__name__


def _outcome(values: Any, n_steps: int) -> tuple[bool | None, int | None]:
    """Read success, and the first step with it, off one value a step or one for all."""
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape not in ((n_steps,), (n_steps + 1,)):
        return truth_of(values), None
    steps = array[-n_steps:]
    if steps.dtype.kind in "fiub":
        known, reached = steps >= 0, steps > 0  # neither is true of NaN
    else:
        truths = [truth_of(value) for value in steps]
        known, reached = (
            np.array([truth in kinds for truth in truths]) for kinds in ((True, False), (True,))
        )
    if not known.any():
        return None, None
    return bool(reached.any()), first_true(reached)


def _index(value: Any) -> int | None:
    """Read the index of a step; None where it is negative or no whole number."""
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "fiu":
        return None
    number = float(array.flat[0])
    return int(number) if number >= 0 and number.is_integer() else None
