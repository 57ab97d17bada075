"""`PromptReplayBuffer`, which draws offline transitions together with prompts for their tasks."""

from collections.abc import Callable
from typing import Any, NoReturn, Self

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.utils import get_device

from sb3_llmdpd.data.checks import check_examples_per_prompt, check_return_weight
from sb3_llmdpd.data.episodes import Episode, OfflineDataset
from sb3_llmdpd.data.images import channels_first_space
from sb3_llmdpd.data.stored_dataset import StoredDataset
from sb3_llmdpd.prompts.prompt import PROMPT_WINDOW
from sb3_llmdpd.replay.batch_sampler import BatchSampler, Draw
from sb3_llmdpd.replay.episode_index import EpisodeIndex
from sb3_llmdpd.replay.step_storage import MappedStorage, ResidentStorage, StepStorage
from sb3_llmdpd.type_aliases import PromptBatch, PromptReplayBufferSamples, TensorObs

REWARD_SCALES = ("per_task", "none")


def _of_transitions(read: Callable[["PromptReplayBuffer", np.ndarray], TensorObs]) -> Any:
    """Make a property of what a function reads of the rows of all transitions, as read-only arrays."""

    def get(buffer: "PromptReplayBuffer") -> np.ndarray | dict[str, np.ndarray]:
        found = read(buffer, buffer._index.transition_rows())
        if isinstance(found, dict):
            return {key: _read_only(part) for key, part in found.items()}
        return _read_only(found)

    return property(get, doc=read.__doc__)


def _read_only(tensor: th.Tensor) -> np.ndarray:
    array = tensor.cpu().numpy()
    array.setflags(write=False)
    return array


def _with_env_axis(tensor: th.Tensor) -> th.Tensor:
    """Put SB3's axis of environments, of which there is one, behind the first; a number gets one, too."""
    return tensor.reshape(len(tensor), 1, *(tensor.shape[1:] or (1,)))


