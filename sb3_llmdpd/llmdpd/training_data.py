"""What `LLMDPD` learns from: a buffer made of what the user has, and the model fitted to it."""

import io
import pathlib
from typing import Any

import numpy as np
from stable_baselines3.common.save_util import load_from_pkl

from sb3_llmdpd.data.episodes import OfflineDataset
from sb3_llmdpd.data.loading import DatasetLike, load_dataset
from sb3_llmdpd.envs.dataset_env import check_spaces
from sb3_llmdpd.llmdpd.acting import PromptedActing
from sb3_llmdpd.llmdpd.learning import OfflineLearning
from sb3_llmdpd.llmdpd.prompter import Prompter
from sb3_llmdpd.prompts.prompt import Prompt
from sb3_llmdpd.prompts.text_cache import CachedTextEncoder
from sb3_llmdpd.prompts.text_encoders import make_text_encoder
from sb3_llmdpd.prompts.text_table import TextTable
from sb3_llmdpd.replay.buffer import PromptReplayBuffer

STATISTICS_ROWS = 200_000
"""How many observations the normaliser is fitted to, spread evenly over the data."""


def read_dataset(dataset: DatasetLike | PromptReplayBuffer) -> OfflineDataset | PromptReplayBuffer:
    """Whatever a user calls a data set, read.

    :param dataset: as in the constructor of `LLMDPD`.
    :return: a data set, or the buffer that it is.
    :raises ValueError: when it is empty, or an id is unknown.
    :raises TypeError: when it is none.
    """
    return dataset if isinstance(dataset, PromptReplayBuffer) else load_dataset(dataset)


class TrainingData(PromptedActing, OfflineLearning):
    """The data half of `LLMDPD`."""

    prompts_per_batch: int
    same_goal: bool
    reward_scale: str
    return_weight: float
    text_encoder: str | None
    _saved_buffer_state: dict[str, Any] | None = None

    def _make_buffer(self, dataset: OfflineDataset | PromptReplayBuffer, window: int) -> PromptReplayBuffer:
        if isinstance(dataset, PromptReplayBuffer):
            buffer = dataset.to(self.device)
            if buffer.prompt_window != window:
                raise ValueError(
                    f"the buffer's `prompt_window` is {buffer.prompt_window} and the policy's is {window}: make them equal"
                )
            for name in ("prompts_per_batch", "same_goal", "reward_scale", "return_weight"):
                setattr(self, name, getattr(buffer, name))
        else:
            buffer = PromptReplayBuffer(
                dataset,
                self.device,
                prompts_per_batch=self.prompts_per_batch,
                prompt_window=window,
                same_goal=self.same_goal,
                reward_scale=self.reward_scale,
                return_weight=self.return_weight,
                gamma=self.gamma,
                seed=self.seed,
                observation_space=self.observation_space,
            )
        if self.text_encoder is not None and buffer.texts:
            if self.text_table is None:
                encoder = CachedTextEncoder(make_text_encoder(self.text_encoder))
                self.text_table = TextTable.encode(buffer.texts_by_task, encoder)
            self.text_table = self.text_table.extended(buffer.texts)
            buffer.set_text_vectors(self.text_table.lookup(buffer.texts))
        return buffer

    def set_dataset(self, dataset: DatasetLike | PromptReplayBuffer) -> PromptReplayBuffer:
        """Train on other data from now on; the statistics that standardise observations stay those of the first training.

        :param dataset: as in the constructor.
        :return: the new replay buffer.
        :raises ValueError: when its spaces are not the model's.
        """
        buffer = self._make_buffer(read_dataset(dataset), self.policy.prompt_window)
        self._attach(buffer)
        self.replay_buffer = buffer
        if self._saved_buffer_state is not None:  # of a loaded model: its batches go on where they were
            buffer.generator.bit_generator.state = self._saved_buffer_state
            self._saved_buffer_state = None
        return buffer

    def load_replay_buffer(
        self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True
    ) -> None:
        """Train on a buffer that SB3's `save_replay_buffer` wrote. It is pickled: open only your own.

        :param path: of the buffer.
        :param truncate_last_traj: kept for SB3; episodes here are whole.
        :raises TypeError: when the file holds something else.
        :raises ValueError: when its spaces are not the model's. In either case the buffer of before stays.
        """
        buffer = load_from_pkl(path, self.verbose)
        if not isinstance(buffer, PromptReplayBuffer):
            raise TypeError(
                f"LLMDPD learns from a PromptReplayBuffer, and {path} holds a {type(buffer).__name__}"
            )
        self.set_dataset(buffer)

    def _attach(self, buffer: PromptReplayBuffer) -> None:
        """Fit data and model together: spaces, sentences, statistics, and whether there is more than one task."""
        remedy = "say what the data are, with OfflineDataset.from_episodes(episodes, observation_space, action_space)"
        check_spaces("the data", buffer, self, remedy)
        if self.text_encoder is None or not buffer.texts:
            buffer.set_text_vectors(np.zeros((len(buffer.texts), self.policy.text_dim), np.float32))
        if self._n_updates == 0:
            self.policy.fit_normalisers(buffer.some_observations(STATISTICS_ROWS), buffer.text_vectors)
        self._start_watch(buffer)
        self.prompter = Prompter(self.policy, self.text_table)
        tasks = buffer.texts_by_task
        texts = next(iter(tasks.values())) if len(tasks) == 1 and self.text_table is not None else ()
        # A model of one task needs no prompt to act.
        self._only_task = None if len(tasks) > 1 else [Prompt(text=texts[0] if texts else None)]
        self.set_task(prompt=self._task)
