"""Checks of what users bring: sentences, steps against spaces, the spaces themselves, numbers of examples."""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from stable_baselines3.common.preprocessing import is_image_space

Observations = np.ndarray | dict[str, np.ndarray]
"""Observations of consecutive steps: (n, *obs_shape), or a dict of such arrays for a Dict space."""
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
"""Words for success and failure."""
LABELS = (
    "actions are labels of discrete actions, and a policy here acts by continuous ones: use another method,"
    " or record what the actuators got"
)
"""End of the sentences that refuse such actions."""
MOST_NAMED = 12
"""Most names that a message lists."""
MOST_EXAMPLES = 1_000
"""Most examples of a training prompt: each is as many rows in every batch."""


def entries_of(observations: Any) -> dict[str, Any]:
    """Return observations of either kind as a dict of arrays; a single array has the key ``""``."""
    return observations if isinstance(observations, dict) else {"": observations}


def parts_of(space: Space[Any]) -> dict[str, Space[Any]]:
    """Return the spaces of a Dict's entries by their keys; any other space has the key ``""``."""
    return space.spaces if isinstance(space, spaces.Dict) else {"": space}


def listed(names: Iterable[Any], most: int = MOST_NAMED) -> str:
    """Write names for a message, of many only the first."""
    shown = [str(name) for name in names]
    more = f" and {len(shown) - most:,} more" if len(shown) > most else ""
    return (", ".join(shown[:most]) or "none") + more


