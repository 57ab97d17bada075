"""`inspect_sources`: reads data one episode at a time, and keeps only numbers of each."""

import warnings
from collections.abc import Sequence
from itertools import product
from typing import Any, NoReturn

import numpy as np
from gymnasium import spaces

from sb3_llmdpd.common.moments import Moments
from sb3_llmdpd.data.checks import Observations
from sb3_llmdpd.data.episode_source import EpisodeSource, joint_spaces
from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.fingerprint import content_digest
from sb3_llmdpd.inspection.numbers import EntryNumbers, EpisodeNumbers, Inspection, SourceNumbers, TaskNumbers
from sb3_llmdpd.inspection.texts import TextComparer
from sb3_llmdpd.prompts.text_encoders import TextEncoder

_AT_BOUND = 1e-3  # distance up to which an action lies at a bound, in units of the range between both


def inspect_sources(
    sources: Sequence[EpisodeSource],
    encoder: TextEncoder | str | None = None,
    *,
    unopened: Sequence[str] = (),
) -> Inspection:
    """Read sources and measure them. One episode is in memory at a time, and a bad one stops nothing.

    :param sources: at least one, of the same spaces.
    :param encoder: compares the sentences of the tasks; an encoder, its name (see `make_text_encoder`), or
        None to compare letters.
    :param unopened: the reasons why further sources could not be opened.
    :return: the numbers.
    :raises ValueError: when no episode can be read, spaces differ, or there is no encoder of this name.
    """
    if not sources:
        reason = f"none can be opened: {'; '.join(unopened)}" if unopened else "give at least one"
        raise ValueError(f"there is no source to inspect; {reason}")
    comparer = TextComparer(encoder)
    observation_space, action_space = joint_spaces(sources)
    reader = _Reader(action_space)
    read = tuple(map(reader.read, sources))
    if not reader.episodes:
        _refuse_unreadable(read)
    return Inspection(
        observation_space,
        action_space,
        tuple(unopened),
        read,
        tuple(reader.episodes),
        reader.tasks(),
        _entries("", reader.actions, reader.at_bound()),
        tuple(entry for key, moments in reader.observations.items() for entry in _entries(key, moments)),
        comparer.compare(reader.texts),
    )


def _refuse_unreadable(sources: Sequence[SourceNumbers]) -> NoReturn:
    """Tell why no episode of the sources could be read."""
    reasons = [reason for source in sources for reason in (*source.refused, source.broken_off) if reason]
    if not reasons:
        raise ValueError(f"{' and '.join(source.name for source in sources)}: the data hold no episode")
    more = f" (and {len(reasons) - 1:,} more such sentences)" if len(reasons) > 1 else ""
    raise ValueError(f"not one episode can be read: {reasons[0]}{more}")


class _Reader:
    """Measures the episodes of sources, all with the same action space."""

    def __init__(self, action_space: spaces.Box) -> None:
        self.episodes: list[EpisodeNumbers] = []
        self.texts: dict[str, dict[str, None]] = {}
        self._of_task: dict[str, list[EpisodeNumbers]] = {}
        self.actions = Moments()
        self.observations: dict[str, Moments] = {}
        self._n_at_bound = np.zeros(action_space.shape, np.int64)
        low, high = action_space.low.astype(np.float64), action_space.high.astype(np.float64)
        self._is_bounded = np.isfinite(low) & np.isfinite(high)
        margin = _AT_BOUND * np.where(self._is_bounded, high - low, 0.0)
        self._inner_low, self._inner_high = low + margin, high - margin

    def read(self, source: EpisodeSource) -> SourceNumbers:
        """Measure all episodes of a source."""
        n_before, refused, broken_off = len(self.episodes), list[str](), None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)  # also a warning that another source has given
            try:
                for episode in source.episodes(refused.append):
                    self._add(episode)
            except (ValueError, TypeError, OSError) as error:
                broken_off = str(error) if source.name in str(error) else f"{source.name}: {error}"
        lengths = [episode.n_steps for episode in self.episodes[n_before:]]
        said = tuple(dict.fromkeys(str(warning.message) for warning in caught))
        return SourceNumbers(
            source.name, source.kind, len(lengths), sum(lengths), tuple(refused), broken_off, said
        )

    def _add(self, episode: Episode) -> None:
        rewards = episode.rewards.astype(np.float64)
        total, low, high = float(rewards.sum()), float(rewards.min()), float(rewards.max())
        task, ended, digest = episode.task, episode.terminated, content_digest(episode)
        numbers = EpisodeNumbers(
            episode.source,
            task,
            len(episode),
            total,
            low,
            high,
            ended,
            episode.success,
            digest,
            episode.rewarded,
            episode.n_left_out,
        )
        self.episodes.append(numbers)
        self._of_task.setdefault(task, []).append(numbers)
        self.texts.setdefault(task, {}).update(dict.fromkeys(episode.task_texts))
        self.actions.add(episode.actions)
        at_bound = (episode.actions <= self._inner_low) | (episode.actions >= self._inner_high)
        self._n_at_bound += at_bound.sum(axis=0)
        for key, rows in _parts(episode.observations).items():
            self.observations.setdefault(key, Moments()).add(rows)

    def at_bound(self) -> list[float | None]:
        """Compute each action entry's share of steps at a bound; None without bounds."""
        shares = self._n_at_bound / sum(episode.n_steps for episode in self.episodes)
        bounded = self._is_bounded.flat
        return [float(share) if has else None for share, has in zip(shares.flat, bounded, strict=True)]

    def tasks(self) -> tuple[TaskNumbers, ...]:
        """Put the numbers of each task together."""
        of_task = self._of_task.items()
        return tuple(TaskNumbers.of(task, episodes, tuple(self.texts[task])) for task, episodes in of_task)


def _entries(
    key: str, moments: Moments, at_bound: Sequence[float | None] | None = None
) -> tuple[EntryNumbers, ...]:
    """Make the numbers of each entry of a Dict's key, in their order; ``at_bound`` as in `EntryNumbers`."""
    names = [_entry_name(key, index) for index in product(*map(range, moments.mean.shape))]
    arrays = (moments.low, moments.high, moments.mean, moments.deviation)
    bounds = [None] * len(names) if at_bound is None else at_bound
    return tuple(map(EntryNumbers, names, *(array.ravel().tolist() for array in arrays), bounds))


def _parts(observations: Observations) -> dict[str, np.ndarray]:
    """Split observations by their key in a Dict, and reduce images to their mean brightness in [0, 1]."""
    parts = observations if isinstance(observations, dict) else {"": observations}
    measured = {}
    for key, rows in parts.items():
        if rows.dtype == np.uint8 and rows.ndim >= 3:
            key = f"{key}: brightness" if key else "brightness"
            rows = rows.mean(axis=tuple(range(1, rows.ndim))) / 255.0  # (n,)
        measured[key] = rows
    return measured


def _entry_name(key: str, index: tuple[Any, ...]) -> str:
    position = ",".join(map(str, index))
    return f"{key}[{position}]" if key and position else key or position or "value"
