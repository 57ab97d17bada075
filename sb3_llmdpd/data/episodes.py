"""`Episode`, the checked unit of logged behaviour that every data source yields."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, fields, replace
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from sb3_llmdpd.data.checks import (
    Observations,
    check_bounded,
    check_fits,
    check_texts,
    check_varied,
    entries_of,
)
from sb3_llmdpd.data.spaces import in_space, unbounded_space

STEPS_AFTER_SUCCESS = 10
"""Steps after the first success that a prompt may show; later ones are idling."""


@dataclass(frozen=True, eq=False)
class Episode:
    """One logged episode of one task, in environment units.

    Arrays are checked once, here, and made read-only; everything after this border trusts them.

    :param observations: (T + 1, *obs_shape): what was seen before each of the T actions, and after the last
        one. A dict of such arrays for a Dict observation space. Floats are stored as float32.
    :param actions: (T, *action_shape), in environment units.
    :param rewards: (T,), raw.
    :param task: identifier of the task, e.g. ``"drawer-open"``. Episodes of one task share it.
    :param task_texts: phrasings of the sentence that says what the task is; may be empty.
    :param terminated: whether the last step ended the task itself. A time limit is not a termination.
    :param success: whether the episode succeeded at any step; None when unknown.
    :param first_success: index in [0, T) of the first action that led to success; None when unknown or never.
    :param goal: identifier of the hidden goal; episodes of the same goal share it. None when there is none.
    :param source: origin of the episode, for error messages, e.g. ``"metaworld/drawer-open-v0, episode 3"``.
    :param rewarded: False where no rewards were recorded: ``rewards`` are zeros, and only cloning learns.
    :param n_left_out: steps at its end that were recorded without what they led to, and were left out.
    :raises ValueError: on wrong shapes, NaN or infinity, an empty episode, an empty sentence.
    :raises TypeError: on values that are not numbers.
    """

    observations: Observations
    actions: np.ndarray
    rewards: np.ndarray
    task: str = "task"
    task_texts: tuple[str, ...] = ()
    terminated: bool = False
    success: bool | None = None
    first_success: int | None = None
    goal: str | None = None
    source: str = "episode"
    rewarded: bool = True
    n_left_out: int = 0

    def __post_init__(self) -> None:
        actions = self._checked("actions", self.actions)
        if actions.ndim < 2:
            raise self._refusal(
                f"`actions` must be (T, *action_shape), (T, 1) for a single number, got shape {actions.shape}"
            )
        n_steps = len(actions)
        if n_steps == 0:
            raise self._refusal(f"an episode needs at least one step, got `actions` of shape {actions.shape}")
        rewards = self._checked("rewards", self.rewards)
        if rewards.shape != (n_steps,):
            raise self._refusal(
                f"`rewards` must be (T,) = ({n_steps},), one for each action, got shape {rewards.shape}"
            )
        self._set(
            actions=actions,
            rewards=rewards,
            observations=self._checked_observations(n_steps),
            task_texts=check_texts(self.task_texts, self.source),
            success=None if self.success is None else bool(self.success),  # numpy's False is not `False`
        )
        self._check_words(n_steps)

    def _refusal(self, reason: str) -> ValueError:
        return ValueError(f"{self.source}: {reason}")

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check_words(self, n_steps: int) -> None:
        """Check what is said about the task and its success."""
        if not isinstance(self.task, str) or not self.task:
            raise self._refusal(f"`task` must be a non-empty string, got {self.task!r}")
        if self.first_success is None:
            return
        if self.success is False:
            raise self._refusal(f"`first_success` is {self.first_success}, but `success` is False")
        if not 0 <= self.first_success < n_steps:
            raise self._refusal(
                f"`first_success` must be the index of one of the {n_steps} steps, got {self.first_success}"
            )

    def _checked_observations(self, n_steps: int) -> Observations:
        if not isinstance(self.observations, Mapping):
            return self._checked_length("observations", self.observations, n_steps)
        if not self.observations:
            raise self._refusal("`observations` is an empty dict")
        return {
            key: self._checked_length(f"observations[{key!r}]", value, n_steps)
            for key, value in self.observations.items()
        }

    def _checked_length(self, name: str, value: np.ndarray, n_steps: int) -> np.ndarray:
        array = self._checked(name, value)
        if len(array) != n_steps + 1:
            raise self._refusal(
                f"`{name}` must hold T + 1 = {n_steps + 1} rows, one before each of the"
                f" {n_steps} actions and one after the last, got {len(array)}"
            )
        return array

    def _checked(self, name: str, value: np.ndarray) -> np.ndarray:
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{self.source}: `{name}` must be an array of numbers, got dtype {array.dtype}")
        if array.ndim == 0:
            raise self._refusal(f"`{name}` must be an array over steps, got a single number")
        if 0 in array.shape[1:]:
            raise self._refusal(f"a row of `{name}` must hold a number, got shape {array.shape}")
        if array.dtype.kind == "f" or name in ("actions", "rewards"):
            with np.errstate(over="ignore"):  # what overflows is refused below
                array = array.astype(np.float32)  # always a copy, so that the caller's array stays writable
            bad = ~np.isfinite(array)
            if bad.any():
                first = int(np.argwhere(bad)[0][0])
                raise self._refusal(
                    f"`{name}` holds {int(bad.sum())} NaN or infinite values, the first at"
                    f" step {first}; repair or leave out the episode"
                )
        else:
            array = array.copy()
        array.setflags(write=False)
        return array

    @classmethod
    def trusted(cls, **arguments: Any) -> "Episode":
        """Make an episode of all its arguments as the class would have made them: no check, no copy."""
        episode = object.__new__(cls)
        episode._set(**arguments)
        return episode

    def __len__(self) -> int:
        """Number of steps T."""
        return len(self.actions)

    @property
    def prompt_length(self) -> int:
        """Number of leading steps that an example shows: up to shortly after the first success."""
        if self.first_success is None:
            return len(self)
        return min(len(self), self.first_success + 1 + STEPS_AFTER_SUCCESS)

    def __repr__(self) -> str:
        return (
            f"Episode(task={self.task!r}, steps={len(self)}, return={float(self.rewards.sum()):.4g},"
            f" success={self.success}, source={self.source!r})"
        )


@dataclass(frozen=True, eq=False, repr=False)
class OfflineDataset:
    """Episodes of one or many tasks that share one pair of spaces.

    :param episodes: the episodes, at least one.
    :param observation_space: Box, Dict, Discrete ... of every episode.
    :param action_space: finite Box; logged actions must lie in it (sources clip, see there).
    :param checked: whether the episodes are known to fit the spaces; their steps are not read again then.
    :raises ValueError: without episodes, or when an episode does not fit the spaces.
    """

    episodes: tuple[Episode, ...]
    observation_space: Space[Any]
    action_space: spaces.Box
    checked: InitVar[bool] = field(default=False, kw_only=True)

    def __post_init__(self, checked: bool) -> None:
        object.__setattr__(self, "episodes", tuple(self.episodes))
        if not self.episodes:
            raise ValueError("a data set needs at least one episode, got none")
        check_bounded(self.action_space)
        check_varied(self.action_space)
        if not checked:
            fitting = tuple(fitted(one, self.observation_space, self.action_space) for one in self.episodes)
            object.__setattr__(self, "episodes", fitting)

    @classmethod
    def from_episodes(
        cls,
        episodes: Sequence[Episode],
        observation_space: Space[Any] | None = None,
        action_space: spaces.Box | None = None,
    ) -> "OfflineDataset":
        """Put episodes together, with spaces read off them where none are given.

        :param episodes: at least one episode.
        :param observation_space: by default `unbounded_space` of the first episode's observations.
        :param action_space: by default Box(-1, 1), which is refused when an action lies outside it.
        :return: the data set.
        :raises TypeError: when an entry is not an `Episode`.
        :raises ValueError: when episodes disagree in shape, or actions leave the space.
        """
        if not episodes:
            raise ValueError("a data set needs at least one episode, got none")
        for episode in episodes:
            if not isinstance(episode, Episode):
                raise TypeError(f"a data set is made of `Episode`s, got {type(episode).__name__}")
        first = episodes[0]
        if observation_space is None:
            observation_space = unbounded_space(first.observations)
        if action_space is None:
            action_space = spaces.Box(-1.0, 1.0, first.actions.shape[1:], np.float32)
        return cls(tuple(episodes), observation_space, action_space)

    def only(self, kept: Callable[[Episode], bool]) -> "OfflineDataset":
        """Select a part of the data.

        :param kept: says of each episode whether it is in.
        :return: a data set of the selected episodes, in the same spaces.
        :raises ValueError: when no episode is selected.
        """
        return replace(self, episodes=tuple(filter(kept, self.episodes)), checked=True)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The distinct task identifiers, in order of first appearance."""
        return tuple(dict.fromkeys(episode.task for episode in self.episodes))

    @property
    def n_steps(self) -> int:
        """Transitions in all episodes together."""
        return sum(len(episode) for episode in self.episodes)

    @property
    def rewarded(self) -> bool:
        """Tell whether rewards were recorded in all episodes."""
        return all(episode.rewarded for episode in self.episodes)

    def summary(self) -> str:
        """Say in one line what a model would learn from, see `Tally.summary`."""
        tally = Tally()
        for episode in self.episodes:
            tally.add(episode)
        return tally.summary()

    def __repr__(self) -> str:
        return f"<OfflineDataset: {self.summary()}>"


