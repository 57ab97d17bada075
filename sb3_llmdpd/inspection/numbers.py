"""The numbers that are kept of data: of each source, task and episode, and of each entry of observations and actions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from gymnasium import spaces

from sb3_llmdpd.inspection.texts import TextComparison

FORMAT_VERSION = 1

ROUNDING = 1e-6
"""Standard deviation up to which the normaliser takes an entry for one that never varies."""


@dataclass(frozen=True)
class SourceNumbers:
    """A source.

    :param name: as messages call it.
    :param kind: its format.
    :param n_episodes: that could be read.
    :param n_steps: of these.
    :param refused: for each episode that could not be read, the sentence that says why.
    :param broken_off: why the source could not be read to its end; None where it could.
    :param warnings: what reading it warned of.
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
    """An episode.

    :param source: where it came from, e.g. ``"metaworld/push-v0, episode 3"``.
    :param task: that it is of.
    :param n_steps: its length.
    :param total_reward: sum of its raw rewards.
    :param lowest_reward: of any step.
    :param highest_reward: of any step.
    :param terminated: whether its task ended it, and no time limit.
    :param success: whether it succeeded; None when nobody knows.
    :param digest: equal for equal episodes, see `episode_digest`.
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

    @property
    def is_rewarded(self) -> bool:
        """Whether any reward is another number than 0."""
        return self.lowest_reward != 0 or self.highest_reward != 0


@dataclass(frozen=True)
class TaskNumbers:
    """The episodes of a task.

    :param name: of the task.
    :param n_episodes: how many.
    :param n_steps: in all of them.
    :param success_rate: in [0, 1], of those that say whether they succeeded; None where none does.
    :param lowest_return: sum of raw rewards of its worst episode.
    :param mean_return: of its episodes.
    :param highest_return: of its best.
    :param is_rewarded: whether any reward is another number than 0.
    :param texts: distinct phrasings of its sentence.
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
        """Put the episodes of a task together.

        :param name: of the task.
        :param episodes: at least one, all of this task.
        :param texts: distinct phrasings of its sentence.
        :return: the numbers.
        """
        known = [episode.success for episode in episodes if episode.success is not None]
        returns = [episode.total_reward for episode in episodes]
        return cls(
            name,
            len(episodes),
            sum(episode.n_steps for episode in episodes),
            fmean(known) if known else None,
            min(returns),
            fmean(returns),
            max(returns),
            any(episode.is_rewarded for episode in episodes),
            texts,
        )


@dataclass(frozen=True)
class EntryNumbers:
    """An entry of an observation or of an action, over all steps. An image counts as one entry, its mean brightness
    in [0, 1].

    :param name: its index, behind its key in a Dict.
    :param low: the smallest value.
    :param high: the largest.
    :param mean: of all steps.
    :param deviation: standard deviation over all steps.
    :param at_bound: of an action, the share of the steps in which it lies at a bound of its space; None of an observation, and
        where there is no bound.
    """

    name: str
    low: float
    high: float
    mean: float
    deviation: float
    at_bound: float | None = None

    @property
    def never_changes(self) -> bool:
        """Whether it has the same value in all steps, but for rounding."""
        return self.deviation <= ROUNDING


@dataclass(frozen=True)
class Inspection:
    """All that is kept of data.

    :param observation_space: that all sources share.
    :param action_space: that all sources share.
    :param unopened: for each source that could not be opened, the sentence that says why.
    :param sources: the others.
    :param episodes: that could be read, at least one.
    :param tasks: in the order of their first episodes.
    :param actions: entries of an action.
    :param observations: entries of an observation.
    :param texts: which tasks have the same sentence, or nearly.
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
    def refused(self) -> tuple[str, ...]:
        """Of all sources: why an episode could not be read."""
        return tuple(sentence for source in self.sources for sentence in source.refused)

    @property
    def failed(self) -> tuple[float, float] | None:
        """Shares of the episodes that failed, and of the transitions that are theirs; None unless every episode says so."""
        if any(episode.success is None for episode in self.episodes):
            return None
        lengths = [episode.n_steps for episode in self.episodes if not episode.success]
        return len(lengths) / len(self.episodes), sum(lengths) / self.n_steps

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values, the spaces as their names."""
        spaces_ = {"observation_space": str(self.observation_space), "action_space": str(self.action_space)}
        return {"format_version": FORMAT_VERSION, **asdict(self), **spaces_}
