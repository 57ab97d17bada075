"""`EpisodeSource`, the one way in which logged behaviour of any format is read."""

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import ArrayLike

from sb3_llmdpd.data.checks import check_texts, listed
from sb3_llmdpd.data.episodes import Episode, OfflineDataset, fitted
from sb3_llmdpd.data.spaces import check_flat, flat_observations, flat_space, float32_space

Record = dict[str, Any]
"""Arguments of `Episode` as a file has them, not checked yet."""

Refused = Callable[[str], None]
"""Takes the sentence with which an episode was refused."""


@dataclass(frozen=True, eq=False)
class Reading:
    """Options of reading that are the same for any source.

    :param task_texts: sentence or phrasings, by the name of a source (see `EpisodeSource.names`) or by task;
        the source's own is ignored.
    :param strict: refuse an action outside the action space; otherwise it is clipped, as many environments do
        before they act, and a warning says how many were.
    :param flatten: put the entries of a Dict observation side by side, as gymnasium's `flatten_space` does.
    :param clip: clip any number of actions; otherwise more than `MOST_CLIPPED` are refused.
    :param action_low: lower bounds of the actions where the source records none: one number for all entries,
        or one each. None takes what the source says, see there.
    :param action_high: their upper bounds.
    :raises TypeError: on a sentence that is no string, or bounds that are no numbers.
    :raises ValueError: on an empty sentence, one bound without the other, or ``strict`` beside ``clip``.
    """

    task_texts: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    strict: bool = False
    flatten: bool = False
    clip: bool = False
    action_low: ArrayLike | None = None
    action_high: ArrayLike | None = None

    def __post_init__(self) -> None:
        if self.strict and self.clip:
            raise ValueError("`strict` refuses actions outside the action space, `clip` clips all: give one")
        if (self.action_low is None) != (self.action_high is None):
            raise ValueError("`action_low` and `action_high` bound the actions together: give both")
        for name in ("action_low", "action_high"):
            if (bound := getattr(self, name)) is not None:
                object.__setattr__(self, name, _numbers(name, bound))
        texts = {key: check_texts(value, f"`task_texts[{key!r}]`") for key, value in self.task_texts.items()}
        object.__setattr__(self, "task_texts", texts)

    def texts_of(self, names: Collection[str], task: str) -> tuple[str, ...]:
        """Look up the sentences given for a task, else those for the source of its episode, else none.

        :param names: names of the source.
        """
        given = [texts for name, texts in self.task_texts.items() if name in names]
        return tuple(self.task_texts.get(task) or (given[0] if given else ()))

    def bounds_of(self, source: str, shape: tuple[int, ...]) -> spaces.Box | None:
        """Make a space of the bounds that were given.

        :param source: named first in the error message.
        :param shape: shape of an action.
        :return: None where none were given.
        :raises ValueError: when they are not of this shape, or a lower bound is not below its upper one.
        """
        if self.action_low is None or self.action_high is None:
            return None
        try:
            low, high = (np.broadcast_to(bound, shape) for bound in (self.action_low, self.action_high))
        except ValueError as error:
            raise ValueError(
                f"{source}: an action has the shape {shape}, and the bounds that were given have"
                f" {np.shape(self.action_low)} and {np.shape(self.action_high)}; one number is for all"
            ) from error
        if not (low < high).all():
            raise ValueError(f"{source}: `action_low` must lie below `action_high`, got {low} and {high}")
        return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def _numbers(name: str, bound: Any) -> np.ndarray:
    array = np.asarray(bound)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"`{name}` must be a number or one for each entry of an action, got {bound!r}")
    with np.errstate(over="ignore"):  # which is refused
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` must be finite, got {bound!r}")
    return array


AS_RECORDED = Reading()
"""The defaults: few actions are clipped, Dict observations kept."""

MOST_CLIPPED = 0.02
"""Share of the actions that is clipped without being asked for: more of them are in other units."""


_MANY_SINGLE = 10
"""Number of episodes of one step from which on they are suspicious."""


class EpisodeSource(ABC):
    """One place of logged behaviour. A format is a subclass that opens its files and yields what is in them.

    Episodes are read one at a time, from the start as often as one likes: a source may be larger than memory.

    :param name: the source's name in messages and in `Reading.task_texts`.
    :param observation_space: space of its episodes; floats of any precision are read as float32.
    :param action_space: space of its episodes.
    :param reading: options of reading.
    :raises ValueError: when the action space is no Box, or observations are nested and not to be flattened.
    """

    kind: ClassVar[str]
    """Name of the format, which a user may write in front of a source, as in ``"d4rl:hopper.hdf5"``."""

    bounds_from_data: bool = False
    """True where the format records no bounds of actions, and what the data show takes their place. Sources
    that are read together then span the values of all."""

    def __init__(
        self, name: str, observation_space: Space[Any], action_space: Space[Any], reading: Reading
    ) -> None:
        if not isinstance(action_space, spaces.Box):
            raise ValueError(
                f"{name}: the action space must be a Box of continuous actions, got {action_space}"
            )
        self.name = name
        self.reading = reading
        if (given := reading.bounds_of(name, action_space.shape)) is not None:
            recorded = action_space.is_bounded() and not self.bounds_from_data
            if recorded and given != float32_space(action_space):
                raise ValueError(
                    f"{name}: records the bounds of its actions, {action_space}, and they were said to be"
                    f" {given}: leave out `action_low` and `action_high`, or use the environment of the data"
                )
            action_space, self.bounds_from_data = given, False
        self._as_recorded = float32_space(observation_space)
        self.observation_space = flat_space(name, self._as_recorded) if reading.flatten else self._as_recorded
        check_flat(name, self.observation_space)
        self.action_space: spaces.Box = float32_space(action_space)

    @property
    def names(self) -> frozenset[str]:
        """Names that mean this source: as it was given, its file's, and its path, each also after the format.

        A relative path is one from the current folder.
        """
        names = {self.name}
        if (path := Path(os.path.abspath(Path(self.name).expanduser()))).exists():
            relative = os.path.relpath(path)
            names |= {path.name, str(path), relative, f"./{relative}"}
        return frozenset(names | {f"{self.kind}:{name}" for name in names})

    @abstractmethod
    def files(self) -> Sequence[Path]:
        """List the files that are read: when one of them changes, these are other data."""

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """Read the episodes one after the other.

        :return: arguments of `Episode`, ``source`` and the source's own ``task_texts`` among them.
        :raises ValueError: when the files are damaged.
        """

    def options(self) -> dict[str, Any]:
        """Return the format's further arguments that decide what is read, as JSON values."""
        return {}

    def episodes(self, refused: Refused | None = None) -> Iterator[Episode]:
        """Read and check the episodes one after the other.

        :param refused: told why an episode was left out; None to raise instead.
        :return: the episodes in their order.
        :raises ValueError: on an unusable episode; names source, episode and field. Behind the last one, when
            too many actions were clipped.
        :raises TypeError: on values that are not numbers.
        """
        names = self.names
        clipped = _Clipped(self.name, self.action_space, MOST_CLIPPED if not self.reading.clip else 1.0)
        n_episodes = n_single = 0
        for record in self.records():
            try:
                episode = self._episode(record, clipped, names)
            except (ValueError, TypeError) as error:
                # An episode may be called as in the file that it first came from.
                told = str(error) if self.name in str(error) else f"{self.name}: {error}"
                if refused is None:
                    raise type(error)(told) from error
                refused(told)
            else:
                n_episodes += 1
                n_single += len(episode) == 1
                yield episode
        clipped.say(refuse=refused is None)
        if _MANY_SINGLE <= n_single < n_episodes < 2 * n_single:
            warnings.warn(
                f"{self.name}: {n_single:,} of {n_episodes:,} episodes have a single step. Where each step at"
                " a goal is marked as an end, as in some mazes, mark the first alone",
                stacklevel=2,
            )

    def _episode(self, record: Record, clipped: "_Clipped", names: frozenset[str]) -> Episode:
        actions, observations = record["actions"], record["observations"]
        if not self.reading.strict:
            actions = clipped(actions)
        if self.reading.flatten:
            observations = flat_observations(self._as_recorded, observations, record.get("source", self.name))
        given = self.reading.texts_of(names, record.get("task", "task"))
        texts = given or record.get("task_texts", ())
        one = Episode(**{**record, "observations": observations, "actions": actions, "task_texts": texts})
        return fitted(one, self.observation_space, self.action_space)


def read_sources(sources: Sequence[EpisodeSource]) -> OfflineDataset:
    """Read whole sources into memory.

    :param sources: at least one, of the same spaces.
    :return: all their episodes.
    :raises ValueError: when they hold no episode or an unusable one, their spaces differ, or sentences were
        given for an unknown source or task.
    """
    observation_space, action_space = joint_spaces(sources)
    episodes = [episode for source in sources for episode in source.episodes()]
    refuse_unknown_texts(sources, [episode.task for episode in episodes])
    if not episodes:
        raise ValueError(f"{' and '.join(source.name for source in sources)}: the data set holds no episode")
    return OfflineDataset(tuple(episodes), observation_space, action_space, checked=True)


def joint_spaces(sources: Sequence[EpisodeSource]) -> tuple[Space[Any], spaces.Box]:
    """Find the spaces that all sources share.

    Bounds of observations may differ: nothing is scaled by them. Those of actions may if all are from data.

    :param sources: at least one.
    :return: the smallest spaces of observations and of actions that hold those of all sources.
    :raises ValueError: when they differ; names two sources that do.
    """
    first, *others = sources
    observation_space, action_space = first.observation_space, first.action_space
    measured = all(source.bounds_from_data for source in sources)
    for other in others:
        actions = _joint_space(action_space, other.action_space)
        if actions is None or not (measured or other.action_space == action_space):
            raise _differing("action", first, other)
        observations = _joint_space(observation_space, other.observation_space)
        if observations is None:
            raise _differing("observation", first, other)
        observation_space, action_space = observations, actions
    return observation_space, action_space


def _differing(kind: str, *sources: EpisodeSource) -> ValueError:
    both = ", ".join(f"{source.name} has {getattr(source, f'{kind}_space')}" for source in sources)
    return ValueError(f"data sets that are read together must share their {kind} space: {both}")


def _joint_space(one: Space[Any], other: Space[Any]) -> Any:
    """Find the smallest space that holds both; None when they differ in more than bounds."""
    if isinstance(one, spaces.Box) and isinstance(other, spaces.Box):
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            return None
        low, high = np.minimum(one.low, other.low), np.maximum(one.high, other.high)
        return spaces.Box(low, high, dtype=one.dtype.type)
    if isinstance(one, spaces.Dict) and isinstance(other, spaces.Dict) and set(one) == set(other):
        parts = {key: _joint_space(one[key], other[key]) for key in one}
        return None if None in parts.values() else spaces.Dict(parts)
    return one if one == other else None


def refuse_unknown_texts(sources: Sequence[EpisodeSource], tasks: Sequence[str]) -> None:
    """Raise a ValueError where sentences were given for none of the sources and none of their tasks."""
    known = dict.fromkeys(tasks)
    names = {name for source in sources for name in source.names}
    given = {key for source in sources for key in source.reading.task_texts}
    if unknown := sorted(given - {*names, *known}):
        raise ValueError(
            f"`task_texts` speaks of {listed(map(repr, unknown))}, but the data sets are"
            f" {listed(source.name for source in sources)}, and their tasks {listed(map(repr, known))}"
        )


class _Clipped:
    """Clips the actions of a source to a space, and counts the changes.

    :param most: share of the actions that may be changed.
    """

    def __init__(self, source: str, space: spaces.Box, most: float) -> None:
        self._source, self._space, self._most = source, space, most
        self._n_steps = self._n_outside = 0
        self._farthest = 0.0

    def __call__(self, actions: Any) -> Any:
        """Clip actions; anything else than fitting numbers is left to `Episode` to refuse."""
        array = np.asarray(actions)
        if array.dtype.kind not in "fiu" or array.shape[1:] != self._space.shape:
            return actions
        with np.errstate(over="ignore"):  # infinity is refused as such
            array = array.astype(np.float32)
        inside = np.clip(array, self._space.low, self._space.high)
        excess = np.abs(inside - array)
        excess[~np.isfinite(excess)] = 0.0  # NaN and infinity are refused as such
        outside = (excess > 0).any(axis=tuple(range(1, excess.ndim)))
        self._n_steps += len(array)
        self._n_outside += int(outside.sum())
        self._farthest = max(self._farthest, float(excess.max(initial=0.0)))
        return np.where(np.isfinite(array), inside, array)

    def say(self, refuse: bool) -> None:
        """Warn when anything was changed; where too much was, raise a ValueError if that is to be refused."""
        if not self._n_outside:
            return
        outside = (
            f"{self._source}: {self._n_outside:,} of {self._n_steps:,} actions lie outside the action space"
            f" [{self._space.low.min():.4g}, {self._space.high.max():.4g}], by up to {self._farthest:.3g}"
        )
        if self._n_outside <= self._most * self._n_steps:
            said = "and were clipped, as many environments do before they act. strict=True refuses them"
            warnings.warn(f"{outside}, {said}", stacklevel=2)
            return
        told = (
            f"{outside}: these are probably other units. Say the bounds that they have with `action_low` and"
            " `action_high`, where the source records none, or clip them all with `clip`"
        )
        if refuse:
            raise ValueError(told)
        warnings.warn(told, stacklevel=2)