class Tally:
    """Counts episodes as they pass."""

    def __init__(self) -> None:
        self.tasks: dict[str, int] = {}
        """Episodes of each task, in order of first appearance."""
        self._n_steps = self._n_left_out = self._n_cut = self._n_unrewarded = 0
        self._n_unknown = self._n_failed = self._n_failed_steps = 0

    def add(self, episode: Episode) -> None:
        """Count an episode."""
        self.tasks[episode.task] = self.tasks.get(episode.task, 0) + 1
        self._n_steps += len(episode)
        self._n_left_out += episode.n_left_out
        self._n_cut += episode.n_left_out > 0
        self._n_unrewarded += not episode.rewarded
        self._n_unknown += episode.success is None
        if episode.success is False:
            self._n_failed += 1
            self._n_failed_steps += len(episode)

    @property
    def rewarded(self) -> bool:
        """Tell whether rewards were recorded in all episodes."""
        return not self._n_unrewarded

    def summary(self) -> str:
        """Say in one line what a model would learn from.

        A success often ends an episode early: few failures may be most of the steps that are cloned.

        :return: numbers of episodes, tasks and transitions, and of steps that were left out since what they
            led to is not recorded. Where success is known of all, also the share of failed episodes, and
            their share of the transitions.
        """
        n_episodes = sum(self.tasks.values())
        said = f"{n_episodes:,} episodes of {len(self.tasks)} tasks, {self._n_steps:,} transitions"
        if self._n_left_out:
            last = f"the last of {self._n_cut:,} episodes"
            said += f" ({self._n_left_out:,} more, {last}, are left out: their results are not recorded)"
        if self._n_unrewarded:
            said += f"; {self._n_unrewarded:,} of the episodes record no rewards"
        if n_episodes and not self._n_unknown:
            said += (
                f"; {self._n_failed / n_episodes:.0%} of the episodes failed,"
                f" with {self._n_failed_steps / self._n_steps:.0%} of the transitions"
            )
        return said


