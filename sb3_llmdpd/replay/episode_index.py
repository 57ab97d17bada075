"""Where the episodes of a flat buffer lie: their rows and transitions, which may prompt which, and their sentences."""

import warnings
from collections.abc import Sequence

import numpy as np

from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.replay.return_weights import return_lots


def pool_key(episode: Episode, same_goal: bool) -> tuple[str, str]:
    """Episodes of one pool may prompt each other.

    :param episode: any.
    :param same_goal: whether a pool is a goal of a task, and not the whole task.
    :return: equal for episodes of one pool; sorts pools by task.
    :raises ValueError: when the goal is needed and not known.
    """
    if same_goal and episode.goal is None:
        raise ValueError(
            f"{episode.source}: `same_goal` needs the goal of every episode, and this one has none;"
            " set Episode.goal, or pass same_goal=False"
        )
    return episode.task, (episode.goal or "") if same_goal else ""


class EpisodeIndex:
    """Episodes sorted by task and pool, one after the other, one row a step.

    An episode of T steps takes T + 1 rows, since it has T + 1 observations, and T transitions. Arrays are by episode, by
    pool or by task, as their names begin.

    Transitions are drawn by lot. A transition has as many lots as its episode says, and those of an episode lie side by side,
    as episodes do in a pool.

    :param episodes: at least one.
    :param same_goal: see `pool_key`.
    :param return_weight: see `return_lots`.
    :param gamma: see `return_lots`.
    :param first_rows: (n_episodes,), the first row of each episode where their rows lie already; None to lay them one after
        the other in the order of the index.
    :raises ValueError: when a goal is needed and not known.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        same_goal: bool,
        return_weight: float = 0.0,
        gamma: float = 0.99,
        first_rows: np.ndarray | None = None,
    ) -> None:
        keys = [pool_key(episode, same_goal) for episode in episodes]
        order = sorted(range(len(episodes)), key=keys.__getitem__)
        self.episodes = [episodes[i] for i in order]
        number_of_task = {
            task: number for number, task in enumerate(sorted({episode.task for episode in episodes}))
        }
        self.tasks = tuple(number_of_task)
        lengths = np.array([len(episode) for episode in self.episodes])
        rows = lengths + 1
        self.episode_length = lengths
        self.episode_row = np.cumsum(rows) - rows if first_rows is None else first_rows[order]
        self.episode_prompt_length = np.array([episode.prompt_length for episode in self.episodes])
        self.episode_task = np.array([number_of_task[episode.task] for episode in self.episodes])

        keys = [keys[i] for i in order]
        first_of_pool = np.array([i for i, key in enumerate(keys) if i == 0 or key != keys[i - 1]])
        pool_of_episode = np.searchsorted(first_of_pool, np.arange(len(keys)), side="right") - 1
        self._give_lots(return_lots(self.episodes, return_weight, gamma), first_of_pool)
        self._list_examples(pool_of_episode, len(first_of_pool), same_goal)
        self._list_texts()

    def _give_lots(self, lots: np.ndarray, first_of_pool: np.ndarray) -> None:
        """Lay out the lots: of a pool's transitions one by one, and of a task's pools as many as a transition has there."""
        self.transition_lots = lots
        """(n_episodes,): of each transition of an episode."""
        self.episode_n_lots = lots * self.episode_length
        self.episode_first_lot = np.cumsum(self.episode_n_lots) - self.episode_n_lots
        self.pool_first_lot = self.episode_first_lot[first_of_pool]
        self.pool_n_lots = np.add.reduceat(self.episode_n_lots, first_of_pool)
        self._pool_lots = self.pool_n_lots // np.add.reduceat(self.episode_length, first_of_pool)
        self._pool_last_lot = np.cumsum(self._pool_lots)
        first_of_task = np.searchsorted(self.episode_task[first_of_pool], np.arange(len(self.tasks)))
        self.task_n_lots = np.add.reduceat(self._pool_lots, first_of_task)
        self.task_first_lot = (self._pool_last_lot - self._pool_lots)[first_of_task]

    def pools_of(self, lots: np.ndarray) -> np.ndarray:
        """Whose lots they are in the draw of pools.

        :param lots: whole numbers from ``task_first_lot`` on, ``task_n_lots`` of each task.
        :return: pools, of the same shape.
        """
        return np.searchsorted(self._pool_last_lot, lots, side="right")

    def rows_of(self, lots: np.ndarray) -> np.ndarray:
        """Whose lots they are in the draw of transitions.

        :param lots: whole numbers from ``pool_first_lot`` on, ``pool_n_lots`` of each pool.
        :return: the rows of the transitions, of the same shape.
        """
        episodes = np.searchsorted(self.episode_first_lot, lots, side="right") - 1
        return (
            self.episode_row[episodes]
            + (lots - self.episode_first_lot[episodes]) // self.transition_lots[episodes]
        )

    def some_rows(self, n: int) -> np.ndarray:
        """Rows spread evenly over all episodes.

        :param n: how many at most.
        :return: (m,) with m <= n.
        """
        ends = np.cumsum(self.episode_length + 1)
        at = np.linspace(0, ends[-1] - 1, min(n, ends[-1])).astype(np.int64)
        episodes = np.searchsorted(ends, at, side="right")
        return self.episode_row[episodes] + at - (ends - self.episode_length - 1)[episodes]

    def _list_examples(self, pool_of_episode: np.ndarray, n_pools: int, same_goal: bool) -> None:
        """List, pool after pool, the episodes that may be shown as examples."""
        usable = np.array([episode.success is not False for episode in self.episodes])
        # With a single usable example its own transitions would never be drawn: then all episodes serve.
        enough = np.bincount(pool_of_episode, weights=usable, minlength=n_pools) >= 2
        self.examples = np.flatnonzero(usable | ~enough[pool_of_episode])
        """Episodes, pool after pool."""
        self.pool_n_examples = np.bincount(pool_of_episode[self.examples], minlength=n_pools)
        self.pool_first_example = np.cumsum(self.pool_n_examples) - self.pool_n_examples
        self.pool_is_single = np.bincount(pool_of_episode, minlength=n_pools) == 1
        if self.pool_is_single.any():
            lonely = [self.episodes[i] for i in np.flatnonzero(self.pool_is_single[pool_of_episode])]
            warnings.warn(
                f"{len(lonely)} episodes have no other episode of their task{' and goal' if same_goal else ''} to serve"
                " as their example: they are prompted with a part of themselves, and trained on the rest"
                f" (the first: {lonely[0]!r})",
                stacklevel=5,
            )

    def _list_texts(self) -> None:
        """List, task after task, the distinct phrasings of its sentence."""
        of_task: dict[str, dict[str, None]] = {task: {} for task in self.tasks}
        for episode in self.episodes:
            of_task[episode.task] |= dict.fromkeys(episode.task_texts)
        self.texts = tuple(text for texts in of_task.values() for text in texts)
        """Phrasings of every task, task after task; a sentence that two tasks share stands twice."""
        self.task_n_texts = np.array([len(texts) for texts in of_task.values()])
        self.task_first_text = np.cumsum(self.task_n_texts) - self.task_n_texts

    @property
    def texts_by_task(self) -> dict[str, tuple[str, ...]]:
        """The phrasings of each task's sentence."""
        ends = self.task_first_text + self.task_n_texts
        return {
            task: self.texts[first:end]
            for task, first, end in zip(self.tasks, self.task_first_text, ends, strict=True)
        }
