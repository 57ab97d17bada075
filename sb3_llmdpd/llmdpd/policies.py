"""`LLMDPDPolicy`, which owns every network of the algorithm, their targets and optimisers."""

from dataclasses import dataclass
from inspect import signature
from typing import Any, Self

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, get_actor_critic_arch
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_llmdpd.checkpoint.container import Tensors
from sb3_llmdpd.checkpoint.networks import SavedNetwork, arguments_of, stand_ins
from sb3_llmdpd.data.spaces import actions_in_space
from sb3_llmdpd.llmdpd.actor import PromptedActor, count_rows, zeros_of
from sb3_llmdpd.llmdpd.arguments import check_policy_arguments
from sb3_llmdpd.llmdpd.critic import PromptedCritic, PromptedStateValue, choose
from sb3_llmdpd.networks.features import check_images, features_extractor_named
from sb3_llmdpd.networks.layers import FLOAT, Mish
from sb3_llmdpd.prompts.prompt import PROMPT_WINDOW
from sb3_llmdpd.type_aliases import PromptBatch, PromptEncoding, TensorObs


@dataclass
class Acting:
    """Settings of how a policy acts, which the model that owns it shares.

    :param n_candidates: actions drawn per row, of which the critic picks one.
    :param candidate_temperature: 0 picks the best; above, one is drawn from the softmax of the values,
        standardised over the candidates, divided by it. A deterministic action is always of the best.
    :param sampler: way to run the chain; None for the actor's own, see `DiffusionProcess` and `FlowProcess`.
    :param n_sampling_steps: steps that it takes; None for all K of a diffusion, and one of a flow.
    :param text_beside_example: likeness to a known sentence at which an unknown one counts beside an example.
    """

    n_candidates: int = 1
    candidate_temperature: float = 0.0
    sampler: str | None = None
    n_sampling_steps: int | None = None
    text_beside_example: float = -1.0


