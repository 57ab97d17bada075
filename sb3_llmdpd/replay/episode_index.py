"""Index of the episodes in a flat buffer: their rows, their lots in a draw, their pools and sentences."""

import warnings
from collections.abc import Sequence

import numpy as np

from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.replay.return_weights import return_lots


class EpisodeIndex:
    """Episodes sorted by task and pool, one after the other, one row a step.

    An episode of T steps has T transitions and takes T + 1 rows, since it has T + 1 observations. The names
    of arrays begin with what they have an entry for: an episode, a pool or a task. `BatchSampler` defines
    *pool* and *lot*.

    :param episodes: at least one episode
    :param same_goal: make a pool of each goal of a task, and not of the whole task
    :param return_weight: strength of `return_lots`
    :param gamma: discount of `return_lots`
    :param first_rows: (n_episodes,), first row of each episode where the rows are stored already; None to
        store them one after the other in the order of the index
    :raises ValueError: when a goal is needed and not known
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        same_goal: bool,
        return_weight: float = 0.0,
        gamma: float = 0.99,
        first_rows: np.ndarray | None = None,
    ) -> None:
        keys = [_pool_key(episode, same_goal) for episode in episodes]
        order = sorted(range(len(episodes)), key=keys.__getitem__)
        self.episodes = [episodes[i] for i in order]
        self.tasks = tuple(sorted({episode.task for episode in episodes}))
        self.episode_length = np.array([len(episode) for episode in self.episodes])
        rows = self.episode_length + 1
        self.episode_row = np.cumsum(rows) - rows if first_rows is None else first_rows[order]
        self.episode_prompt_length = np.array([episode.prompt_length for episode in self.episodes])
        number_of_task = {task: number for number, task in enumerate(self.tasks)}
        self.episode_task = np.array([number_of_task[episode.task] for episode in self.episodes])
        number_of_pool = {key: number for number, key in enumerate(sorted(set(keys)))}
        pool_of_episode = np.array([number_of_pool[keys[i]] for i in order])
        first_of_pool = np.searchsorted(pool_of_episode, np.arange(len(number_of_pool)))
        self._number_lots(return_lots(self.episodes, return_weight, gamma), first_of_pool)
        self._list_examples(pool_of_episode, len(number_of_pool), same_goal)
        self._list_texts()

    def _number_lots(self, lots: np.ndarray, first_of_pool: np.ndarray) -> None:
        """Number the lots: in a pool those of its transitions, in a task those of its pools.

        A pool has as many lots as its transitions have on average.
        """
        self.transition_lots = lots
        """(n_episodes,), lots of each transition of an episode."""
        n_lots = lots * self.episode_length
        self.episode_first_lot = np.cumsum(n_lots) - n_lots
        self.pool_first_lot = self.episode_first_lot[first_of_pool]
        self.pool_n_lots = np.add.reduceat(n_lots, first_of_pool)
        pool_lots = self.pool_n_lots // np.add.reduceat(self.episode_length, first_of_pool)
        self.pool_last_lot = np.cumsum(pool_lots)
        first_of_task = np.searchsorted(self.episode_task[first_of_pool], np.arange(len(self.tasks)))
        self.task_n_lots = np.add.reduceat(pool_lots, first_of_task)
        self.task_first_lot = (self.pool_last_lot - pool_lots)[first_of_task]

    def transition_rows(self) -> np.ndarray:
        """List the rows of all transitions, (n_transitions,), episode after episode."""
        first_transitions = np.cumsum(self.episode_length) - self.episode_length
        shifts = np.repeat(self.episode_row - first_transitions, self.episode_length)
        return np.arange(len(shifts)) + shifts

    def some_rows(self, n: int) -> np.ndarray:
        """Choose rows that are spread evenly over all episodes.

        :param n: largest number of rows
        :return: (m,) with m <= n
        """
        ends = np.cumsum(self.episode_length + 1)
        at = np.linspace(0, ends[-1] - 1, min(n, ends[-1])).astype(np.int64)
        episodes = np.searchsorted(ends, at, side="right")
        return self.episode_row[episodes] + at - (ends - self.episode_length - 1)[episodes]

    def _list_examples(self, pool_of_episode: np.ndarray, n_pools: int, same_goal: bool) -> None:
        usable = np.array([episode.success is not False for episode in self.episodes])
        # With a single usable example its own transitions would never be drawn: then all episodes serve.
        enough = np.bincount(pool_of_episode, weights=usable, minlength=n_pools) >= 2
        self.examples = np.flatnonzero(usable | ~enough[pool_of_episode])
        """Episodes that may be shown as examples, pool after pool."""
        self.pool_n_examples = np.bincount(pool_of_episode[self.examples], minlength=n_pools)
        self.pool_first_example = np.cumsum(self.pool_n_examples) - self.pool_n_examples
        self.pool_is_single = np.bincount(pool_of_episode, minlength=n_pools) == 1
        if self.pool_is_single.any():
            single = [self.episodes[i] for i in np.flatnonzero(self.pool_is_single[pool_of_episode])]
            pool = "task and goal" if same_goal else "task"
            warnings.warn(
                f"{len(single)} episodes have no other episode of their {pool} to serve as their example:"
                " they are prompted with a part of themselves, and trained on the rest"
                f" (the first: {single[0]!r})",
                stacklevel=5,
            )

    def _list_texts(self) -> None:
        self.texts_by_task: dict[str, tuple[str, ...]] = dict.fromkeys(self.tasks, ())
        """Phrasings of each task's sentence, each once."""
        for episode in self.episodes:
            known = self.texts_by_task[episode.task]
            self.texts_by_task[episode.task] = tuple(dict.fromkeys(known + episode.task_texts))
        self.texts = tuple(text for texts in self.texts_by_task.values() for text in texts)
        """Phrasings of every task, task after task; a sentence that two tasks share stands twice."""
        self.task_n_texts = np.array([len(texts) for texts in self.texts_by_task.values()])
        self.task_first_text = np.cumsum(self.task_n_texts) - self.task_n_texts


def _pool_key(episode: Episode, same_goal: bool) -> tuple[str, str]:
    """A key that is equal for episodes of one pool, and that sorts pools by task."""
    if same_goal and episode.goal is None:
        raise ValueError(
            f"{episode.source}: `same_goal` needs the goal of every episode, and this one has none;"
            " set Episode.goal, or pass same_goal=False"
        )
    return episode.task, (episode.goal or "") if same_goal else ""
