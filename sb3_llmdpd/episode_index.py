"""Where the episodes of a flat buffer lie: their rows and transitions, which may prompt which, and their sentences."""

import warnings
from collections.abc import Iterable

import numpy as np

from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.return_weights import return_lots


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
    transition, by pool or by task, as their names begin.

    Transitions are drawn by lot. A transition has as many lots as its episode says, and those of an episode lie side by side,
    as episodes do in a pool.

    :param episodes: at least one.
    :param same_goal: see `pool_key`.
    :param return_weight: see `return_lots`.
    :param gamma: see `return_lots`.
    :raises ValueError: when a goal is needed and not known.
    """

    def __init__(self, episodes: Iterable[Episode], same_goal: bool, return_weight: float = 0.0, gamma: float = 0.99) -> None:
        self.episodes = sorted(episodes, key=lambda episode: pool_key(episode, same_goal))
        self.tasks = tuple(sorted({episode.task for episode in self.episodes}))
        lengths = np.array([len(episode) for episode in self.episodes])
        rows = lengths + 1
        self.episode_length = lengths
        self.episode_row = np.cumsum(rows) - rows
        self.episode_transition = np.cumsum(lengths) - lengths
        self.episode_prompt_length = np.array([episode.prompt_length for episode in self.episodes])
        self.episode_task = np.array([self.tasks.index(episode.task) for episode in self.episodes])
        # Transition t lies in row t + (number of episodes before its own), as each leaves one row without an action.
        self.transition_row = np.arange(lengths.sum()) + np.repeat(np.arange(len(lengths)), lengths)

        keys = [pool_key(episode, same_goal) for episode in self.episodes]
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

    def transitions_of(self, lots: np.ndarray) -> np.ndarray:
        """Whose lots they are in the draw of transitions.

        :param lots: whole numbers from ``pool_first_lot`` on, ``pool_n_lots`` of each pool.
        :return: transitions, of the same shape.
        """
        episodes = np.searchsorted(self.episode_first_lot, lots, side="right") - 1
        return self.episode_transition[episodes] + (lots - self.episode_first_lot[episodes]) // self.transition_lots[episodes]

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
                f" as their example, and are trained without a trajectory prompt (the first: {lonely[0]!r})",
                stacklevel=5,
            )

    def _list_texts(self) -> None:
        """List, task after task, the distinct phrasings of its sentence."""
        texts: list[str] = []
        counts = []
        for task in self.tasks:
            of_task = dict.fromkeys(text for each in self.episodes if each.task == task for text in each.task_texts)
            texts += of_task
            counts.append(len(of_task))
        self.texts = tuple(texts)
        """Phrasings of every task, task after task; a sentence that two tasks share stands twice."""
        self.task_n_texts = np.array(counts)
        self.task_first_text = np.cumsum(self.task_n_texts) - self.task_n_texts

    @property
    def texts_by_task(self) -> dict[str, tuple[str, ...]]:
        """The phrasings of each task's sentence."""
        ends = self.task_first_text + self.task_n_texts
        return {task: self.texts[first:end] for task, first, end in zip(self.tasks, self.task_first_text, ends, strict=True)}