class LLMDPDPolicy(SavedNetwork, BasePolicy):
    """Actor, critic, their targets and optimisers.

    `actor_target` is the exponential moving average of `actor`. It acts, it draws the actions of the critic's
    targets, and the critic reads its encodings.

    :param observation_space: Box, Dict, Discrete ... as SB3 preprocesses them.
    :param action_space: finite Box.
    :param lr_schedule: learning rate of the actor, as a function of the progress remaining.
    :param critic_lr_schedule: learning rate of the critic; the actor's by default.
    :param net_arch: widths of the hidden layers, or ``dict(pi=..., qf=...)``.
    :param activation_fn: activation of actor and critic; Diffusion-QL's Mish by default.
    :param layer_norm: put a layer norm before each activation.
    :param features_extractor_class: a class, or a name in `sb3_llmdpd.networks.features.FEATURES_EXTRACTORS`.
        The input of one that learns is standardised, and the output of one that does not.
    :param features_extractor_kwargs: arguments of the extractor beside the observation space.
    :param normalize_images: divide uint8 images by 255.
    :param optimizer_class: class of both optimisers.
    :param optimizer_kwargs: arguments of the optimisers beside the learning rate; by default ``fused=True``
        for Adam.
    :param n_critics: size of the Q ensemble.
    :param state_value: whether there is a V beside the Q ensemble, for the expectile critic.
    :param conditioning: ``"concat"``: state and pooled prompt vectors side by side. ``"cross_attention"``:
        beside them, the current state attends to the encoded steps of the example. ``"nearest_steps"``:
        beside an example, the state is only seen as its difference to the nearest of the example's steps, see
        `sb3_llmdpd.networks.attention.NearestSteps`; without a transformer or a vector of the whole example.
        ``"retrieval"``: the same from the nearest of all steps of all examples, and the action of the nearest
        one as it is.
    :param actor: ``"ddpm"``: a diffusion over the action, which acts in K steps. ``"one_step_flow"``: a flow,
        which acts in one, see `sb3_llmdpd.diffusion.flow.FlowProcess`.
    :param n_diffusion_steps: K, steps of the diffusion chain; a flow takes neither this nor a schedule.
    :param noise_schedule: noise level of the steps: ``"vp"``, ``"linear"`` or ``"cosine"``.
    :param step_distribution: distribution of the steps that cloning learns at: ``"uniform"``, or
        ``"signal"``, mostly those that decide the action, see
        `sb3_llmdpd.diffusion.process.DiffusionProcess`. A flow draws its times evenly.
    :param text_dim: size of the text encoder's vectors; 0 for a model without text.
    :param prompt_window: L, steps of an example that are read, spread over it; with retrieval in training
        alone, and in use all.
    :param text_embedding_dim: size of the text's share of a prompt vector.
    :param trajectory_embedding_dim: size of the trajectory's share of a prompt vector.
    :param token_dim: width of the trajectory transformer.
    :param n_encoder_layers: layers of the trajectory transformer.
    :param n_heads: heads of the trajectory transformer and of the cross-attention.
    :param n_text_layers: layers that read the sentence's vector; 1 is a linear map.
    :raises ValueError: on an unknown conditioning, actor, schedule, distribution or extractor name, on sizes
        below one, or a ``token_dim`` that ``n_heads`` does not divide.
    """

    action_space: spaces.Box
    actor: PromptedActor
    actor_target: PromptedActor
    critic: PromptedCritic
    critic_target: PromptedCritic
    state_value: PromptedStateValue | None
    default_features_extractor: str = "flatten"

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        critic_lr_schedule: Schedule | None = None,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = Mish,
        layer_norm: bool = True,
        features_extractor_class: str | type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int = 2,
        state_value: bool = False,
        conditioning: str = "retrieval",
        actor: str = "ddpm",
        n_diffusion_steps: int = 5,
        noise_schedule: str = "vp",
        step_distribution: str = "signal",
        text_dim: int = 0,
        prompt_window: int = PROMPT_WINDOW,
        text_embedding_dim: int = 64,
        trajectory_embedding_dim: int = 64,
        token_dim: int = 64,
        n_encoder_layers: int = 2,
        n_heads: int = 4,
        n_text_layers: int = 2,
    ) -> None:
        self._arguments = arguments_of(locals(), "lr_schedule", "critic_lr_schedule")
        self.acting = Acting()
        check_policy_arguments(self._arguments)
        if actor == "one_step_flow":
            _refuse_diffusion(n_diffusion_steps, noise_schedule)
        extractor = features_extractor_named(features_extractor_class or self.default_features_extractor)
        check_images(extractor, observation_space, normalize_images)
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class=extractor,
            features_extractor_kwargs=features_extractor_kwargs,
            optimizer_class=optimizer_class,
            # One kernel for all parameters, instead of several for each.
            optimizer_kwargs=dict(
                optimizer_kwargs or ({"fused": True} if optimizer_class is th.optim.Adam else {})
            ),
            squash_output=True,
            normalize_images=normalize_images,
        )
        arguments = {
            **self._arguments,
            "features_extractor_class": self.features_extractor_class,
            "features_extractor_kwargs": self.features_extractor_kwargs,
        }
        if conditioning in ("nearest_steps", "retrieval"):
            # A vector of the whole example tells which of the known tasks it is most like, and would be
            # learned by heart.
            arguments["trajectory_embedding_dim"] = 0
        self.net_arch = net_arch if net_arch is not None else [256, 256, 256]
        """Widths of the hidden layers, as they were given or by default."""
        actor_arch, critic_arch = get_actor_critic_arch(self.net_arch)
        of_actor = signature(PromptedActor).parameters
        self._actor_kwargs: dict[str, Any] = {name: arguments[name] for name in of_actor}
        self._actor_kwargs["net_arch"] = actor_arch
        of_critic = ("activation_fn", "layer_norm", "conditioning", "token_dim", "n_heads")
        self._critic_kwargs: dict[str, Any] = {name: arguments[name] for name in of_critic}
        self._critic_kwargs["net_arch"] = critic_arch
        self._critic_kwargs["prompt_dim"] = text_embedding_dim + arguments["trajectory_embedding_dim"]
        self.n_critics = n_critics
        self._has_state_value = state_value
        self.prompt_window = prompt_window
        self.reads_all_steps = conditioning == "retrieval"
        self.text_dim = text_dim
        self._build(lr_schedule, critic_lr_schedule or lr_schedule)

    def _build(self, lr_schedule: Schedule, critic_lr_schedule: Schedule) -> None:
        self.actor, self.actor_target = self.make_actor(), self.make_actor()
        self.actor_target.load_state_dict(self.actor.state_dict())
        features_dim = self.actor.features_extractor.features_dim
        self.critic, self.critic_target = self.make_critic(features_dim), self.make_critic(features_dim)
        self.critic_target.load_state_dict(self.critic.state_dict())
        # Last, so that a model with V begins with the weights that one without it has.
        self.state_value = self.make_state_value(features_dim) if self._has_state_value else None
        critics = [self.critic, *([] if self.state_value is None else [self.state_value])]
        for network, trained, schedule in (
            (self.actor, [self.actor], lr_schedule),
            (self.critic, critics, critic_lr_schedule),
        ):
            parameters = [parameter for module in trained for parameter in module.parameters()]
            kwargs: dict[str, Any] = {"lr": schedule(1), **self.optimizer_kwargs}
            network.optimizer = self.optimizer_class(parameters, **kwargs)
        for target in (self.actor_target, self.critic_target):
            target.set_training_mode(False)
            target.requires_grad_(False)

    @property
    def device(self) -> th.device:
        """Device of the networks; SB3's own walks through all modules, at each action."""
        return self.actor_target.feature_normaliser.mean.device

    def make_actor(self) -> PromptedActor:
        """Make an actor, on the CPU, with a features extractor of its own."""
        return PromptedActor(**self._actor_kwargs)

    def make_critic(self, features_dim: int) -> PromptedCritic:
        """Make a critic.

        :param features_dim: size of the actor's features.
        :return: the critic, on the CPU.
        """
        kwargs = dict(features_dim=features_dim, n_critics=self.n_critics, **self._critic_kwargs)
        return PromptedCritic(self.observation_space, self.action_space, **kwargs)

    def make_state_value(self, features_dim: int) -> PromptedStateValue:
        """Make a V, shaped as the critic.

        :param features_dim: size of the actor's features.
        :return: V, on the CPU.
        """
        action_dim = int(np.prod(self.action_space.shape))
        return PromptedStateValue(features_dim=features_dim, action_dim=action_dim, **self._critic_kwargs)

    def fit_normalisers(self, observations: TensorObs, text_vectors: th.Tensor) -> None:
        """Fit the statistics that standardise observations and texts, from training data only.

        A features extractor that learns has no statistics of its output yet: its input is standardised.

        :param observations: (n, *obs_shape), environment units.
        :param text_vectors: (n_texts, text_dim); may be empty.
        """
        extractor = self.actor.features_extractor
        assert extractor is not None
        with th.no_grad():
            for actor in (self.actor, self.actor_target):
                if actor.observation_normaliser is not None:
                    actor.observation_normaliser.fit(observations)
                else:
                    actor.feature_normaliser.fit(actor.extract_features(observations, extractor))
                if len(text_vectors) > 1 and self.text_dim > 0:
                    actor.text_normaliser.fit(text_vectors)

    def set_training_mode(self, mode: bool) -> None:
        """Switch actor and critic between training and evaluation; the targets always evaluate.

        :param mode: True to train.
        """
        self.actor.set_training_mode(mode)
        self.critic.set_training_mode(mode)
        self.training = mode

    def set_prompts(self, prompts: PromptBatch | None) -> None:
        """See `PromptedActor.set_prompts`."""
        for actor in (self.actor, self.actor_target):
            actor.set_prompts(prompts)

    @th.inference_mode()
    def predict_prompted(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        prompts: PromptEncoding,
        noise: th.Generator | None,
    ) -> np.ndarray:
        """Act on observations under given prompts, as `acting` says.

        :param observation: (*obs_shape), or (n, *obs_shape), environment units.
        :param prompts: one for all rows, or one per row, encoded by the EMA actor.
        :param noise: source of the chain's noise; None for the deterministic action of each row.
        :return: (action_shape) or (n, *action_shape), environment units.
        :raises ValueError: when there are neither one prompt nor one per row, no such chain, or an action is
            not finite.
        """
        tensor, vectorized = self.obs_to_tensor(observation)
        actions = self.unscale_action(self._scaled_actions(tensor, prompts, noise).cpu().numpy())
        return actions if vectorized else actions[0]

    def _scaled_actions(
        self, observations: TensorObs, prompts: PromptEncoding, noise: th.Generator | None
    ) -> th.Tensor:
        """Act on (n, *obs_shape); see `predict_prompted`.

        :return: (n, *action_shape), in [-1, 1].
        """
        n_candidates = self.acting.n_candidates
        n_prompts = len(prompts.vectors)
        n_rows = count_rows(observations, n_prompts)
        actor = self.actor_target
        features = actor.encode_observations(observations).unflatten(0, (n_prompts, -1))  # (M, N, F)
        condition = actor.condition(features, prompts)
        if n_candidates > 1:  # all that concerns the state is computed once for its candidates
            condition = condition.repeat_interleave(n_candidates, dim=1)  # (M, N * C, width)
        chain = actor.process.chain(self.acting.sampler, self.acting.n_sampling_steps)
        shape = (len(chain), *condition.shape[:2], actor.denoiser.action_dim)
        if noise is None:
            chain_noise = self._fixed_noise(len(chain), n_candidates).repeat(1, n_rows, 1).view(shape)
        else:
            chain_noise = th.randn(shape, generator=noise, device=self.device, dtype=FLOAT)
        actions = actor.sample(condition, chain_noise, chain)
        if n_candidates > 1:
            values = self.critic_target(features, prompts, actions).min(dim=0).values
            actions = actions.where(values.isfinite().unsqueeze(-1), th.nan)  # no value, no choice
            temperature = self.acting.candidate_temperature if noise is not None else 0.0
            actions = choose(actions, values, n_candidates, temperature, noise)
        return actions.reshape(-1, *self.action_space.shape)

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """Make actions of the environment of those of the networks, see `actions_in_space`.

        :param scaled_action: (..., *action_shape), in [-1, 1].
        """
        return actions_in_space(scaled_action, self.action_space)

    def _fixed_noise(self, n_steps: int, n_candidates: int) -> th.Tensor:
        """Noise of every row's candidates, (n_steps, C, action_dim): zeros for the first, a fixed draw for
        the others.
        """
        actor = self.actor_target
        size = (max(n_steps, actor.process.n_steps), n_candidates, actor.denoiser.action_dim)
        noise = th.randn(size, generator=th.Generator().manual_seed(0), dtype=FLOAT)
        noise[:, 0] = 0.0
        return noise[:n_steps].to(self.device)

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """Act on the prompts of `set_prompts`.

        :param observation: (n, *obs_shape), environment units.
        :param deterministic: True for the chain without noise.
        :return: (n, *action_shape), in [-1, 1].
        """
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        noise = None if deterministic else _torchs(self.device)
        return self._scaled_actions(observation, self.actor_target.shown_prompts(), noise)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**self._arguments, "lr_schedule": self._dummy_schedule}

    def outputs_on_zeros(self) -> dict[str, th.Tensor]:
        """Act without noise, and value the action, see `SavedNetwork.outputs_on_zeros`."""
        actor = self.actor_target
        outputs = actor.outputs_on_zeros()
        actions, observation = outputs["its actions"], zeros_of(self.observation_space, self.device)
        features = actor.encode_observations(observation).unsqueeze(0)
        return {**outputs, "its values": self.critic_target(features, actor.null_prompt(), actions)}

    @classmethod
    def _remade(cls, arguments: dict[str, Any]) -> Self:
        return cls(lr_schedule=cls._dummy_schedule, **arguments)

    @classmethod
    def _measured(cls, arguments: dict[str, Any], weights: Tensors) -> nn.Module:
        return cls._remade(stand_ins(arguments, weights, "actor."))


class CnnPolicy(LLMDPDPolicy):
    """For image observations."""

    default_features_extractor = "nature_cnn"


class MultiInputPolicy(LLMDPDPolicy):
    """For Dict observations."""

    default_features_extractor = "combined"


MlpPolicy = LLMDPDPolicy


def _refuse_diffusion(*values: Any) -> None:
    """Refuse settings of a diffusion for an actor that has none."""
    defaults = signature(LLMDPDPolicy).parameters
    for name, value in zip(("n_diffusion_steps", "noise_schedule"), values, strict=True):
        if value != defaults[name].default:
            raise ValueError(
                f"`{name}` is a setting of actor='ddpm', and 'one_step_flow' has none: leave it out"
            )


def _torchs(device: th.device) -> th.Generator:
    """Return PyTorch's own generator of a device."""
    return th.default_generator if device.type == "cpu" else th.cuda.default_generators[device.index or 0]