def by_task(episodes: Iterable[Episode]) -> dict[str, list[Episode]]:
    """Group episodes by their tasks, in the order in which both come."""
    grouped: dict[str, list[Episode]] = {}
    for episode in episodes:
        grouped.setdefault(episode.task, []).append(episode)
    return grouped


def fitted(
    episode: Episode, observation_space: Space[Any], action_space: spaces.Box, source: str | None = None
) -> Episode:
    """Check an episode against spaces, and give its observations their dtypes.

    :param episode: the episode, which stays as it is.
    :param observation_space: space of its observations.
    :param action_space: space of its actions.
    :param source: named first in the error message; by default the episode's own.
    :return: the episode where nothing had to be converted, else a copy.
    :raises ValueError: when it does not fit, or a number would change.
    """
    source = source or episode.source
    check_fits(episode.observations, episode.actions, observation_space, action_space, source)
    observations = in_space(episode.observations, observation_space, source)
    rows = entries_of(episode.observations)
    if all(each is rows[key] for key, each in entries_of(observations).items()):
        return episode
    known = {each.name: getattr(episode, each.name) for each in fields(episode)}
    return Episode.trusted(**{**known, "observations": observations})


def checked_for_file(
    file: str, episodes: Iterable[Episode], observation_space: Space[Any], action_space: spaces.Box
) -> Iterator[tuple[Episode, str]]:
    """Check episodes on their way into a file, one at a time.

    :return: each episode, and its name in messages.
    :raises TypeError: when an entry is not an `Episode`.
    :raises ValueError: when there is none, or one does not fit the spaces.
    """
    number = -1
    for number, episode in enumerate(episodes):
        if not isinstance(episode, Episode):
            raise TypeError(f"{file}: a data set is made of `Episode`s, got {type(episode).__name__}")
        name = f"{file}, episode {number} ({episode.source})"
        yield fitted(episode, observation_space, action_space, name), name
    if number < 0:
        raise ValueError(f"{file}: a data set needs at least one episode, got none")
