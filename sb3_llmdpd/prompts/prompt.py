"""`Prompt`, what a user says about a task: a sentence, one example trajectory, or both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sb3_llmdpd.data.checks import Observations, check_texts, entries_of
from sb3_llmdpd.data.episodes import Episode

PROMPT_WINDOW = 32
"""Steps of an example that the networks see, by default."""
TrajectoryLike = Any
"""An `Episode`, a `Trajectory`, or a pair (observations, actions); `Trajectory.of` refuses anything else."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The (state, action) steps of one example, in environment units; checked and read-only.

    :param observations: (L, *obs_shape), or a dict of such arrays; a row after the last action is left out.
    :param actions: (L, action_dim).
    :raises TypeError: on values that are not numbers.
    :raises ValueError: on wrong shapes, NaN, or no step at all.
    """

    observations: Observations
    actions: np.ndarray

    def __post_init__(self) -> None:
        n_steps = len(self.actions) if np.ndim(self.actions) else 0
        rows: Any = self.observations
        if isinstance(rows, dict):
            rows = {key: _with_last_row(value, n_steps) for key, value in rows.items()}
        else:
            rows = _with_last_row(rows, n_steps)
        checked = Episode(rows, self.actions, np.zeros(n_steps), source="`trajectory`")
        object.__setattr__(self, "observations", take(checked.observations, slice(0, n_steps)))
        object.__setattr__(self, "actions", checked.actions)

    def __len__(self) -> int:
        """Number of steps L."""
        return len(self.actions)

    @classmethod
    def of(cls, example: TrajectoryLike) -> "Trajectory":
        """Read an example in any accepted form; the idle tail after an episode's success is cut.

        :param example: an `Episode`; a `Trajectory`; or a pair (observations, actions) with as many
            observations as actions or one more.
        :return: the steps of the example.
        :raises TypeError: when it is none of these.
        :raises ValueError: on wrong shapes, NaN, or no step at all.
        """
        if isinstance(example, Trajectory):
            return example
        if isinstance(example, tuple | list) and len(example) == 2:
            return cls(*example)
        if not isinstance(example, Episode):
            raise TypeError(
                "`trajectory` must be an Episode, a Trajectory, or a pair (observations, actions),"
                f" got {type(example).__name__}"
            )
        steps = slice(0, example.prompt_length)
        return cls(take(example.observations, steps), example.actions[steps])


@dataclass(frozen=True, eq=False)
class Prompt:
    """The condition of the policy on a task.

    :param text: one sentence, or None.
    :param trajectory: one example (see `Trajectory.of`), or None. Afterwards the first example, or None.
    :param text_vector: (text_dim,), the sentence's vector by the model's own text encoder; or None.
    :param trajectories: any number of examples, of any lengths. Afterwards all examples, as a tuple.
    :raises TypeError: when one of them has a wrong type.
    :raises ValueError: when the sentence is empty or given twice, when both one example and several are
        given, or when an example or the vector is malformed.
    """

    text: str | None = None
    trajectory: TrajectoryLike | None = None
    text_vector: np.ndarray | None = None
    trajectories: Sequence[TrajectoryLike] = ()

    def __post_init__(self) -> None:
        if self.text is not None:
            if not isinstance(self.text, str):
                raise TypeError(
                    f"`task_text` must be a string, got {type(self.text).__name__}: a Prompt has one;"
                    " several, one for each observation, go to predict(..., task_text=[...])"
                )
            object.__setattr__(self, "text", check_texts(self.text, "`task_text`")[0])
        examples = self._examples()
        object.__setattr__(self, "trajectories", examples)
        object.__setattr__(self, "trajectory", examples[0] if examples else None)
        if self.text_vector is not None:
            if self.text is not None:
                raise ValueError("pass the sentence either as `text` or as `text_vector`, not both")
            object.__setattr__(self, "text_vector", _checked_vector(self.text_vector))

    @property
    def has_text(self) -> bool:
        """True with a sentence, in words or as a vector."""
        return self.text is not None or self.text_vector is not None

    def is_same(self, other: "Prompt") -> bool:
        """Tell whether a prompt is certain to mean the same: one sentence and the same examples.

        :param other: prompt to compare with.
        :return: False also for two `Episode` objects that are merely equal, and for a sentence and its
            vector.
        """
        mine, its = self.text_vector, other.text_vector
        same_vector = mine is its if mine is None or its is None else np.array_equal(mine, its)
        same_examples = len(self.trajectories) == len(other.trajectories) and all(
            map(_is_same_example, self.trajectories, other.trajectories)
        )
        return self.text == other.text and same_vector and same_examples

    def _examples(self) -> tuple[TrajectoryLike, ...]:
        """Check the examples, whichever way they were given."""
        several = self.trajectories
        if not isinstance(several, list | tuple):
            raise TypeError(
                f"`trajectories` must be a list of examples, got {type(several).__name__}: pass one example"
                " as `trajectory`"
            )
        if self.trajectory is None:
            given = several
        elif not several or several[0] is self.trajectory:
            given = several or [self.trajectory]
        else:
            raise ValueError("pass either one example as `trajectory`, or several as `trajectories`")
        return tuple(each if isinstance(each, Episode) else Trajectory.of(each) for each in given)


def are_same(some: Sequence[Prompt], others: Sequence[Prompt]) -> bool:
    """Tell whether two lists of prompts are certain to mean the same, one by one; see `Prompt.is_same`."""
    return len(some) == len(others) and all(map(Prompt.is_same, some, others))


def _is_same_example(one: TrajectoryLike, other: TrajectoryLike) -> bool:
    """Tell whether two are one object, or were made of equal arrays, as a pair is at each call."""
    if one is other or not (isinstance(one, Trajectory) and isinstance(other, Trajectory)):
        return one is other
    mine, its = entries_of(one.observations), entries_of(other.observations)
    return (
        mine.keys() == its.keys()
        and np.array_equal(one.actions, other.actions)
        and all(np.array_equal(rows, its[key]) for key, rows in mine.items())
    )


def window_steps(lengths: np.ndarray, window: int, offsets: np.ndarray | float = 0.5) -> np.ndarray:
    """Spread the indices of ``window`` steps evenly over the first ``lengths`` steps.

    The range is cut into ``window`` equal parts, and one step is taken out of each. An example shorter than
    the window repeats steps, so that every window is full and no mask is needed. Worked example: 10 steps and
    a window of 4 give the parts [0, 2.5), [2.5, 5), ...; their middles are the steps 1, 3, 6, 8.

    :param lengths: (n,), number of steps of each example, at least 1.
    :param window: steps in a window.
    :param offsets: (n, window) in [0, 1): place of the step in each part; 0.5 is the middle.
    :return: (n, window), int64, non-decreasing along each row, each in [0, length).
    """
    parts = (np.arange(window) + offsets) / window  # (window,) or (n, window)
    ends = np.asarray(lengths)[:, None]
    # The minimum, since an offset just below 1 may round up to the end.
    return np.minimum(np.floor(ends * parts).astype(np.int64), ends - 1)


def take(observations: Observations, index: Any) -> Observations:
    """Index the rows of observations.

    :param observations: (n, ...), or a dict of such arrays.
    :param index: any numpy index of the first axis.
    :return: the same structure, indexed.
    """
    if isinstance(observations, dict):
        return {key: value[index] for key, value in observations.items()}
    return observations[index]


def _checked_vector(vector: Any) -> np.ndarray:
    """Copy a vector into one that nobody can change: prompts are compared by its values."""
    array = np.array(vector)
    if not np.issubdtype(array.dtype, np.number):
        raise TypeError(f"`text_vector` must be an array of numbers, got dtype {array.dtype}")
    if array.ndim != 1 or not np.isfinite(array).all():
        problem = f"shape {array.shape}" if array.ndim != 1 else "NaN or infinity"
        raise ValueError(f"`text_vector` must be (text_dim,) finite numbers, got {problem}")
    array = array.astype(np.float32)
    array.setflags(write=False)
    return array


def _with_last_row(observations: Any, n_steps: int) -> np.ndarray:
    """Repeat the last row where an `Episode` wants one more observation; no encoder sees it."""
    array = np.asarray(observations)
    return np.concatenate([array, array[-1:]]) if array.ndim and len(array) == n_steps else array