def one_line(error: BaseException) -> str:
    """Write an error of a library for a message: its kind, and its words on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def check_texts(texts: Sequence[str] | str, source: str) -> tuple[str, ...]:
    """Check sentences.

    :param texts: one sentence, or several phrasings of it.
    :param source: named first in the error message.
    :return: the sentences, stripped of white space around them.
    :raises TypeError: when one is not a string.
    :raises ValueError: when one is empty, or holds half a character.
    """
    phrasings = (texts,) if isinstance(texts, str) else tuple(texts)
    for text in phrasings:
        if not isinstance(text, str):
            raise TypeError(f"{source}: a task text must be a string, got {type(text).__name__}")
        if not text.strip():
            raise ValueError(
                f"{source}: a task text is empty; write a sentence that says what the task is, or give none"
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:  # one of the two surrogates of, for example, an emoji
            raise ValueError(
                f"{source}: the task text {text!r} holds {text[error.start]!r}, which is half a character;"
                " write the whole one, or leave it out"
            ) from error
    return tuple(text.strip() for text in phrasings)


def truth_of(value: Any) -> bool | None:
    """Read what data say about success.

    :param value: a truth value, a number, a string, or an array of one of them.
    :return: None where it says nothing: None, NaN, a number below 0, a word but yes, no, true and false.
    """
    value = value.decode(errors="replace") if isinstance(value, bytes) else value
    if isinstance(value, str):
        return _WORDS.get(value.strip().lower())
    array = np.asarray(value)
    if array.dtype.kind in "US" and array.size == 1:
        return truth_of(array.flat[0])
    if array.dtype.kind not in "fiub" or array.size != 1:
        return None
    number = float(array.flat[0])
    return number > 0 if number >= 0 else None


def check_fits(
    observations: Observations,
    actions: np.ndarray,
    observation_space: Space[Any],
    action_space: spaces.Box,
    source: str,
) -> None:
    """Check steps against the spaces that they should belong to.

    :param observations: (n, *obs_shape), or a dict of such arrays.
    :param actions: (T, *action_shape), environment units.
    :param observation_space: space of the data set or the model.
    :param action_space: space of the data set or the model.
    :param source: named first in the error message.
    :raises ValueError: when shapes differ, or actions leave the space.
    """
    rows, parts = entries_of(observations), parts_of(observation_space)
    if isinstance(observation_space, spaces.Dict):
        if not isinstance(observations, dict) or set(rows) != set(parts):
            raise ValueError(f"{source}: observations must be a dict with the keys {sorted(parts)}")
    elif isinstance(observations, dict):
        raise ValueError(
            f"{source}: observations are a dict, but the observation space is {observation_space}"
        )
    for key, part in parts.items():
        _check_rows(f"observations[{key!r}]" if key else "observations", rows[key], part, source)
    _check_rows("actions", actions, action_space, source)
    # In the precision of the actions: 0.1 as float32 is larger than 0.1 as float64.
    low, high = action_space.low.astype(np.float32), action_space.high.astype(np.float32)
    outside = ((actions < low) | (actions > high)).reshape(len(actions), -1).any(axis=1)
    if outside.any():
        raise ValueError(
            f"{source}: {int(outside.sum())} of {len(actions)} actions lie outside the action space"
            f" [{action_space.low.min()}, {action_space.high.max()}] (values from {actions.min():.4g} to"
            f" {actions.max():.4g}); clip them as the environment did, or use the action space that they"
            " belong to"
        )


def _check_rows(name: str, array: np.ndarray, space: Space[Any], source: str) -> None:
    """Refuse rows of another shape, and categories that the networks would read out of bounds."""
    if array.shape[1:] != space.shape:
        raise ValueError(
            f"{source}: a row of `{name}` must have the space's shape {space.shape}, got {array.shape[1:]}"
        )
    n = n_categories(space)
    if n is not None and len(outside := np.argwhere((array < 0) | (array >= n))):
        step = int(outside[0][0])
        raise ValueError(
            f"{source}: `{name}` holds {len(outside)} values that {space} lacks, the first at step {step}:"
            f" {array[step]}"
        )


def n_categories(space: Space[Any]) -> np.ndarray | int | None:
    """Count the categories of each entry.

    :param space: any but Dict.
    :return: a number, or one for each entry; None where the entries are no categories.
    :raises ValueError: when Stable-Baselines3 cannot read the space: a single number without an axis, or
        categories that are not counted from 0.
    """
    if isinstance(space, spaces.Box) and not space.shape:
        raise ValueError(
            f"{space} has no axis; give a single number one, as in observations of shape (T + 1, 1)"
        )
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and np.any(space.start):
        raise ValueError(
            f"{space} counts from start={space.start}, and Stable-Baselines3 reads categories from 0 on:"
            " subtract it in the data and in the environment"
        )
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return space.nvec
    return 2 if isinstance(space, spaces.MultiBinary) else None


def first_true(told: np.ndarray) -> int | None:
    """Find the first true entry of (n,); None where there is none."""
    return int(told.argmax()) if told.any() else None


def misfits(found: Space[Any], wanted: Space[Any]) -> list[str]:
    """Say in which entries the values of one space are not those that another one has.

    Bounds and precision of observations do not count: numbers are numbers. An image of bytes is none but
    another such image.

    :param found: space of an environment or of data.
    :param wanted: space of a model.
    :return: the names of the entries that differ, ``""`` for a space without entries; none where the spaces
        fit.
    """
    here, there = parts_of(found), parts_of(wanted)
    one_sided = set(here) ^ set(there)
    return sorted({*one_sided, *(key for key in set(here) & set(there) if not _fits(here[key], there[key]))})


def _fits(found: Space[Any], wanted: Space[Any]) -> bool:
    if isinstance(found, spaces.Box) and isinstance(wanted, spaces.Box):
        return found.shape == wanted.shape and is_image_space(found) == is_image_space(wanted)
    return found == wanted


def check_bounded(space: Space[Any], name: str = "`action_space`") -> spaces.Box:
    """Return a space of actions; a ValueError names it unless it is a Box with finite bounds."""
    if not isinstance(space, spaces.Box) or not space.is_bounded():
        raise ValueError(f"{name} must be a Box with finite bounds, got {space}")
    return space


def check_varied(space: spaces.Box) -> None:
    """Refuse actions with a constant entry by a ValueError: scaling it to [-1, 1] would make it NaN."""
    if not (space.low < space.high).all():
        raise ValueError(
            f"every entry of an action must be free to vary, low < high, got bounds {space.low} and"
            f" {space.high}: leave constant entries out of `action_space` and `actions`"
        )


def check_return_weight(strength: float, gamma: float) -> None:
    """Refuse weights that are not defined.

    :param strength: strength of the weights.
    :param gamma: discount of the returns.
    :raises ValueError: when the strength is negative or not finite, or above 0 with a discount not in [0, 1).
    """
    if not 0 <= strength < math.inf:
        raise ValueError(f"`return_weight` must be a finite number of at least 0, got {strength}")
    if strength > 0 and not 0 <= gamma < 1:
        raise ValueError(
            f"`return_weight` above 0 goes by discounted returns: `gamma` must be in [0, 1), got {gamma};"
            " with `return_weight=0` all episodes are drawn alike"
        )


def check_examples_per_prompt(numbers: Any) -> tuple[int, int]:
    """Read the fewest and the most examples of a prompt.

    :param numbers: two whole numbers, 1 <= fewest <= most.
    :raises TypeError: when they are something else.
    :raises ValueError: when they are out of their range.
    """
    is_pair = isinstance(numbers, tuple | list) and len(numbers) == 2
    if not is_pair or not all(isinstance(n, Integral) and not isinstance(n, bool) for n in numbers):
        raise TypeError(
            f"`examples_per_prompt` must be the fewest and the most, as in (1, 5), got {numbers!r}"
        )
    fewest, most = int(numbers[0]), int(numbers[1])
    if not 1 <= fewest <= most <= MOST_EXAMPLES:
        raise ValueError(
            f"`examples_per_prompt` must be (fewest, most) with 1 <= fewest <= most <= {MOST_EXAMPLES},"
            f" got {numbers!r}"
        )
    return fewest, most