class PromptReplayBuffer(ReplayBuffer):
    """Logged episodes of one or many tasks, one after the other, one row a step.

    A batch is M prompts with B / M transitions each. Tasks are drawn uniformly, whatever their share of the
    data, and without repetition while there are enough. The prompt of a transition is **another** episode of
    its task (of its goal, with ``same_goal``), so that an example never contains the transition that it
    conditions. Failed episodes serve as examples only where fewer than two others are known. Where a task has
    a single episode, a part of it is shown and the transitions are drawn from the rest, which a warning says;
    a single step is not shown at all.

    Of data that are mapped from a file (`StoredDataset`), observations and actions are loaded by batches.

    All draws come from the buffer's own Generator, so that an evaluation between two steps changes nothing.

    All transitions can be looked at under SB3's names: ``observations``, ``next_observations``, ``actions``,
    ``rewards``, ``dones`` and ``timeouts``, task after task, in the units of `sample`. These arrays are made
    whenever they are asked for, and cannot be written to, since no change of them would be learned from.

    :param dataset: checked episodes with their spaces
    :param device: device of the arrays and the batches
    :param prompts_per_batch: largest M; a smaller batch has fewer
    :param prompt_window: L, steps of an example, spread over it up to its first success
    :param examples_per_prompt: fewest and most examples of a prompt; how many is drawn for each
    :param same_goal: draw the example among episodes of the same goal; every episode then needs one
    :param reward_scale: ``"per_task"`` divides rewards by their root mean square in the task, so that the
        task with the largest rewards does not rule the shared critic; ``"none"`` leaves them
    :param return_weight: at 0 all transitions of a task are drawn alike; above 0 those of better episodes
        more often, see `return_lots`. An episode that misses its task's best return by a tenth of it is drawn
        exp(-return_weight / 10) times as often as the best.
    :param gamma: discount of these returns
    :param seed: seed of the buffer's Generator
    :param observation_space: space of the model. Where it is the data's, images keep the order of their axes;
        otherwise their channels are moved to the front, as SB3 does.
    :raises TypeError: when ``examples_per_prompt`` is no pair of whole numbers
    :raises ValueError: on an unknown ``reward_scale``, sizes below one, ``same_goal`` without goals, a
        negative ``return_weight``, or one above 0 with a ``gamma`` of 1
    """

    def __init__(
        self,
        dataset: OfflineDataset,
        device: th.device | str = "auto",
        prompts_per_batch: int = 32,
        prompt_window: int = PROMPT_WINDOW,
        examples_per_prompt: tuple[int, int] = (1, 1),
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
                "`prompts_per_batch` and `prompt_window` must be at least 1,"
                f" got {prompts_per_batch} and {prompt_window}"
            )
        check_return_weight(return_weight, gamma)
        # Not ReplayBuffer's own constructor: it would allocate `buffer_size` empty rows.
        if observation_space != dataset.observation_space:
            observation_space = channels_first_space(dataset.observation_space)
        super(ReplayBuffer, self).__init__(dataset.n_steps, observation_space, dataset.action_space, device)
        self.full = True
        self.prompts_per_batch = prompts_per_batch
        self.prompt_window = prompt_window
        self.examples_per_prompt = check_examples_per_prompt(examples_per_prompt)
        self.same_goal = same_goal
        self.reward_scale = reward_scale
        self.return_weight = return_weight
        self.seed(seed)
        first_rows = dataset.first_rows if isinstance(dataset, StoredDataset) else None
        self._index = EpisodeIndex(dataset.episodes, same_goal, return_weight, gamma, first_rows)
        self.rewarded = dataset.rewarded
        """True where rewards were recorded in all episodes."""
        self._draw = BatchSampler(self._index, prompts_per_batch, prompt_window, self.examples_per_prompt)
        self._store(dataset)
        del self._index.episodes  # their arrays are stored, and would be in memory twice
        self.tasks, self.texts = self._index.tasks, self._index.texts
        self.text_vectors = th.zeros(len(self.texts), 0, device=self.device)
        """(n_texts, text_dim), vectors of a text encoder for `texts`; no columns until `set_text_vectors`."""

    def _store(self, dataset: OfflineDataset) -> None:
        index, episodes = self._index, self._index.episodes
        spaces_and_device = (self.observation_space, dataset.action_space, self.device)
        self._storage: StepStorage = (
            MappedStorage(dataset.file, *spaces_and_device)
            if isinstance(dataset, StoredDataset)
            else ResidentStorage(episodes, *spaces_and_device)
        )
        self.reward_scales = self._reward_scales(episodes)
        ends = index.episode_row + index.episode_length  # the rows after the last transitions
        rewards = np.zeros(ends.max() + 1)
        scales = self.reward_scales[index.episode_task]
        for episode, first, scale in zip(episodes, index.episode_row, scales, strict=True):
            rewards[first : first + len(episode)] = episode.rewards / scale
        dones = np.zeros(len(rewards), np.float32)
        dones[ends - 1] = [episode.terminated for episode in episodes]
        self._outcomes = self._tensor(np.column_stack([rewards, dones]))
        """(n, 2), scaled reward, and 1 where the task ended."""
        self.largest_reward = float(max(rewards.max(), -rewards.min()))
        """Largest magnitude of a scaled reward."""

    def _reward_scales(self, episodes: list[Episode]) -> np.ndarray:
        """(n_tasks,), root mean square of the rewards of each task, or ones."""
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
        """Move the buffer's tensors to a device.

        :param device: target device
        :return: the buffer itself
        """
        self.device = get_device(device)
        self._storage.to(self.device)
        self._outcomes, self.text_vectors = self._outcomes.to(self.device), self.text_vectors.to(self.device)
        return self

    @property
    def n_episodes(self) -> int:
        """Number of episodes in the buffer."""
        return len(self._index.episode_length)

    @property
    def texts_by_task(self) -> dict[str, tuple[str, ...]]:
        """Phrasings of each task's sentence."""
        return self._index.texts_by_task

    def seed(self, seed: int | None) -> None:
        """Start the buffer's own Generator anew.

        :param seed: None takes entropy of the system
        """
        self.generator = np.random.default_rng(seed)

    def set_text_vectors(self, vectors: np.ndarray) -> None:
        """Set the vectors of the buffer's sentences.

        :param vectors: (n_texts, text_dim), a text encoder's vector for each of `texts`
        :raises ValueError: when the number of rows differs from that of the sentences
        """
        if len(vectors) != len(self.texts):
            raise ValueError(f"the buffer holds {len(self.texts)} sentences, got {len(vectors)} vectors")
        self.text_vectors = self._tensor(vectors)

    @_of_transitions
    def observations(self, rows: np.ndarray) -> TensorObs:
        """Observations acted on: (n, 1, *obs_shape), environment units, or a dict of such arrays."""
        return self._observations(rows)

    @_of_transitions
    def next_observations(self, rows: np.ndarray) -> TensorObs:
        """Observations that followed: (n, 1, *obs_shape), environment units, or a dict of such arrays."""
        return self._observations(rows + 1)

    @_of_transitions
    def actions(self, rows: np.ndarray) -> TensorObs:
        """Actions: (n, 1, action_dim), in [-1, 1]."""
        return _with_env_axis(self._storage.take(rows)[1])

    @_of_transitions
    def rewards(self, rows: np.ndarray) -> TensorObs:
        """Rewards: (n, 1), divided as ``reward_scale`` says."""
        return self._rows(self._outcomes, rows)[:, :1]

    @_of_transitions
    def dones(self, rows: np.ndarray) -> TensorObs:
        """Ends of episodes: (n, 1), 1 where an episode ended, by itself or at a time limit."""
        return self._ends(len(rows))

    @_of_transitions
    def timeouts(self, rows: np.ndarray) -> TensorObs:
        """Cuts: (n, 1), 1 where an episode was cut off, which `sample` does not call done."""
        return self._ends(len(rows)) - self._rows(self._outcomes, rows)[:, 1:].cpu()

    def _ends(self, n_transitions: int) -> th.Tensor:
        """Mark the last transition of each episode, (n_transitions, 1)."""
        ends = th.zeros(n_transitions, 1)
        ends[np.cumsum(self._index.episode_length) - 1] = 1.0
        return ends

    def _observations(self, rows: np.ndarray) -> TensorObs:
        found = self._storage.observations(rows)
        if isinstance(found, dict):
            return {key: _with_env_axis(part) for key, part in found.items()}
        return _with_env_axis(found)

    def some_observations(self, n: int) -> TensorObs:
        """Take observations that are spread evenly over the data, to fit statistics to.

        :param n: largest number of observations
        :return: (m, *obs_shape) with m <= n, or a dict of such tensors
        """
        return self._storage.observations(self._index.some_rows(n))

    def sample(self, batch_size: int, env: Any = None) -> PromptReplayBufferSamples:  # type: ignore[override]
        """Draw prompts and transitions of their tasks.

        :param batch_size: B, a multiple of M = min(prompts_per_batch, B)
        :param env: SB3's VecNormalize, which is refused, since its statistics never move offline
        :return: B transitions and M prompts
        :raises ValueError: when B is not a positive multiple of M, or ``env`` is given
        """
        if env is not None:
            raise ValueError(
                "VecNormalize cannot serve offline: its statistics only move when an environment is stepped."
                " Drop it; the policy standardises observations with statistics of the data set."
            )
        draw = self._draw(batch_size, self.generator)
        observations, actions = self._storage.take(draw.rows)
        outcomes = self._rows(self._outcomes, draw.rows)
        return PromptReplayBufferSamples(
            observations=observations,
            actions=actions,
            next_observations=self._storage.observations(draw.rows + 1),
            dones=outcomes[:, 1:],
            rewards=outcomes[:, :1],
            discounts=None,
            prompts=self._prompts(draw),
        )

    def _prompts(self, draw: Draw) -> PromptBatch:
        n_prompts = len(draw.texts)
        has_text = draw.has_text & (self.text_vectors.shape[1] > 0)
        if has_text.any():
            text_vectors = self._rows(self.text_vectors, np.where(has_text, draw.texts, 0))
        else:
            text_vectors = self.text_vectors.new_zeros(n_prompts, self.text_vectors.shape[1])
        observations, actions = self._storage.take(draw.example_rows)
        has_example = th.from_numpy(draw.has_example).to(self.device)  # (M, E)
        return PromptBatch(
            text_vectors=text_vectors,
            has_text=th.from_numpy(has_text).to(self.device),
            observations=observations,
            actions=actions.unflatten(0, (n_prompts, -1)),
            lengths=has_example * self.prompt_window,
            has_trajectory=has_example[:, 0],
        )

    def _rows(self, array: th.Tensor, rows: np.ndarray) -> th.Tensor:
        return array.index_select(0, th.from_numpy(rows).to(self.device))

    def add(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse, since an offline buffer does not grow.

        :raises RuntimeError: always
        """
        raise RuntimeError(
            "a PromptReplayBuffer holds whole logged episodes and cannot grow by single transitions;"
            " build an Episode from them, and a new buffer from the episodes"
        )

    def reset(self) -> None:
        """Do nothing, since logged data are never thrown away."""
