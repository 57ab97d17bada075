"""Measures how near an example or a sentence is to known tasks, in the spaces that a model conditions on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch as th

from sb3_llmdpd.data.episodes import Episode, OfflineDataset, by_task
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.networks.attention import nearest_steps
from sb3_llmdpd.prompts.prompt import take, window_steps
from sb3_llmdpd.prompts.prompt_encoder import example_keys

N_EPISODES, N_STEPS = 5, 64
"""Episodes of a known task that an example is compared with, and steps of each."""


@dataclass(frozen=True)
class Nearness:
    """Distances of one task to known ones, by their names; 0 is the same, and standardised data lie 1 apart.

    :param example: distances of its example; empty without one.
    :param sentence: distances of its sentence; empty without one, or for a model without text.
    """

    example: Mapping[str, float]
    sentence: Mapping[str, float]

    def to_nearest(self, shown: str) -> float | None:
        """Give the distance to the nearest task.

        :param shown: ``"example"`` or ``"sentence"``.
        :return: the distance; None where nothing was compared.
        """
        distances = getattr(self, shown).values()
        return min(distances) if distances else None


class Neighbourhood:
    """Known tasks as a model sees them: standardised features of their steps, standardised sentence vectors.

    :param model: model that was made of the known tasks; it need not be trained unless its features are.
    :param known: episodes of the known tasks.
    """

    def __init__(self, model: LLMDPD, known: OfflineDataset) -> None:
        self._model = model
        of_tasks = by_task(known.episodes)
        self._keys = {task: self._key(episodes[:N_EPISODES]) for task, episodes in of_tasks.items()}
        self._sentences: dict[str, np.ndarray] = {}
        if model.text_table is not None:
            texts = {task: _texts(episodes) for task, episodes in of_tasks.items()}
            self._sentences = {task: self._vectors(own) for task, own in texts.items() if own}

    def of(self, example: Episode | None, text: str | None) -> Nearness:
        """Compare an example and a sentence with each known task.

        The distance of an example is the mean over its steps of that to the nearest step of the task, a root
        mean square over features, as retrieval measures it. That of a sentence is the same over the entries
        of its vector, to the nearest sentence of the task.

        :param example: an episode of the model's spaces; None for none.
        :param text: a sentence; None for none.
        """
        of_example: dict[str, float] = {}
        of_sentence: dict[str, float] = {}
        if example is not None:
            features = self._features(example)[None]  # (1, n, F)
            for task, keys in self._keys.items():
                _, distances = nearest_steps(features, keys)
                of_example[task] = float(distances.mean())
        if text is not None and self._sentences:
            vector = self._vectors([text])
            for task, vectors in self._sentences.items():
                of_sentence[task] = float(np.sqrt(np.square(vectors - vector).mean(axis=1)).min())
        return Nearness(of_example, of_sentence)

    def _key(self, episodes: Sequence[Episode]) -> th.Tensor:
        features = th.cat([self._features(episode) for episode in episodes])[None]  # (1, S, F)
        return example_keys(features, th.ones(features.shape[:2], dtype=th.bool, device=features.device))

    def _features(self, episode: Episode) -> th.Tensor:
        """Compute features of steps that are spread over an example, (n, F)."""
        steps = window_steps(np.array([episode.prompt_length]), min(N_STEPS, episode.prompt_length))[0]
        tensor, _ = self._model.policy.obs_to_tensor(take(episode.observations, steps))
        with th.no_grad():
            return self._model.policy.actor_target.encode_observations(tensor)

    def _vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Standardise the vectors of sentences, (n, text_dim)."""
        assert self._model.text_table is not None
        raw = th.as_tensor(self._model.text_table.lookup(texts), device=self._model.device)
        return self._model.policy.actor_target.text_normaliser(raw).cpu().numpy()


def _texts(episodes: Sequence[Episode]) -> list[str]:
    return list(dict.fromkeys(text for episode in episodes for text in episode.task_texts))
