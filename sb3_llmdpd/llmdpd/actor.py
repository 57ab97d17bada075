"""The prompted actor: encoders, normalisers, and a generative model over one action."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_llmdpd.checkpoint.container import Tensors
from sb3_llmdpd.checkpoint.networks import SavedNetwork, arguments_of, stand_ins
from sb3_llmdpd.data.spaces import actions_in_space
from sb3_llmdpd.diffusion.flow import N_TIMES, FlowProcess
from sb3_llmdpd.diffusion.process import DiffusionProcess
from sb3_llmdpd.llmdpd.arguments import check_policy_arguments
from sb3_llmdpd.networks.attention import make_state_reader
from sb3_llmdpd.networks.features import is_fixed_function
from sb3_llmdpd.networks.layers import AverageVelocity, Denoiser, Normaliser, ObservationNormaliser
from sb3_llmdpd.prompts.prompt_encoder import PromptEncoder
from sb3_llmdpd.type_aliases import PromptBatch, PromptEncoding, TensorObs

Process = DiffusionProcess | FlowProcess
"""Way from noise to actions."""


class PromptedActor(SavedNetwork, BasePolicy):
    """Encoders, normalisers, and a generative model pi(a | s, text, trajectory) over one action in [-1, 1].

    The model is a process from noise to actions, and the network that takes the noise out in it: a diffusion
    process with its noise predictor, or a flow with its average velocity.

    One features extractor reads the transition's observation and the example's observations alike. Statistics
    of the training data standardise its features if it has nothing to learn, and its inputs if it learns.

    The parameters are documented at `LLMDPDPolicy`.
    """

    action_space: spaces.Box
    features_extractor: BaseFeaturesExtractor
    _prompts: PromptBatch | None = None

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor_class: type[BaseFeaturesExtractor],
        features_extractor_kwargs: dict[str, Any] | None,
        activation_fn: type[nn.Module],
        layer_norm: bool,
        normalize_images: bool,
        conditioning: str,
        n_diffusion_steps: int,
        noise_schedule: str,
        step_distribution: str,
        text_dim: int,
        prompt_window: int,
        text_embedding_dim: int,
        trajectory_embedding_dim: int,
        token_dim: int,
        n_encoder_layers: int,
        n_heads: int,
        n_text_layers: int,
        actor: str = "ddpm",  # which files of before do not say
    ) -> None:
        self._arguments = arguments_of(locals())
        # Where an example's steps are read one by one, there is no vector of it.
        of_policy = {"trajectory_embedding_dim": trajectory_embedding_dim or 1}
        check_policy_arguments({**self._arguments, **of_policy})
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs=dict(features_extractor_kwargs or {}),
            normalize_images=normalize_images,
            squash_output=True,
        )
        self.features_extractor = self.make_features_extractor()
        features_dim = self.features_extractor.features_dim
        # Features that are learned have no statistics yet: then the input is standardised.
        learns = not is_fixed_function(self.features_extractor)
        self.observation_normaliser = ObservationNormaliser(observation_space) if learns else None
        action_dim = int(np.prod(action_space.shape))
        self.feature_normaliser, self.text_normaliser = Normaliser(features_dim), Normaliser(text_dim)
        self.prompt_encoder = PromptEncoder(
            text_dim,
            features_dim,
            action_dim,
            prompt_window,
            text_embedding_dim,
            trajectory_embedding_dim,
            token_dim,
            n_encoder_layers,
            n_heads,
            n_text_layers,
        )
        self.attention = make_state_reader(conditioning, features_dim, action_dim, token_dim, n_heads)
        sizes = action_dim, self.attention.output_dim, self.prompt_encoder.vector_dim
        shape = net_arch, activation_fn, layer_norm
        if actor == "one_step_flow":
            self.process: Process = FlowProcess()
            self.denoiser: Denoiser = AverageVelocity(*sizes, N_TIMES + 1, *shape)
        else:
            self.process = DiffusionProcess(n_diffusion_steps, noise_schedule, step_distribution)
            self.denoiser = Denoiser(*sizes, n_diffusion_steps, *shape)

    def encode_observations(self, observations: TensorObs) -> th.Tensor:
        """Compute features of observations.

        :param observations: (B, *obs_shape), environment units
        :return: (B, features_dim), standardised
        """
        assert self.features_extractor is not None  # made in the constructor
        if self.observation_normaliser is not None:
            observations = self.observation_normaliser(observations)
        return self.feature_normaliser(self.extract_features(observations, self.features_extractor))

    def encode_prompts(self, prompts: PromptBatch) -> PromptEncoding:
        """Encode M prompts, once for all the transitions or steps that they condition.

        :param prompts: M prompts
        :return: vectors and tokens of the prompts
        """
        n_prompts, n_steps = prompts.actions.shape[:2]
        if n_steps:
            rows = self.encode_observations(prompts.observations)
            features = rows.unflatten(0, (n_prompts, n_steps))  # (M, S, F)
        else:
            features = prompts.actions.new_zeros(n_prompts, 0, len(self.feature_normaliser.mean))
        if prompts.text_vectors.shape[1]:
            prompts = prompts._replace(text_vectors=self.text_normaliser(prompts.text_vectors))
        return self.prompt_encoder(prompts, features)

    def encodes_prompts(self) -> list[th.Tensor]:
        """List the parameters and buffers that decide what `encode_prompts` gives."""
        parts = (self.features_extractor, self.observation_normaliser, self.feature_normaliser)
        modules = [*parts, self.text_normaliser, self.prompt_encoder]
        return [
            tensor
            for module in modules
            if module is not None
            for tensor in (*module.parameters(), *module.buffers())
        ]

    def condition(self, features: th.Tensor, prompts: PromptEncoding) -> th.Tensor:
        """Join state and prompt into the condition of the denoiser, the same for all steps of a chain.

        :param features: (M, N, features_dim)
        :param prompts: M encoded prompts
        :return: (M, N, width)
        """
        state = self.attention.project(self.denoiser.from_state, features, prompts)
        return self.denoiser.condition(state, prompts.vectors)

    def cloning_loss(
        self, condition: th.Tensor, actions: th.Tensor, noise: th.Tensor, times: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor | None]:
        """Compute the loss that teaches the data's actions, as the process says.

        :param condition: (M, N, width), from `condition`
        :param actions: (M, N, action_dim), of the data, in [-1, 1]
        :param noise: (M, N, action_dim), standard normal
        :param times: (M, N, ...), from the process's ``draw_times``
        :return: scalar; and the actions (M, N, action_dim) that the process estimates beside it, or None
        """
        rows, *others = (tensor.flatten(0, 1) for tensor in (condition, actions, noise, times))
        loss, estimated = self.process.cloning_loss(lambda part: self.denoiser.given(rows[part]), *others)
        return loss, None if estimated is None else estimated.view_as(actions)

    def sample(self, condition: th.Tensor, noise: th.Tensor, chain: Sequence[Any] | None = None) -> th.Tensor:
        """Run the chain from noise to actions.

        :param condition: (M, N, width), from `condition`
        :param noise: (S, M, N, action_dim), see `DiffusionProcess.sample`
        :param chain: S steps of the process's ``chain``; its own by default
        :return: (M, N, action_dim), in [-1, 1]
        """
        return self.process.sample(self.denoiser.given(condition), noise, chain)

    def forward(
        self,
        observations: TensorObs,
        prompts: PromptEncoding,
        noise: th.Tensor,
        chain: Sequence[Any] | None = None,
    ) -> th.Tensor:
        """Act on observations that are ordered prompt after prompt.

        :param observations: (M * N, *obs_shape), environment units
        :param prompts: M encoded prompts
        :param noise: (S, M, N, action_dim)
        :param chain: steps as in `sample`
        :return: (M, N, action_dim), in [-1, 1]
        """
        features = self.encode_observations(observations).unflatten(0, (len(prompts.vectors), -1))
        return self.sample(self.condition(features, prompts), noise, chain)

    def set_prompts(self, prompts: PromptBatch | None) -> None:
        """Set the prompts that SB3's own `predict` conditions on: one for all rows, or one per row.

        :param prompts: prompts before encoding, since the encoders may go on learning; None to have none
        """
        self._prompts = prompts

    def shown_prompts(self) -> PromptEncoding:
        """Encode the prompts of `set_prompts`.

        :raises ValueError: when none are set
        """
        if self._prompts is None:
            raise ValueError(
                "the policy has no prompt: use model.predict(..., task_text=...),"
                " or model.set_task(...) first"
            )
        return self.encode_prompts(self._prompts)

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """Make actions of the environment of those of the network, see `actions_in_space`.

        :param scaled_action: (..., *action_shape), in [-1, 1]
        """
        return actions_in_space(scaled_action, self.action_space)

    def null_prompt(self) -> PromptEncoding:
        """Encode a prompt that has neither a sentence nor an example."""
        nothing = th.zeros(1, 0, self.denoiser.action_dim, device=self.device)
        is_there = th.zeros(1, dtype=th.bool, device=self.device)
        lengths = th.zeros(1, 0, dtype=th.int64, device=self.device)
        return self.encode_prompts(
            PromptBatch(lengths.float(), is_there, nothing, nothing, lengths, is_there)
        )

    def outputs_on_zeros(self) -> dict[str, th.Tensor]:
        """Act without noise, see `SavedNetwork.outputs_on_zeros`."""
        space = self.action_space
        noise = th.zeros(self.process.n_steps, 1, 1, self.denoiser.action_dim, device=self.device)
        high, low = (th.as_tensor(bound.astype(np.float32)) for bound in (space.high, space.low))
        actions = self(zeros_of(self.observation_space, self.device), self.null_prompt(), noise)
        return {"its actions": actions, "the ranges of its actions": high - low}

    @classmethod
    def _measured(cls, arguments: dict[str, Any], weights: Tensors) -> nn.Module:
        return cls._remade(stand_ins(arguments, weights))

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        prompts = self.shown_prompts()
        n_prompts = len(prompts.vectors)
        n_rows = count_rows(observation, n_prompts)
        shape = (self.process.n_steps, n_prompts, n_rows // n_prompts, self.denoiser.action_dim)
        noise = th.zeros(shape, device=self.device) if deterministic else th.randn(shape, device=self.device)
        return self(observation, prompts, noise).reshape(n_rows, *self.action_space.shape)


def zeros_of(space: spaces.Space[Any], device: th.device) -> TensorObs:
    """Make an observation of zeros.

    :param space: space of observations.
    :param device: device of the tensors.
    :return: (1, *obs_shape), or a dict of such tensors.
    """
    if isinstance(space, spaces.Dict):
        return {key: zeros_of(part, device) for key, part in space.spaces.items()}  # type: ignore[misc]
    return th.as_tensor(np.zeros((1, *space.shape), space.dtype), device=device)  # type: ignore[misc]


def count_rows(observations: TensorObs, n_prompts: int) -> int:
    """Count observations, whose number must fit that of the prompts.

    :param observations: (n, *obs_shape), or a dict of such tensors
    :param n_prompts: 1, or n
    :return: n
    :raises ValueError: when there are neither one prompt nor one per row
    """
    first = next(iter(observations.values())) if isinstance(observations, dict) else observations
    n_rows = first.shape[0]  # `len` would fix the number of rows of an exported program
    if n_prompts not in (1, n_rows):
        raise ValueError(
            f"Got {n_prompts} prompts for {n_rows} observations: pass one prompt, or one per observation."
        )
    return n_rows
