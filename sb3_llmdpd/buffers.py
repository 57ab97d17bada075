"""`PromptReplayBuffer`, which draws offline transitions together with prompts for their tasks."""

from typing import Any, NamedTuple, NoReturn, Self

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.utils import get_device

from sb3_llmdpd.data.episodes import Episode, OfflineDataset
from sb3_llmdpd.data.images import channels_first_space
from sb3_llmdpd.data.stored import StoredDataset
from sb3_llmdpd.episode_index import EpisodeIndex
from sb3_llmdpd.prompts.prompt import PROMPT_WINDOW, window_steps
from sb3_llmdpd.return_weights import check_return_weight
from sb3_llmdpd.steps import MappedSteps, ResidentSteps, Steps
from sb3_llmdpd.type_aliases import PromptBatch, PromptReplayBufferSamples, TensorObs

REWARD_SCALES = ("per_task", "none")
_TENSORS = ("_rewards", "_dones", "text_vectors")


class _Draw(NamedTuple):
    """What a batch is made of."""

    tasks: np.ndarray
    """(M,)."""
    examples: np.ndarray
    """(M,), the episode that each prompt shows."""
    first_shown: np.ndarray
    """(M,), the first of its steps that may be shown."""
    n_shown: np.ndarray
    """(M,), how many may; 0 where none is."""
    rows: np.ndarray
    """(B,), of the transitions, prompt after prompt."""


