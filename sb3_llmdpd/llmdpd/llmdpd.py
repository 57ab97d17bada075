"""`LLMDPD`, LLM-Driven Policy Diffusion as a Stable-Baselines3 algorithm."""

from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule

from sb3_llmdpd.data.images import channels_first_space
from sb3_llmdpd.data.loading import DatasetLike
from sb3_llmdpd.envs.dataset_env import DatasetEnv, check_readable, refuse_vec_normalize
from sb3_llmdpd.envs.task_text_wrapper import plain_observation_space
from sb3_llmdpd.llmdpd.actor import PromptedDiffusionActor
from sb3_llmdpd.llmdpd.arguments import check_arguments
from sb3_llmdpd.llmdpd.critic import PromptedCritic
from sb3_llmdpd.llmdpd.gradient_step import GradientSteps
from sb3_llmdpd.llmdpd.policies import CnnPolicy, LLMDPDPolicy, MlpPolicy, MultiInputPolicy
from sb3_llmdpd.llmdpd.prompter import Prompter
from sb3_llmdpd.llmdpd.saving import SavedWithoutPickle
from sb3_llmdpd.llmdpd.training_data import read_dataset
from sb3_llmdpd.prompts.prompt import PROMPT_WINDOW
from sb3_llmdpd.prompts.text_encoders import make_text_encoder
from sb3_llmdpd.prompts.text_table import TextTable
from sb3_llmdpd.replay.buffer import PromptReplayBuffer


