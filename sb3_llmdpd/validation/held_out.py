"""Splits data into what a model learns from and what it is measured on: episodes, and whole tasks."""

from dataclasses import dataclass
from zlib import crc32

import numpy as np

from sb3_llmdpd.data.episodes import Episode, OfflineDataset, by_task

SEED = 0
"""Seed of all splits: every training on the same data holds out the same, so that its numbers compare."""


@dataclass(frozen=True)
class HeldOut:
    """Two parts of data.

    :param training: episodes to learn from; of their tasks, the examples of prompts.
    :param validation: episodes to measure on.
    :param unseen: tasks of ``validation`` that are not learned from; None where nobody knows.
    """

    training: OfflineDataset
    validation: OfflineDataset
    unseen: frozenset[str] | None

    def is_seen(self, task: str) -> bool | None:
        """Tell whether a task is learned from; None if unknown."""
        return None if self.unseen is None else task not in self.unseen


def hold_out(
    data: OfflineDataset, share: float = 0.1, n_unseen: int = 0, same_goal: bool = False, seed: int = SEED
) -> HeldOut:
    """Hold out a share of the episodes of each task, and whole tasks.

    A task with a single episode keeps it for the training. The choice in a task does not depend on the other
    tasks.

    :param data: all episodes.
    :param share: share of the episodes of each task, in [0, 1): at least one is held out, and one is kept.
    :param n_unseen: tasks that are held out whole.
    :param same_goal: hold out all episodes of a goal or none, as a model does that needs an example of the
        same goal.
    :param seed: seed of the choice.
    :return: both parts.
    :raises ValueError: when a number is out of range, or nothing is held out, or nothing is left.
    """
    if not 0.0 <= share < 1.0:
        raise ValueError(f"the share of episodes to hold out must be in [0, 1), got {share:g}")
    if not 0 <= n_unseen < len(data.tasks):
        raise ValueError(
            f"the data have {len(data.tasks)} tasks, of which at least one is learned: hold out from 0 to"
            f" {len(data.tasks) - 1} whole ones, got {n_unseen}"
        )
    tasks = sorted(data.tasks)
    drawn = np.random.default_rng(seed).permutation(len(tasks))[:n_unseen]
    unseen = frozenset(tasks[number] for number in drawn)
    chosen = {
        id(episode)
        for task, episodes in by_task(data.episodes).items()
        for episode in (episodes if task in unseen else _drawn(task, episodes, share, same_goal, seed))
    }
    if not chosen:
        raise ValueError(
            f"no episode is held out with a share of {share:g}: each task keeps at least one episode for the"
            " training, and no task has two; hold out whole tasks instead"
        )
    return HeldOut(
        data.only(lambda episode: id(episode) not in chosen),
        data.only(lambda episode: id(episode) in chosen),
        unseen,
    )


def _drawn(task: str, episodes: list[Episode], share: float, same_goal: bool, seed: int) -> list[Episode]:
    """Draw the episodes of a task that are held out, by goals where these belong together."""
    groups: dict[object, list[Episode]] = {}
    for number, episode in enumerate(episodes):
        groups.setdefault(episode.goal if same_goal else number, []).append(episode)
    if share == 0 or len(groups) < 2:
        return []
    n = min(max(1, round(share * len(groups))), len(groups) - 1)
    order = np.random.default_rng([seed, crc32(task.encode())]).permutation(len(groups))
    in_order = list(groups.values())
    return [episode for number in order[:n] for episode in in_order[number]]


def beside(held_out: HeldOut, other: OfflineDataset) -> HeldOut:
    """Add episodes of another source to those that are measured.

    :param held_out: parts of the data of the training.
    :param other: episodes that the training never sees, with the same spaces.
    :return: the same training part, measured on both.
    :raises ValueError: when an episode does not fit the spaces of the training.
    """
    data = held_out.training
    episodes = (*held_out.validation.episodes, *other.episodes)
    validation = OfflineDataset(episodes, data.observation_space, data.action_space)
    return HeldOut(data, validation, frozenset(validation.tasks) - frozenset(data.tasks))


def measured_on(data: OfflineDataset, validation: OfflineDataset | None = None) -> HeldOut:
    """Take one data set to learn from, and another one to measure on.

    :param data: episodes to learn from.
    :param validation: episodes to measure on, with the same spaces; the same ones where there are no others.
    :raises ValueError: when an episode does not fit the spaces.
    """
    if validation is None:
        return HeldOut(data, data, None)
    fitting = OfflineDataset(validation.episodes, data.observation_space, data.action_space)
    return HeldOut(data, fitting, frozenset(fitting.tasks) - frozenset(data.tasks))
