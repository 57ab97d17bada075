"""Numbers of data: of sources, tasks, episodes, and entries of observations and actions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from gymnasium import spaces

from sb3_llmdpd.inspection.texts import TextComparison

FORMAT_VERSION = 1

_ROUNDING = 1e-6  # standard deviation up to which the normaliser takes an entry as constant


@dataclass(frozen=True)
class SourceNumbers:
    """Numbers of a source.

    :param name: name in messages.
    :param kind: format.
    :param n_episodes: episodes that could be read.
    :param n_steps: their steps.
    :param refused: the reason for each episode that could not be read.
    :param broken_off: the reason why the source could not be read to its end; None if it could.
    :param warnings: warnings at reading.
    """

    name: str
    kind: str
    n_episodes: int
    n_steps: int
    refused: tuple[str, ...]
    broken_off: str | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class EpisodeNumbers:
    """Numbers of an episode.

    :param source: origin, e.g. ``"metaworld/push-v0, episode 3"``.
    :param task: its task.
    :param n_steps: its length.
    :param total_reward: sum of its raw rewards.
    :param lowest_reward: lowest reward of a step.
    :param highest_reward: highest reward of a step.
    :param terminated: True if the task ended it, False if a time limit did.
    :param success: True if it succeeded; None if unknown.
    :param digest: equal for equal observations and actions, see `content_digest`.
    :param rewarded: True where rewards were recorded.
    :param n_left_out: steps at its end that were left out, since their results are not recorded.
    """

    source: str
    task: str
    n_steps: int
    total_reward: float
    lowest_reward: float
    highest_reward: float
    terminated: bool
    success: bool | None
    digest: str
    rewarded: bool = True
    n_left_out: int = 0

    @property
    def is_rewarded(self) -> bool:
        """True if any reward differs from 0."""
        return self.lowest_reward != 0 or self.highest_reward != 0


@dataclass(frozen=True)
class TaskNumbers:
    """Numbers of a task.

    :param name: name of the task.
    :param n_episodes: its episodes.
    :param n_steps: their steps.
    :param success_rate: in [0, 1], of the episodes whose success is known; None without any.
    :param lowest_return: sum of raw rewards of the worst episode.
    :param mean_return: mean of these sums.
    :param highest_return: sum of the best episode.
    :param is_rewarded: True if any reward differs from 0.
    :param texts: distinct phrasings of the task's sentence.
    """

    name: str
    n_episodes: int
    n_steps: int
    success_rate: float | None
    lowest_return: float
    mean_return: float
    highest_return: float
    is_rewarded: bool
    texts: tuple[str, ...]

    @classmethod
    def of(cls, name: str, episodes: Sequence[EpisodeNumbers], texts: tuple[str, ...]) -> "TaskNumbers":
        """Put the episodes of a task, at least one, together."""
        known = [episode.success for episode in episodes if episode.success is not None]
        returns = [episode.total_reward for episode in episodes]
        n_steps = sum(episode.n_steps for episode in episodes)
        success_rate = fmean(known) if known else None
        low, mean, high = min(returns), fmean(returns), max(returns)
        is_rewarded = any(episode.is_rewarded for episode in episodes)
        return cls(name, len(episodes), n_steps, success_rate, low, mean, high, is_rewarded, texts)


@dataclass(frozen=True)
class EntryNumbers:
    """Numbers of an entry of observations or actions over all steps; an image counts as its mean brightness.

    :param name: index, after the key in a Dict.
    :param low: smallest value.
    :param high: largest value.
    :param mean: mean value.
    :param deviation: standard deviation.
    :param at_bound: share of the steps in which an action lies at a bound; None without one, and of
        observations.
    """

    name: str
    low: float
    high: float
    mean: float
    deviation: float
    at_bound: float | None = None

    @property
    def never_changes(self) -> bool:
        """True if all steps have the same value, up to rounding."""
        return self.deviation <= _ROUNDING


def extreme_deviations(entries: Sequence[EntryNumbers]) -> tuple[EntryNumbers, EntryNumbers] | None:
    """Find the entries that vary least and most among those that change; None where nothing changes."""
    moving = [entry for entry in entries if not entry.never_changes]
    moving.sort(key=lambda entry: entry.deviation)
    return (moving[0], moving[-1]) if moving else None


@dataclass(frozen=True)
class Inspection:
    """All numbers of data.

    :param observation_space: observation space of all sources.
    :param action_space: action space of all sources.
    :param unopened: the reason for each source that could not be opened.
    :param sources: the other sources.
    :param episodes: episodes that could be read, at least one.
    :param tasks: tasks in the order of their first episodes.
    :param actions: entries of an action.
    :param observations: entries of an observation.
    :param texts: tasks with the same or nearly the same sentence.
    """

    observation_space: spaces.Space[Any]
    action_space: spaces.Box
    unopened: tuple[str, ...]
    sources: tuple[SourceNumbers, ...]
    episodes: tuple[EpisodeNumbers, ...]
    tasks: tuple[TaskNumbers, ...]
    actions: tuple[EntryNumbers, ...]
    observations: tuple[EntryNumbers, ...]
    texts: TextComparison

    @property
    def n_steps(self) -> int:
        """Transitions in all episodes together."""
        return sum(episode.n_steps for episode in self.episodes)

    @property
    def n_left_out(self) -> int:
        """Steps that were left out, since their results are not recorded."""
        return sum(episode.n_left_out for episode in self.episodes)

    @property
    def refused(self) -> tuple[str, ...]:
        """The reasons for all episodes that could not be read."""
        return tuple(sentence for source in self.sources for sentence in source.refused)

    @property
    def failed(self) -> tuple[float, float] | None:
        """Shares of failed episodes and of their transitions; None unless every success is known."""
        if any(episode.success is None for episode in self.episodes):
            return None
        lengths = [episode.n_steps for episode in self.episodes if not episode.success]
        return len(lengths) / len(self.episodes), sum(lengths) / self.n_steps

    def as_json(self) -> dict[str, Any]:
        """Write all of it as JSON values, the spaces as text."""
        spaces_ = {"observation_space": str(self.observation_space), "action_space": str(self.action_space)}
        return {"format_version": FORMAT_VERSION, **asdict(self), **spaces_}
