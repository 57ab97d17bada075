"""Draw the transitions, examples and sentences of a batch: all that is random about it is here."""

from typing import NamedTuple

import numpy as np

from sb3_llmdpd.prompts.prompt import window_steps
from sb3_llmdpd.replay.episode_index import EpisodeIndex


class Draw(NamedTuple):
    """Contents of a batch: M prompts, each with B / M transitions and an example of L steps."""

    rows: np.ndarray
    """(B,), rows of the transitions, prompt after prompt."""
    example_rows: np.ndarray
    """(M * L,), rows of the examples' steps, prompt after prompt."""
    has_example: np.ndarray
    """(M,), bool; where it is False, nobody reads the rows."""
    texts: np.ndarray
    """(M,), numbers of the sentences."""
    has_text: np.ndarray
    """(M,), bool; where it is False, nobody reads the number."""


class BatchSampler:
    """Draws batches from an index of episodes; `PromptReplayBuffer` states the rules.

    A *pool* is a set of episodes that may prompt each other: those of a task or, with ``same_goal``, of a
    goal. A *lot* is a ticket in a draw: a transition with three lots is drawn three times as often as one
    with one. The lots of an episode are numbered one after the other, and so are those of a pool's episodes.

    Example: a pool has episodes A, B and C of 2, 3 and 1 steps; only the transitions of B have two lots::

        lot          0    1    2    3    4    5    6    7    8
        transition   A_0  A_1  B_0  B_0  B_1  B_1  B_2  B_2  C_0

    When B is the example, its six lots are left out, so 9 - 6 = 3 remain and 0, 1 or 2 is drawn. Numbers from
    B's first lot (2) on move up by 6: 0, 1, 2 become the lots 0, 1, 8, which are A_0, A_1 and C_0.

    :param index: index of the episodes
    :param prompts_per_batch: largest M
    :param window: L, steps of an example
    """

    def __init__(self, index: EpisodeIndex, prompts_per_batch: int, window: int) -> None:
        self._index = index
        self.prompts_per_batch, self.window = prompts_per_batch, window

    def __call__(self, batch_size: int, generator: np.random.Generator) -> Draw:
        """Draw a batch.

        :param batch_size: B, a multiple of M = min(prompts_per_batch, B)
        :param generator: source of all that is random
        :return: B transitions and M prompts
        :raises ValueError: when B is not a positive multiple of M
        """
        n_prompts = min(self.prompts_per_batch, batch_size)
        if n_prompts < 1 or batch_size % n_prompts:
            raise ValueError(
                "`batch_size` must be a multiple of `prompts_per_batch`, so that each prompt has as many"
                f" transitions; got {batch_size} and {self.prompts_per_batch}"
            )
        index, tasks = self._index, self._tasks(n_prompts, generator)
        pool_lots = index.task_first_lot[tasks] + generator.integers(index.task_n_lots[tasks])
        pools = np.searchsorted(index.pool_last_lot, pool_lots, side="right")
        chosen = generator.integers(index.pool_n_examples[pools])
        examples = index.examples[index.pool_first_example[pools] + chosen]
        first_step, n_steps = self._shown(pools, examples, generator)
        # No transition is in its own example: a single episode lacks the shown part, others lack all of it.
        is_single = index.pool_is_single[pools]
        first_left_out = np.where(is_single, first_step, 0)
        n_left_out = np.where(is_single, n_steps, index.episode_length[examples])
        n_rows = batch_size // n_prompts
        rows = self._transitions(pools, examples, first_left_out, n_left_out, n_rows, generator)
        offsets = generator.random((n_prompts, self.window))
        # At least one step for a window, also where an episode shows none and its rows are never read.
        steps = first_step[:, None] + window_steps(np.maximum(n_steps, 1), self.window, offsets)
        n_texts = index.task_n_texts[tasks]
        return Draw(
            rows.ravel(),
            (index.episode_row[examples][:, None] + steps).ravel(),
            n_steps > 0,
            index.task_first_text[tasks] + generator.integers(np.maximum(n_texts, 1)),
            n_texts > 0,
        )

    def _tasks(self, n_prompts: int, generator: np.random.Generator) -> np.ndarray:
        """(M,), drawn uniformly; no task comes a second time before all others have come."""
        n_tasks = len(self._index.tasks)
        rounds = -(-n_prompts // n_tasks)
        return np.concatenate([generator.permutation(n_tasks) for _ in range(rounds)])[:n_prompts]

    def _shown(
        self, pools: np.ndarray, examples: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """First step and number of steps that each example may show: all useful ones.

        A single episode shows half of them, from a random step on.
        """
        n_steps = self._index.episode_prompt_length[examples]
        is_single = self._index.pool_is_single[pools]
        if not is_single.any():  # without a draw, so that the batches of other data stay as they are
            return np.zeros_like(n_steps), n_steps
        half = n_steps // 2
        drawn = generator.integers(n_steps - half + 1)
        return np.where(is_single, drawn, 0), np.where(is_single, half, n_steps)

    def _transitions(
        self,
        pools: np.ndarray,
        examples: np.ndarray,
        first_left_out: np.ndarray,
        n_left_out: np.ndarray,
        n: int,
        generator: np.random.Generator,
    ) -> np.ndarray:
        """(M, n) rows of transitions of the pools, without a run of steps of each prompt's example.

        The run begins at the step ``first_left_out`` and has ``n_left_out`` steps, each (M,).
        """
        index = self._index
        lots_of_step = index.transition_lots[examples]
        left_out = n_left_out * lots_of_step
        drawn = generator.integers((index.pool_n_lots[pools] - left_out)[:, None], size=(len(pools), n))
        lots = index.pool_first_lot[pools][:, None] + drawn
        # Lots from those that are left out on move up by their number, as in the example of the class.
        first_lot = index.episode_first_lot[examples] + first_left_out * lots_of_step
        lots += left_out[:, None] * (lots >= first_lot[:, None])
        episodes = np.searchsorted(index.episode_first_lot, lots, side="right") - 1
        steps = (lots - index.episode_first_lot[episodes]) // index.transition_lots[episodes]
        return index.episode_row[episodes] + steps
