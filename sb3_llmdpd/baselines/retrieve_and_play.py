"""`RetrieveAndPlay`, which learns nothing: it repeats the action of the nearest step of all examples."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_llmdpd.data.episodes import OfflineDataset
from sb3_llmdpd.data.spaces import actions_in_space
from sb3_llmdpd.evaluation.players import rows_of_block
from sb3_llmdpd.evaluation.rollouts import Act
from sb3_llmdpd.llmdpd.actor import count_rows
from sb3_llmdpd.llmdpd.llmdpd import STATISTICS_ROWS
from sb3_llmdpd.llmdpd.prompter import Example, Examples, PromptLike, as_prompts, prompt_batch
from sb3_llmdpd.networks.attention import nearest_steps
from sb3_llmdpd.networks.features import features_extractor_named
from sb3_llmdpd.networks.layers import Normaliser
from sb3_llmdpd.prompts.alignment import Alignment, align, alignment_named
from sb3_llmdpd.prompts.prompt import Prompt, are_same, take
from sb3_llmdpd.prompts.prompt_encoder import StepPlaces, example_keys
from sb3_llmdpd.type_aliases import to_device

_LEAST_DEVIATION = 1e-6
"""Standard deviation up to which a feature counts as constant."""


class _Bank(NamedTuple):
    """All steps of M prompts."""

    keys: th.Tensor
    """(M, F + 1, S), of the standardised features, see `example_keys`."""
    actions: th.Tensor
    """(M, S, A), in [-1, 1]."""
    mean: th.Tensor
    """(M, 1, F), what the features were standardised by."""
    scale: th.Tensor
    """(M, 1, F)."""


class RetrieveAndPlay(BasePolicy):
    """Acts as the nearest step of all examples did, at every step anew: what no learning gets.

    Distances are between standardised features: those of `dataset` where there is one, and otherwise of the
    prompt's own examples, where entries that never vary do not count. Sentences are not read.

    :param observation_space: space of the environment
    :param action_space: space of its actions
    :param dataset: data whose statistics standardise features; nothing else is taken from it
    :param features_extractor_class: a class without weights, or a name in
        `sb3_llmdpd.networks.features.FEATURES_EXTRACTORS`
    :param features_extractor_kwargs: arguments of the extractor beside the observation space
    :param alignment: move of a few examples into the scene of an episode, as of `LLMDPD`
    :raises ValueError: on an unknown alignment, when the extractor learns, or does not read such observations
    """

    prompt_window = 1
    reads_all_steps = True
    text_dim = 0

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        dataset: OfflineDataset | None = None,
        *,
        features_extractor_class: str | type[BaseFeaturesExtractor] = "flatten",
        features_extractor_kwargs: dict[str, Any] | None = None,
        alignment: str | Alignment | None = None,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class=features_extractor_named(features_extractor_class),
            features_extractor_kwargs=dict(features_extractor_kwargs or {}),
            squash_output=True,
        )
        self.features_extractor = self.make_features_extractor()
        if any(True for _ in self.features_extractor.parameters()):
            raise ValueError(
                f"RetrieveAndPlay learns nothing, and {features_extractor_class!r} has weights to learn: use"
                " one without"
            )
        self.alignment = None if alignment is None else alignment_named(alignment)
        self.normaliser: Normaliser | None = None
        self._known: tuple[Sequence[Prompt], _Bank] | None = None
        if dataset is not None:
            self.normaliser = Normaliser(self.features_extractor.features_dim)
            n = max(1, dataset.n_steps // STATISTICS_ROWS)
            rows = [take(episode.observations, range(0, len(episode) + 1, n)) for episode in dataset.episodes]
            self.normaliser.fit(th.cat([self._features(to_device(each, self.device)) for each in rows]))

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
        *,
        trajectory: Example = None,
        prompt: PromptLike = None,
        trajectories: Examples = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Act on observations with examples; see `LLMDPD.predict`.

        :param observation: (*obs_shape) or (n, *obs_shape), environment units
        :param state: as in `LLMDPD.predict`
        :param episode_start: as in `LLMDPD.predict`
        :param deterministic: ignored, there is no noise
        :param trajectory: an example for all rows, or a list with one for each
        :param prompt: a `Prompt` or a list of them, whose sentences are not read
        :param trajectories: examples for all rows, or a list of such lists, one for each
        :return: (action_shape) or (n, *action_shape), environment units, and the state for the next call
        :raises ValueError: when a row has no example, or when one does not fit the spaces
        """
        prompts = as_prompts(None, trajectory, prompt, trajectories) or [Prompt()]
        tensor, vectorized = self.obs_to_tensor(observation)
        if self.alignment is not None and not (state is None and episode_start is None):
            given = (observation, self.observation_space, state, episode_start)
            prompts, state = align(self.alignment, prompts, *given)
        bank = self._bank(prompts)
        n_prompts = len(bank.keys)
        count_rows(tensor, n_prompts)  # refuses a number that does not fit
        with th.no_grad():
            features = self._features(tensor)
            features = features.unflatten(0, (n_prompts, -1))
            at, _ = nearest_steps((features - bank.mean) / bank.scale, bank.keys)
            actions = bank.actions.gather(1, at.expand(-1, -1, bank.actions.shape[-1]))
        scaled = actions.reshape(-1, *self.action_space.shape).cpu().numpy()  # type: ignore[misc]
        unscaled = actions_in_space(scaled, self.action_space)  # type: ignore[arg-type]  # a Box
        return (unscaled if vectorized else unscaled[0]), state

    def make_act(self, prompts: Sequence[Prompt], *, noise_seed: int = 0, deterministic: bool = True) -> Act:
        """Get ready for a block of episodes, see `sb3_llmdpd.evaluation.players.Player`; there is no noise.

        :raises ValueError: when a prompt has no example
        """
        self._bank(prompts)
        states: dict[int, Any] = {}

        def act(observations: Any, rows: Sequence[int], rewards: np.ndarray) -> np.ndarray:
            shown, state, starts = rows_of_block(prompts, states, rows)
            actions, after = self.predict(observations, state, starts, prompt=shown)
            assert after is not None  # since a state was given
            states.update(zip(rows, after[0], strict=True))
            return actions

        return act

    def _bank(self, prompts: Sequence[Prompt]) -> _Bank:
        """Lay the steps of prompts out, unless they are those of the last call."""
        if self._known is not None:
            known, bank = self._known
            if are_same(known, prompts):
                return bank
        if lacking := [i for i, prompt in enumerate(prompts) if not prompt.trajectories]:
            raise ValueError(
                "RetrieveAndPlay repeats the actions of examples, and has none"
                + (f" for row {lacking[0]}" if len(prompts) > 1 else "")
                + ": pass `trajectory` or `trajectories`"
            )
        batch = prompt_batch([Prompt(trajectories=prompt.trajectories) for prompt in prompts], self, None)
        places = StepPlaces.of(batch.lengths, batch.actions.shape[1])
        with th.no_grad():
            features = self._features(batch.observations).unflatten(0, batch.actions.shape[:2])
            mean, scale = self._statistics(features, places.is_step)
            bank = _Bank(example_keys((features - mean) / scale, places.is_step), batch.actions, mean, scale)
        self._known = prompts, bank
        return bank

    def _statistics(self, features: th.Tensor, is_step: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        if self.normaliser is not None:
            return self.normaliser.mean.expand(1, 1, -1), self.normaliser.scale.expand(1, 1, -1)
        weights = (is_step / is_step.sum(dim=1, keepdim=True)).unsqueeze(-1)  # (M, S, 1)
        mean = (features * weights).sum(dim=1, keepdim=True)
        deviation = ((features - mean).square() * weights).sum(dim=1, keepdim=True).sqrt()
        return mean, th.where(deviation > _LEAST_DEVIATION, deviation, th.inf)

    def _features(self, observations: PyTorchObs) -> th.Tensor:
        assert self.features_extractor is not None  # made in the constructor
        return self.extract_features(observations, self.features_extractor)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        raise NotImplementedError("RetrieveAndPlay acts with examples: use `predict`")