class LLMDPD(GradientSteps, SavedWithoutPickle):
    r"""Offline reinforcement learning of one policy for many tasks, prompted with a sentence and an example trajectory.

    Paper: https://arxiv.org/abs/2509.00347 (LLMDPD), on top of https://arxiv.org/abs/2208.06193 (Diffusion-QL).
    With z the encoded prompt of a transition's task and a' drawn from the averaged (EMA) actor, a step minimises

    .. math::
        L_Q = \sum_j (Q_j(s, a, z) - r - \gamma (1 - d) \min_i Q'_i(s', a', z))^2 \\
        L_\pi = \lVert \epsilon - \epsilon_\theta(a^k, k, s, z) \rVert^2
        - \eta \, Q(s, \pi_\theta(s, z), z) / \mathbb{E} |Q|

    One timestep of `learn` is one gradient step: SB3's ``eval_freq``, ``save_freq`` and ``log_interval`` count them.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, or a class.
    :param env: an environment of the data's spaces, for callbacks that evaluate; training never steps it.
    :param dataset: Minari ids or other names of sources (one or several, see `format_of`), `Episode`s, an `OfflineDataset`,
        or a `PromptReplayBuffer`, whose own settings then go before those given here.
    :param learning_rate: of actor and encoders; a float, or a function of the progress remaining (`CosineSchedule`).
    :param critic_learning_rate: of the critic; None for the same.
    :param batch_size: transitions in a gradient step, a multiple of ``prompts_per_batch``.
    :param q_batch_size: how many of them the critic and the Q term see, a multiple of ``prompts_per_batch``; None for all.
        These cost several times what behaviour cloning does.
    :param prompts_per_batch: M, prompts in a batch, each for batch_size / M transitions; one each of as many tasks.
    :param gamma: discount.
    :param tau: how far the critic's target moves towards the critic in a step.
    :param ema_decay: what the averaged actor keeps of itself in a step; ramps up from 0, as (1 + n) / (10 + n).
    :param eta: weight of the Q term in the actor's loss; 0 is behaviour cloning, which trains no critic.
    :param policy_objective: ``"diffusion_ql"``: the Q term sees actions sampled through the whole chain.
        ``"action_approximation"``: it sees the one-step estimate of EDP (https://arxiv.org/abs/2305.20081), which
        costs less.
    :param critic_objective: ``"td"``: the critic's target asks the averaged actor for the next action, as above.
        ``"expectile"``: it asks V, the ``expectile`` of Q over the data's own actions, as in IQL
        (https://arxiv.org/abs/2110.06169): nothing is sampled for the critic, or asked that the data do not answer.
    :param expectile: of V, in (0, 1): 0.5 is the mean over the data's actions, towards 1 their best.
    :param max_grad_norm: gradients of actor and critic are clipped to this norm.
    :param text_dropout: share of the prompts whose sentence is replaced by the learned null; 1 trains without text.
    :param trajectory_dropout: the same for the example trajectory, independently.
    :param pair_dropout: of the prompts that still have both, the share that loses its sentence, too: what a sentence says of
        known tasks is no help in a new one, and an example has to be followed without it.
    :param prompt_noise: standard deviation of the noise on the prompt vectors (whose entries have unit variance) while the
        actor trains, so that a neighbourhood of each training prompt means its task, and not one point.
    :param text_encoder: name of the frozen language model (see `make_text_encoder`); None for a model without text.
    :param same_goal: examples come from episodes of the same goal (needed where the goal is hidden).
    :param reward_scale: ``"per_task"`` or ``"none"``, see `PromptReplayBuffer`.
    :param return_weight: above 0, transitions of better episodes are drawn more often, see `PromptReplayBuffer`; for data of
        mixed quality, where cloning would otherwise clone the bad majority.
    :param n_candidates: actions drawn at `predict`, of which the critic picks one. Above 1 a critic is asked about actions
        that it may never have seen: measure it before use on an unseen task.
    :param candidate_temperature: 0 picks the best candidate, see `LLMDPDPolicy.predict_prompted`.
    :param sampler: how `predict` runs the chain: ``"ddpm"``, as in training; ``"ddim"`` or ``"dpm_solver++"``, which have no
        noise behind the first draw and may take fewer steps, see `make_chain`.
    :param n_sampling_steps: in how many steps; None for all K.
    :param acceleration: ways to train faster that depend on the machine, such as ``{"compile": True}``, see `Acceleration`.
    :param policy_kwargs: arguments of the policy, see `LLMDPDPolicy`.
    :param stats_window_size: kept for SB3's callbacks.
    :param tensorboard_log: folder of the tensorboard log.
    :param verbose: 0 silent, 1 info, 2 debug.
    :param seed: of networks, batches and noise.
    :param device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    :param _init_setup_model: whether to build the networks at once.
    :raises ValueError: on arguments out of range, on spaces that differ between ``env`` and ``dataset``, or with neither.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: LLMDPDPolicy
    replay_buffer: PromptReplayBuffer | None
    actor: PromptedDiffusionActor
    actor_target: PromptedDiffusionActor
    critic: PromptedCritic
    critic_target: PromptedCritic

    def __init__(
        self,
        policy: str | type[LLMDPDPolicy],
        env: GymEnv | str | None = None,
        dataset: DatasetLike | PromptReplayBuffer | None = None,
        learning_rate: float | Schedule = 3e-4,
        critic_learning_rate: float | Schedule | None = None,
        batch_size: int = 256,
        q_batch_size: int | None = None,
        prompts_per_batch: int = 32,
        gamma: float = 0.99,
        tau: float = 0.005,
        ema_decay: float = 0.999,
        eta: float = 1.0,
        policy_objective: str = "diffusion_ql",
        critic_objective: str = "td",
        expectile: float = 0.7,
        max_grad_norm: float = 1.0,
        text_dropout: float = 0.1,
        trajectory_dropout: float = 0.1,
        pair_dropout: float = 0.0,
        prompt_noise: float = 0.0,
        text_encoder: str | None = "minilm",
        same_goal: bool = False,
        reward_scale: str = "per_task",
        return_weight: float = 0.0,
        n_candidates: int = 1,
        candidate_temperature: float = 0.0,
        sampler: str = "ddpm",
        n_sampling_steps: int | None = None,
        acceleration: dict[str, Any] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        check_arguments(locals())
        self.critic_learning_rate = critic_learning_rate
        self.q_batch_size = q_batch_size
        self.prompts_per_batch = prompts_per_batch
        self.ema_decay = ema_decay
        self.eta = eta
        self.policy_objective = policy_objective
        self.critic_objective = critic_objective
        self.expectile = expectile
        self.max_grad_norm = max_grad_norm
        self.text_dropout = text_dropout
        self.trajectory_dropout = trajectory_dropout
        self.pair_dropout = pair_dropout
        self.prompt_noise = prompt_noise
        self.text_encoder = text_encoder
        self.same_goal = same_goal
        self.reward_scale = reward_scale
        self.return_weight = return_weight
        self.n_candidates = n_candidates
        self.candidate_temperature = candidate_temperature
        self.sampler = sampler
        self.n_sampling_steps = n_sampling_steps
        self.acceleration = acceleration
        policy_kwargs = dict(policy_kwargs or {})
        self.text_table: TextTable | None = None
        data = None if dataset is None else read_dataset(dataset)
        if env is None and data is not None:
            env = DatasetEnv(channels_first_space(data.observation_space), data.action_space)
        if env is None:
            raise ValueError(
                "LLMDPD needs to know the spaces: pass `dataset` (Minari ids, episodes or a buffer) or `env`,"
                " or use LLMDPD.load(path)"
            )
        super().__init__(
            self.policy_aliases.get(policy, policy),  # type: ignore[arg-type]  # SB3 would hold a name against a wrapped `env`
            env,
            learning_rate,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            sde_support=False,
            supported_action_spaces=(spaces.Box,),
        )
        refuse_vec_normalize(self.env)
        stated = env if isinstance(env, DatasetEnv) else data
        if stated is None or channels_first_space(stated.observation_space) != self.observation_space:
            self.observation_space = plain_observation_space(self.observation_space)
        check_readable(self.observation_space, self.action_space)  # type: ignore[arg-type]  # a Box: see above
        if isinstance(self.observation_space, spaces.Dict) and policy in ("MlpPolicy", "CnnPolicy"):
            raise ValueError(
                f"You must use `MultiInputPolicy` when working with dict observation space, not {policy}"
            )
        self.policy_kwargs = policy_kwargs  # OffPolicyAlgorithm adds `use_sde` to its own copy
        self.stats_window_size = stats_window_size
        if data is not None:
            self.replay_buffer = self._make_buffer(data, policy_kwargs.get("prompt_window", PROMPT_WINDOW))
        if _init_setup_model:
            self._setup_model()

    # Set-up -------------------------------------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        """Build networks and generators. Not SB3's own, which would allocate an empty buffer of a million rows."""
        self._setup_schedules()
        self.generator = th.Generator(self.device)
        """Of everything random in training but the batches: noise, diffusion steps, prompt dropout."""
        self.action_generator = th.Generator(self.device)
        """Of the noise in `predict`, apart so that acting changes nothing in training."""
        self.set_random_seed(self.seed)
        self.policy = self._make_policy().to(self.device)
        self.policy.actor.diffusion.chain(
            self.sampler, self.n_sampling_steps
        )  # which refuses one that cannot be
        self._create_aliases()
        self._prepare_steps()
        if self.replay_buffer is not None:
            self._attach(self.replay_buffer)

    def _setup_schedules(self) -> None:
        self._setup_lr_schedule()
        critic_rate = self.learning_rate if self.critic_learning_rate is None else self.critic_learning_rate
        self.critic_lr_schedule = FloatSchedule(critic_rate)

    def _make_policy(self) -> LLMDPDPolicy:
        if self.text_encoder is not None and "text_dim" not in self.policy_kwargs:
            encoder = make_text_encoder(self.text_encoder) if self.text_table is None else self.text_table
            self.policy_kwargs["text_dim"] = encoder.dim
        if self.critic_objective == "expectile":
            self.policy_kwargs["state_value"] = True
        return self.policy_class(  # type: ignore[return-value]
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            critic_lr_schedule=self.critic_lr_schedule,
            **self.policy_kwargs,
        )

    def _create_aliases(self) -> None:
        self.actor, self.actor_target = self.policy.actor, self.policy.actor_target
        self.critic, self.critic_target = self.policy.critic, self.policy.critic_target
        self.state_value = self.policy.state_value
        self.prompter = Prompter(self.policy, self.text_table)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed networks, batches and noise.

        :param seed: None for entropy of the system.
        """
        super().set_random_seed(seed)
        for offset, generator in enumerate((self.generator, self.action_generator)):
            if seed is None:
                generator.seed()
            else:
                generator.manual_seed(seed + offset)
        if self.replay_buffer is not None and seed is not None:
            self.replay_buffer.seed(seed)