class PromptReplayBuffer(ReplayBuffer):
    """Logged episodes of one or many tasks, laid out flat, one row a step.

    A batch is M prompts with B / M transitions each. Tasks are drawn uniformly, whatever their share of the data, and
    without repetition while there are enough. The prompt of a transition is **another** episode of its task (of its goal,
    with ``same_goal``), so that an example never contains the transition that it conditions; failed episodes serve as
    examples only where fewer than two others are known. Where a task has a single episode there is no other: a part of it is
    shown, and the transitions are drawn from the rest, which a warning says; an episode of one step is not shown at all.

    Data that are mapped from a file (`StoredDataset`) stay there: of observations and actions, batches alone are in memory.

    All draws come from a Generator of the buffer's own, so that an evaluation between two steps changes nothing.

    :param dataset: checked episodes with their spaces.
    :param device: where the arrays lie and batches appear.
    :param prompts_per_batch: M at most; a smaller batch has fewer.
    :param prompt_window: L, steps of an example, spread over it up to its first success.
    :param same_goal: draw the example among episodes of the same goal; every episode then needs one.
    :param reward_scale: ``"per_task"`` divides rewards by their root mean square in the task, since one shared critic
        must not be ruled by the task with the largest rewards; ``"none"`` leaves them.
    :param return_weight: how much more often the transitions of better episodes of a task are drawn, see `return_lots`; 0 for
        all alike. Of two episodes whose returns are a standard deviation apart, the better one's transitions are drawn
        exp(return_weight) times as often.
    :param gamma: discount of the returns that this goes by.
    :param seed: of the buffer's Generator.
    :param observation_space: of the model. Where it is the data's, images keep the order of their axes; otherwise their
        channels are moved to the front, as SB3 does.
    :raises ValueError: on an unknown ``reward_scale``, sizes below one, ``same_goal`` without goals, a negative
        ``return_weight``, or one above 0 with a ``gamma`` of 1.
    """

    def __init__(
        self,
        dataset: OfflineDataset,
        device: th.device | str = "auto",
        prompts_per_batch: int = 32,
        prompt_window: int = PROMPT_WINDOW,
        same_goal: bool = False,
        reward_scale: str = "per_task",
        return_weight: float = 0.0,
        gamma: float = 0.99,
        seed: int | None = None,
        observation_space: spaces.Space[Any] | None = None,
    ) -> None:
        if reward_scale not in REWARD_SCALES:
            raise ValueError(f"`reward_scale` must be one of {REWARD_SCALES}, got {reward_scale!r}")
        if prompts_per_batch < 1 or prompt_window < 1:
            raise ValueError(
                f"`prompts_per_batch` and `prompt_window` must be at least 1, got {prompts_per_batch} and {prompt_window}"
            )
        check_return_weight(return_weight, gamma)
        # Not ReplayBuffer's own constructor: it would allocate `buffer_size` empty rows.
        if observation_space != dataset.observation_space:
            observation_space = channels_first_space(dataset.observation_space)
        super(ReplayBuffer, self).__init__(dataset.n_steps, observation_space, dataset.action_space, device)
        self.full = True
        self.prompts_per_batch = prompts_per_batch
        self.prompt_window = prompt_window
        self.same_goal = same_goal
        self.reward_scale = reward_scale
        self.return_weight = return_weight
        self.seed(seed)
        first_rows = dataset.first_rows if isinstance(dataset, StoredDataset) else None
        self._index = EpisodeIndex(dataset.episodes, same_goal, return_weight, gamma, first_rows)
        self._lay_out(dataset)
        del self._index.episodes  # their arrays are laid out, and would lie in memory twice
        self.tasks, self.texts = self._index.tasks, self._index.texts
        self.text_vectors = th.zeros(len(self.texts), 0, device=self.device)
        """(n_texts, text_dim): what a text encoder makes of `texts`; no columns until `set_text_vectors`."""

    # Layout ---------------------------------------------------------------------------------------------------------

    def _lay_out(self, dataset: OfflineDataset) -> None:
        """Put observations and actions where batches are taken from, and rewards beside them."""
        index, episodes = self._index, self._index.episodes
        spaces_and_device = (self.observation_space, dataset.action_space, self.device)
        self._steps: Steps = (
            MappedSteps(dataset.file, *spaces_and_device)
            if isinstance(dataset, StoredDataset)
            else ResidentSteps(episodes, *spaces_and_device)
        )
        self.reward_scales = self._reward_scales(episodes)
        ends = index.episode_row + index.episode_length  # the rows behind the last transitions
        rewards = np.zeros(ends.max() + 1)
        for episode, first, scale in zip(episodes, index.episode_row, self.reward_scales[index.episode_task], strict=True):
            rewards[first : first + len(episode)] = episode.rewards / scale
        dones = np.zeros(len(rewards), np.float32)
        dones[ends - 1] = [episode.terminated for episode in episodes]
        self._rewards = self._tensor(rewards[:, None])
        self._dones = self._tensor(dones[:, None])
        self.largest_reward = float(max(rewards.max(), -rewards.min()))
        """Largest magnitude of a scaled reward."""

    def _reward_scales(self, episodes: list[Episode]) -> np.ndarray:
        """Root mean square of the rewards of each task, or ones."""
        index, n_tasks = self._index, len(self._index.tasks)
        if self.reward_scale == "none":
            return np.ones(n_tasks)
        squares = np.array([np.square(episode.rewards, dtype=np.float64).sum() for episode in episodes])
        n_steps = np.bincount(index.episode_task, index.episode_length, n_tasks)
        mean_squares = np.bincount(index.episode_task, squares, n_tasks) / n_steps
        return np.where(mean_squares > 0, np.sqrt(mean_squares), 1.0)

    def _tensor(self, array: np.ndarray) -> th.Tensor:
        return th.as_tensor(array, dtype=th.float32, device=self.device)

    def to(self, device: th.device | str) -> Self:
        """Move the arrays to a device.

        :param device: where to.
        :return: the buffer itself.
        """
        self.device = get_device(device)
        self._steps.to(self.device)
        for name in _TENSORS:
            setattr(self, name, getattr(self, name).to(self.device))
        return self

    # What others ask for -------------------------------------------------------------------------------------------------

    @property
    def n_episodes(self) -> int:
        """Episodes in the buffer."""
        return len(self._index.episode_length)

    @property
    def texts_by_task(self) -> dict[str, tuple[str, ...]]:
        """The phrasings of each task's sentence."""
        return self._index.texts_by_task

    def seed(self, seed: int | None) -> None:
        """Start the buffer's own Generator anew.

        :param seed: None for entropy of the system.
        """
        self.generator = np.random.default_rng(seed)

    def set_text_vectors(self, vectors: np.ndarray) -> None:
        """Give the buffer what a text encoder made of its sentences.

        :param vectors: (n_texts, text_dim), a row for each of `texts`.
        :raises ValueError: when the number of rows is another.
        """
        if len(vectors) != len(self.texts):
            raise ValueError(f"the buffer holds {len(self.texts)} sentences, got {len(vectors)} vectors")
        self.text_vectors = self._tensor(vectors)

    def some_observations(self, n: int) -> TensorObs:
        """Observations spread evenly over the data, to fit statistics to.

        :param n: how many at most.
        :return: (m, *obs_shape) with m <= n, or a dict of such tensors.
        """
        return self._steps.observations(self._index.some_rows(n))

    # Sampling -----------------------------------------------------------------------------------------------------------

    def sample(self, batch_size: int, env: Any = None) -> PromptReplayBufferSamples:  # type: ignore[override]
        """Draw prompts and transitions of their tasks.

        :param batch_size: B, a multiple of M = min(prompts_per_batch, B).
        :param env: SB3 passes its VecNormalize here; refused, since its statistics never move offline.
        :return: B transitions and M prompts.
        :raises ValueError: when B is not a positive multiple of M, or ``env`` is given.
        """
        if env is not None:
            raise ValueError(
                "VecNormalize cannot serve offline: its statistics only move when an environment is stepped. Drop it; the"
                " policy standardises observations with statistics of the data set."
            )
        draw = self._draw(batch_size)
        observations, actions = self._steps.take(draw.rows)
        return PromptReplayBufferSamples(
            observations=observations,
            actions=actions,
            next_observations=self._steps.observations(draw.rows + 1),
            dones=self._rows(self._dones, draw.rows),
            rewards=self._rows(self._rewards, draw.rows),
            discounts=None,
            prompts=self._prompts(draw),
        )

    def _draw(self, batch_size: int) -> "_Draw":
        n_prompts = min(self.prompts_per_batch, batch_size)
        if n_prompts < 1 or batch_size % n_prompts:
            raise ValueError(
                "`batch_size` must be a multiple of `prompts_per_batch`, so that each prompt has as many transitions;"
                f" got {batch_size} and {self.prompts_per_batch}"
            )
        index, tasks = self._index, self._draw_tasks(n_prompts)
        pools = index.pools_of(index.task_first_lot[tasks] + self.generator.integers(index.task_n_lots[tasks]))
        examples = index.examples[index.pool_first_example[pools] + self.generator.integers(index.pool_n_examples[pools])]
        first_step, n_steps = self._draw_shown(pools, examples)
        # What is shown is not what is explained: the rest of a single episode, or else the other episodes of the pool.
        is_single = index.pool_is_single[pools]
        kept_out = (np.where(is_single, first_step, 0), np.where(is_single, n_steps, index.episode_length[examples]))
        rows = self._draw_transitions(pools, examples, *kept_out, batch_size // n_prompts)
        return _Draw(tasks, examples, first_step, n_steps, rows.ravel())

    def _draw_tasks(self, n_prompts: int) -> np.ndarray:
        rounds = -(-n_prompts // len(self.tasks))
        drawn = [self.generator.permutation(len(self.tasks)) for _ in range(rounds)]
        return np.concatenate(drawn)[:n_prompts]

    def _draw_shown(self, pools: np.ndarray, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First step and number of steps of each example that its prompt may show, each (M,).

        All that are worth it; of an episode that has no other in its pool a half of those, at a random place.
        """
        n_steps = self._index.episode_prompt_length[examples]
        is_single = self._index.pool_is_single[pools]
        if not is_single.any():  # without a draw: the batches of other data stay as they are
            return np.zeros_like(n_steps), n_steps
        half = n_steps // 2
        drawn = self.generator.integers(n_steps - half + 1)
        return np.where(is_single, drawn, 0), np.where(is_single, half, n_steps)

    def _draw_transitions(
        self, pools: np.ndarray, examples: np.ndarray, first_left_out: np.ndarray, n_left_out: np.ndarray, n: int
    ) -> np.ndarray:
        """Rows of transitions of the pools, drawn by lot among those outside some steps of the example.

        :param pools: (M,).
        :param examples: (M,), the episode that is each prompt's example.
        :param first_left_out: (M,), the first of its steps that are left out.
        :param n_left_out: (M,), how many are, side by side.
        :param n: transitions of each prompt.
        :return: (M, n).
        """
        index = self._index
        lots_of_step = index.transition_lots[examples]
        left_out = n_left_out * lots_of_step
        drawn = self.generator.integers((index.pool_n_lots[pools] - left_out)[:, None], size=(len(pools), n))
        lots = index.pool_first_lot[pools][:, None] + drawn
        # A pool's lots lie side by side: those from what is left out on move up by as many as it has.
        first_lot = index.episode_first_lot[examples] + first_left_out * lots_of_step
        lots += left_out[:, None] * (lots >= first_lot[:, None])
        return index.rows_of(lots)

    def _prompts(self, draw: "_Draw") -> PromptBatch:
        index, n_prompts, window, tasks = self._index, len(draw.tasks), self.prompt_window, draw.tasks
        lengths = np.maximum(draw.n_shown, 1)  # of an episode of one step nothing is shown, and nothing read
        steps = draw.first_shown[:, None] + window_steps(lengths, window, self.generator.random((n_prompts, window)))
        rows = (index.episode_row[draw.examples][:, None] + steps).ravel()
        n_texts = index.task_n_texts[tasks]
        has_text = (n_texts > 0) & (self.text_vectors.shape[1] > 0)
        texts = index.task_first_text[tasks] + self.generator.integers(np.maximum(n_texts, 1))
        if has_text.any():
            text_vectors = self._rows(self.text_vectors, np.where(has_text, texts, 0))
        else:
            text_vectors = self.text_vectors.new_zeros(n_prompts, self.text_vectors.shape[1])
        observations, actions = self._steps.take(rows)
        return PromptBatch(
            text_vectors=text_vectors,
            has_text=th.from_numpy(has_text).to(self.device),
            observations=observations,
            actions=actions.view(n_prompts, window, -1),
            has_trajectory=th.from_numpy(draw.n_shown > 0).to(self.device),
        )

    def _rows(self, array: th.Tensor, rows: np.ndarray) -> th.Tensor:
        return array.index_select(0, th.from_numpy(rows).to(self.device))

    # Online only --------------------------------------------------------------------------------------------------------

    def add(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: an offline buffer does not grow.

        :raises RuntimeError: always.
        """
        raise RuntimeError(
            "a PromptReplayBuffer holds whole logged episodes and cannot grow by single transitions;"
            " build an Episode from them, and a new buffer from the episodes"
        )

    def reset(self) -> None:
        """Do nothing: logged data are never thrown away."""
