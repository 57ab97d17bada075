"""Draw the transitions, examples and sentences of a batch: all that is random about it is here."""

from typing import NamedTuple

import numpy as np

from sb3_llmdpd.prompts.prompt import window_steps
from sb3_llmdpd.replay.episode_index import EpisodeIndex


class Draw(NamedTuple):
    """Contents of a batch: M prompts, each with B / M transitions and up to E examples of L steps."""

    rows: np.ndarray
    """(B,), rows of the transitions, prompt after prompt."""
    example_rows: np.ndarray
    """(M * E * L,), rows of the examples' steps, prompt after prompt."""
    has_example: np.ndarray
    """(M, E), bool, the examples that are shown before the others; nobody reads the rows of these."""
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
    :param n_examples: fewest and most examples of a prompt; fewer where a pool has no more
    """

    def __init__(
        self, index: EpisodeIndex, prompts_per_batch: int, window: int, n_examples: tuple[int, int] = (1, 1)
    ) -> None:
        self._index = index
        self.prompts_per_batch, self.window = prompts_per_batch, window
        self.fewest_examples, self.most_examples = n_examples

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
        examples, has_example = self._examples(pools, generator)  # (M, E)
        first_step, n_steps = self._shown(pools, examples, generator)
        has_example &= n_steps > 0
        # No transition is in its own examples: a single episode lacks the shown part, others lack all of it.
        is_single = index.pool_is_single[pools][:, None]
        first_left_out = np.where(is_single, first_step, 0)
        n_left_out = has_example * np.where(is_single, n_steps, index.episode_length[examples])
        n_rows = batch_size // n_prompts
        rows = self._transitions(pools, examples, first_left_out, n_left_out, n_rows, generator)
        offsets = generator.random((*examples.shape, self.window)).reshape(-1, self.window)
        # At least one step for a window, also where an episode shows none and its rows are never read.
        steps = window_steps(np.maximum(n_steps, 1).ravel(), self.window, offsets)
        first_rows = index.episode_row[examples] + first_step  # (M, E)
        n_texts = index.task_n_texts[tasks]
        return Draw(
            rows.ravel(),
            (first_rows.reshape(-1, 1) + steps).ravel(),
            has_example,
            index.task_first_text[tasks] + generator.integers(np.maximum(n_texts, 1)),
            n_texts > 0,
        )

    def _tasks(self, n_prompts: int, generator: np.random.Generator) -> np.ndarray:
        """(M,), drawn uniformly; no task comes a second time before all others have come."""
        n_tasks = len(self._index.tasks)
        rounds = -(-n_prompts // n_tasks)
        return np.concatenate([generator.permutation(n_tasks) for _ in range(rounds)])[:n_prompts]

    def _examples(self, pools: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Different episodes of each pool, and which of them are shown: (M, E) each.

        One episode at least is left to draw transitions from.
        """
        index, shape = self._index, (len(pools), self.most_examples)
        n_known = index.pool_n_examples[pools]
        n_most = np.maximum(n_known - 1, 1)
        n_shown = np.minimum(self._n_examples(len(pools), generator), n_most)
        chosen = np.zeros(shape, np.int64)
        for i in range(self.most_examples):
            # The i-th of those that are not chosen yet: numbers from a chosen one on move up by one.
            drawn = generator.integers(np.maximum(n_known - i, 1))
            for earlier in np.sort(chosen[:, :i], axis=1).T:
                drawn += drawn >= earlier
            chosen[:, i] = np.minimum(drawn, n_known - 1)  # where none is left, it is not shown
        examples = index.examples[index.pool_first_example[pools][:, None] + chosen]
        return examples, np.arange(self.most_examples) < n_shown[:, None]

    def _n_examples(self, n_prompts: int, generator: np.random.Generator) -> np.ndarray:
        """(M,), number of examples of each prompt; without a draw where it is always the same."""
        if self.fewest_examples == self.most_examples:
            return np.full(n_prompts, self.most_examples)
        return generator.integers(self.fewest_examples, self.most_examples + 1, n_prompts)

    def _shown(
        self, pools: np.ndarray, examples: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """First step and number of steps that each example may show, (M, E) each: all useful ones.

        A single episode shows half of them, from a random step on.
        """
        n_steps = self._index.episode_prompt_length[examples]
        is_single = self._index.pool_is_single[pools][:, None]
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
        """(M, n) rows of transitions of the pools, without a run of steps of each of the prompt's examples.

        The runs begin at the steps ``first_left_out`` and have ``n_left_out`` steps, each (M, E).
        """
        index = self._index
        lots_of_step = index.transition_lots[examples]
        left_out = n_left_out * lots_of_step  # (M, E)
        n_lots = index.pool_n_lots[pools] - left_out.sum(axis=1)
        lots = index.pool_first_lot[pools][:, None] + generator.integers(
            n_lots[:, None], size=(len(pools), n)
        )
        # Lots from those that are left out on move up by their number, as in the example of the class: run
        # after run in the order of the lots.
        first_lot = index.episode_first_lot[examples] + first_left_out * lots_of_step
        order = np.argsort(first_lot, axis=1)
        in_order = (np.take_along_axis(each, order, axis=1).T for each in (first_lot, left_out))
        for first, number in zip(*in_order, strict=True):
            lots += number[:, None] * (lots >= first[:, None])
        episodes = np.searchsorted(index.episode_first_lot, lots, side="right") - 1
        steps = (lots - index.episode_first_lot[episodes]) // index.transition_lots[episodes]
        return index.episode_row[episodes] + steps
