"""Which transitions, examples and sentences a batch is made of: all that is random about it."""

from typing import NamedTuple

import numpy as np

from sb3_llmdpd.prompts.prompt import window_steps
from sb3_llmdpd.replay.episode_index import EpisodeIndex


class Draw(NamedTuple):
    """What a batch is made of."""

    rows: np.ndarray
    """(B,), of the transitions, prompt after prompt."""
    example_rows: np.ndarray
    """(M * L,), of the steps of the examples, prompt after prompt."""
    has_example: np.ndarray
    """(M,), bool: where there is none, rows stand that nobody reads."""
    texts: np.ndarray
    """(M,), of the sentences."""
    has_text: np.ndarray
    """(M,), bool, likewise."""


class BatchDraws:
    """Draws batches from an index of episodes, see `PromptReplayBuffer` for the rules.

    :param index: of the episodes.
    :param prompts_per_batch: M at most.
    :param window: L, steps of an example.
    """

    def __init__(self, index: EpisodeIndex, prompts_per_batch: int, window: int) -> None:
        self._index = index
        self.prompts_per_batch, self.window = prompts_per_batch, window

    def __call__(self, batch_size: int, generator: np.random.Generator) -> Draw:
        """Draw a batch.

        :param batch_size: B, a multiple of M = min(prompts_per_batch, B).
        :param generator: of all that is random.
        :return: B transitions and M prompts.
        :raises ValueError: when B is not a positive multiple of M.
        """
        n_prompts = min(self.prompts_per_batch, batch_size)
        if n_prompts < 1 or batch_size % n_prompts:
            raise ValueError(
                "`batch_size` must be a multiple of `prompts_per_batch`, so that each prompt has as many transitions;"
                f" got {batch_size} and {self.prompts_per_batch}"
            )
        index, tasks = self._index, self._tasks(n_prompts, generator)
        pools = index.pools_of(index.task_first_lot[tasks] + generator.integers(index.task_n_lots[tasks]))
        examples = index.examples[
            index.pool_first_example[pools] + generator.integers(index.pool_n_examples[pools])
        ]
        first_step, n_steps = self._shown(pools, examples, generator)
        # What is shown is not what is explained: the rest of a single episode, or else the other episodes of the pool.
        is_single = index.pool_is_single[pools]
        kept_out = (
            np.where(is_single, first_step, 0),
            np.where(is_single, n_steps, index.episode_length[examples]),
        )
        rows = self._transitions(pools, examples, *kept_out, batch_size // n_prompts, generator)
        offsets = generator.random((n_prompts, self.window))
        # Of an episode of one step nothing is shown, and nothing read.
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
        n_tasks = len(self._index.tasks)
        rounds = -(-n_prompts // n_tasks)
        drawn = [generator.permutation(n_tasks) for _ in range(rounds)]
        return np.concatenate(drawn)[:n_prompts]

    def _shown(
        self, pools: np.ndarray, examples: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """First step and number of steps of each example that its prompt may show, each (M,).

        All that are worth it; of an episode that has no other in its pool a half of those, at a random place.
        """
        n_steps = self._index.episode_prompt_length[examples]
        is_single = self._index.pool_is_single[pools]
        if not is_single.any():  # without a draw: the batches of other data stay as they are
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
        """Rows of transitions of the pools, drawn by lot among those outside some steps of the example.

        :param pools: (M,).
        :param examples: (M,), the episode that is each prompt's example.
        :param first_left_out: (M,), the first of its steps that are left out.
        :param n_left_out: (M,), how many are, side by side.
        :param n: transitions of each prompt.
        :param generator: of the draw.
        :return: (M, n).
        """
        index = self._index
        lots_of_step = index.transition_lots[examples]
        left_out = n_left_out * lots_of_step
        drawn = generator.integers((index.pool_n_lots[pools] - left_out)[:, None], size=(len(pools), n))
        lots = index.pool_first_lot[pools][:, None] + drawn
        # A pool's lots lie side by side: those from what is left out on move up by as many as it has.
        first_lot = index.episode_first_lot[examples] + first_left_out * lots_of_step
        lots += left_out[:, None] * (lots >= first_lot[:, None])
        return index.rows_of(lots)
