"""`LLMDPD`, LLM-Driven Policy Diffusion as a Stable-Baselines3 algorithm."""

import time
from typing import Any, ClassVar, Self

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sb3_llmdpd.acting import PromptedActing
from sb3_llmdpd.actor import PromptedDiffusionActor
from sb3_llmdpd.buffers import PromptReplayBuffer
from sb3_llmdpd.critic import PromptedCritic
from sb3_llmdpd.data.sources import DatasetLike, load_dataset
from sb3_llmdpd.envs import DatasetEnv
from sb3_llmdpd.losses import POLICY_OBJECTIVES, PromptedLosses
from sb3_llmdpd.policies import CnnPolicy, LLMDPDPolicy, MlpPolicy, MultiInputPolicy
from sb3_llmdpd.prompting import Prompter
from sb3_llmdpd.prompts.prompt import PROMPT_WINDOW, Prompt
from sb3_llmdpd.prompts.text_cache import CachedTextEncoder
from sb3_llmdpd.prompts.text_encoders import make_text_encoder
from sb3_llmdpd.prompts.text_table import TextTable
from sb3_llmdpd.saving import SavedWithoutPickle
from sb3_llmdpd.type_aliases import Metrics, PromptBatch

STATISTICS_ROWS = 200_000
"""How many observations the normaliser is fitted to, spread evenly over the data."""


class LLMDPD(PromptedLosses, PromptedActing, SavedWithoutPickle, OffPolicyAlgorithm):
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
    :param dataset: Minari data set ids (one or several), `Episode`s, an `OfflineDataset`, or a `PromptReplayBuffer`,
        whose own settings then go before those given here.
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
    :param max_grad_norm: gradients of actor and critic are clipped to this norm.
    :param text_dropout: share of the prompts whose sentence is replaced by the learned null; 1 trains without text.
    :param trajectory_dropout: the same for the example trajectory, independently.
    :param prompt_noise: standard deviation of the noise on the prompt vectors (whose entries have unit variance) while the
        actor trains, so that a neighbourhood of each training prompt means its task, and not one point.
    :param text_encoder: name of the frozen language model (see `make_text_encoder`); None for a model without text.
    :param same_goal: examples come from episodes of the same goal (needed where the goal is hidden).
    :param reward_scale: ``"per_task"`` or ``"none"``, see `PromptReplayBuffer`.
    :param n_candidates: actions drawn at `predict`, of which the critic picks one. Above 1 a critic is asked about actions
        that it may never have seen: measure it before use on an unseen task.
    :param candidate_temperature: 0 picks the best candidate, see `LLMDPDPolicy.predict_prompted`.
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
        max_grad_norm: float = 1.0,
        text_dropout: float = 0.1,
        trajectory_dropout: float = 0.1,
        prompt_noise: float = 0.0,
        text_encoder: str | None = "minilm",
        same_goal: bool = False,
        reward_scale: str = "per_task",
        n_candidates: int = 1,
        candidate_temperature: float = 0.0,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        self.critic_learning_rate = critic_learning_rate
        self.q_batch_size = q_batch_size
        self.prompts_per_batch = prompts_per_batch
        self.ema_decay = ema_decay
        self.eta = eta
        self.policy_objective = policy_objective
        self.max_grad_norm = max_grad_norm
        self.text_dropout = text_dropout
        self.trajectory_dropout = trajectory_dropout
        self.prompt_noise = prompt_noise
        self.text_encoder = text_encoder
        self.same_goal = same_goal
        self.reward_scale = reward_scale
        self.n_candidates = n_candidates
        self.candidate_temperature = candidate_temperature
        self._check_ranges(batch_size, gamma, tau)
        policy_kwargs = dict(policy_kwargs or {})
        self.text_table: TextTable | None = None
        buffer = None
        if dataset is not None:
            buffer = self._make_buffer(dataset, policy_kwargs.get("prompt_window", PROMPT_WINDOW), seed, device)
            env = env if env is not None else DatasetEnv(buffer.observation_space, buffer.action_space)
        if env is None:
            raise ValueError(
                "LLMDPD needs to know the spaces: pass `dataset` (Minari ids, episodes or a buffer) or `env`,"
                " or use LLMDPD.load(path)"
            )
        super().__init__(
            policy,
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
        if self._vec_normalize_env is not None:
            raise ValueError(
                "`env` is wrapped in VecNormalize, whose statistics only move when it is stepped, which nothing does offline."
                " Drop it: the policy standardises observations with statistics of the data set"
            )
        self.policy_kwargs = policy_kwargs  # OffPolicyAlgorithm adds `use_sde` to its own copy
        self.stats_window_size = stats_window_size
        self.replay_buffer = buffer
        self._only_task: list[Prompt] | None = None
        self._metric_sums: Metrics = {}
        self._metric_steps = 0
        if _init_setup_model:
            self._setup_model()

    def _check_ranges(self, batch_size: int, gamma: float, tau: float) -> None:
        if self.policy_objective not in POLICY_OBJECTIVES:
            raise ValueError(f"`policy_objective` must be one of {POLICY_OBJECTIVES}, got {self.policy_objective!r}")
        shares = dict(gamma=gamma, tau=tau, text_dropout=self.text_dropout, trajectory_dropout=self.trajectory_dropout)
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {value}")
        for name in ("eta", "prompt_noise", "candidate_temperature"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be >= 0, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"`ema_decay` must be in [0, 1), got {self.ema_decay}")
        if not self.max_grad_norm > 0:
            raise ValueError(f"`max_grad_norm` must be > 0 (float('inf') never clips), got {self.max_grad_norm}")
        if self.n_candidates < 1 or (self.n_candidates > 1 and self.eta == 0):
            raise ValueError(
                f"`n_candidates` must be at least 1, and 1 where eta=0 trains no critic to choose, got {self.n_candidates}"
            )
        self._check_batch_sizes(batch_size)

    def _check_batch_sizes(self, batch_size: int) -> None:
        if min(batch_size, self.prompts_per_batch) < 1 or batch_size % min(self.prompts_per_batch, batch_size):
            raise ValueError(
                "`batch_size` and `prompts_per_batch` must be at least 1, and the first a multiple of the second,"
                f" got {batch_size} and {self.prompts_per_batch}"
            )
        q_size = batch_size if self.q_batch_size is None else self.q_batch_size
        if q_size % min(self.prompts_per_batch, batch_size) or not 0 < q_size <= batch_size:
            raise ValueError(
                "`q_batch_size` must be None, or a multiple of `prompts_per_batch` of at most `batch_size`,"
                f" got {self.q_batch_size} with {self.prompts_per_batch} and {batch_size}"
            )

    # Set-up -------------------------------------------------------------------------------------------------------------

    def _make_buffer(
        self, dataset: DatasetLike | PromptReplayBuffer, window: int, seed: int | None, device: th.device | str
    ) -> PromptReplayBuffer:
        if isinstance(dataset, PromptReplayBuffer):
            buffer = dataset
            if buffer.prompt_window != window:
                raise ValueError(
                    f"the buffer's `prompt_window` is {buffer.prompt_window} and the policy's is {window}: make them equal"
                )
            for name in ("prompts_per_batch", "same_goal", "reward_scale"):
                setattr(self, name, getattr(buffer, name))
        else:
            buffer = PromptReplayBuffer(
                load_dataset(dataset),
                device,
                prompts_per_batch=self.prompts_per_batch,
                prompt_window=window,
                same_goal=self.same_goal,
                reward_scale=self.reward_scale,
                seed=seed,
            )
        if self.text_encoder is not None and buffer.texts:
            if self.text_table is None:
                encoder = CachedTextEncoder(make_text_encoder(self.text_encoder))
                self.text_table = TextTable.encode(buffer.texts_by_task, encoder)
            self.text_table = self.text_table.extended(buffer.texts)
            buffer.set_text_vectors(self.text_table.lookup(buffer.texts))
        return buffer

    def _setup_model(self) -> None:
        """Build networks and generators. Not SB3's own, which would allocate an empty buffer of a million rows."""
        self._setup_lr_schedule()
        critic_rate = self.learning_rate if self.critic_learning_rate is None else self.critic_learning_rate
        self.critic_lr_schedule = FloatSchedule(critic_rate)
        self.generator = th.Generator(self.device)
        """Of everything random in training but the batches: noise, diffusion steps, prompt dropout."""
        self.action_generator = th.Generator(self.device)
        """Of the noise in `predict`, apart so that acting changes nothing in training."""
        self.set_random_seed(self.seed)
        if self.text_encoder is not None and "text_dim" not in self.policy_kwargs:
            encoder = make_text_encoder(self.text_encoder) if self.text_table is None else self.text_table
            self.policy_kwargs["text_dim"] = encoder.dim
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            critic_lr_schedule=self.critic_lr_schedule,
            **self.policy_kwargs,
        ).to(self.device)
        self._create_aliases()
        if self.replay_buffer is not None:
            self._attach(self.replay_buffer)

    def _create_aliases(self) -> None:
        self.actor, self.actor_target = self.policy.actor, self.policy.actor_target
        self.critic, self.critic_target = self.policy.critic, self.policy.critic_target
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

    def set_dataset(self, dataset: DatasetLike | PromptReplayBuffer) -> PromptReplayBuffer:
        """Train on other data from now on; the statistics that standardise observations stay those of the first training.

        :param dataset: as in the constructor.
        :return: the new replay buffer.
        :raises ValueError: when its spaces are not the model's.
        """
        buffer = self._make_buffer(dataset, self.policy.prompt_window, self.seed, self.device)
        self._attach(buffer)
        self.replay_buffer = buffer
        return buffer

    def _attach(self, buffer: PromptReplayBuffer) -> None:
        """Fit data and model together: spaces, sentences, statistics, and whether there is more than one task."""
        for kind, of_data, of_model in (
            ("observation", buffer.observation_space, self.observation_space),
            ("action", buffer.action_space, self.action_space),
        ):
            if of_data != of_model:
                raise ValueError(
                    f"the {kind} space of the data is {of_data}, and that of the model (or of `env`) is {of_model}: say what"
                    " the data are, with OfflineDataset.from_episodes(episodes, observation_space, action_space)"
                )
        if self.text_encoder is None or not buffer.texts:
            buffer.set_text_vectors(np.zeros((len(buffer.texts), self.policy.text_dim), np.float32))
        if self._n_updates == 0:
            self.policy.fit_normalisers(buffer.some_observations(STATISTICS_ROWS), buffer.text_vectors)
        self.prompter = Prompter(self.policy, self.text_table)
        tasks = buffer.texts_by_task
        texts = next(iter(tasks.values())) if len(tasks) == 1 and self.text_table is not None else ()
        # A model of one task needs no prompt to act.
        self._only_task = None if len(tasks) > 1 else [Prompt(text=texts[0] if texts else None)]
        self.set_task(prompt=self._task)

    # Training -----------------------------------------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 100,
        tb_log_name: str = "LLMDPD",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train on the data set.

        :param total_timesteps: gradient steps.
        :param callback: SB3 callbacks, called once a gradient step.
        :param log_interval: gradient steps between two lines of the log; None for no log.
        :param tb_log_name: name of the run in tensorboard.
        :param reset_num_timesteps: False to go on counting where the last call ended.
        :param progress_bar: whether to show one.
        :return: the model itself.
        :raises ValueError: when the model has no data set.
        """
        if self.replay_buffer is None:
            raise ValueError(
                "LLMDPD has no data to learn from: pass `dataset` to the constructor or to LLMDPD.load(path, dataset=...)"
            )
        total_timesteps, callback = BaseAlgorithm._setup_learn(
            self, total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        callback.on_training_start(locals(), globals())
        while self.num_timesteps < total_timesteps:
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
            self.train(gradient_steps=1, batch_size=self.batch_size)
            self.num_timesteps += 1
            # Before the callbacks: what one of them saves at this step, or stops, has logged all steps up to it.
            if log_interval is not None and self.num_timesteps % log_interval == 0:
                self.dump_logs()
            callback.update_locals(locals())
            if not callback.on_step():
                break
        callback.on_training_end()
        return self

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """Algorithm 1: the critic's step, the actor's step, the targets.

        :param gradient_steps: how often.
        :param batch_size: transitions in each.
        """
        assert self.replay_buffer is not None  # `learn` has checked
        self.policy.set_training_mode(True)
        self._update_learning_rate([])
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size)
            batch = batch._replace(prompts=self._drop_prompts(batch.prompts))
            metrics: Metrics = {}
            encoded = None
            if self.eta > 0:
                critic_batch = batch.leading((self.q_batch_size or batch_size) // len(batch.prompts.has_text))
                encoded = self.encode_for_critic(critic_batch)
                critic_loss, metrics = self.critic_loss(critic_batch, encoded)
                self._step(self.critic.optimizer, critic_loss)
            actor_loss, actor_metrics = self.actor_loss(batch, encoded)
            self._step(self.actor.optimizer, actor_loss)
            self._n_updates += 1
            self._update_targets()
            self._accumulate({**metrics, **actor_metrics})

    def _drop_prompts(self, prompts: PromptBatch) -> PromptBatch:
        drop = th.rand((2, len(prompts.has_text)), generator=self.generator, device=self.device)
        return prompts.dropped(drop[0] < self.text_dropout, drop[1] < self.trajectory_dropout)

    def _step(self, optimizer: th.optim.Optimizer, loss: th.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        th.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], self.max_grad_norm)
        optimizer.step()

    @th.no_grad()
    def _update_targets(self) -> None:
        decay = min(self.ema_decay, (1 + self._n_updates) / (10 + self._n_updates))
        pairs: list[tuple[nn.Module, nn.Module, float]] = [(self.actor_target, self.actor, decay)]
        if self.eta > 0:
            pairs.append((self.critic_target, self.critic, 1.0 - self.tau))
        for target, network, kept in pairs:
            get_ema_multi_avg_fn(kept)(list(target.parameters()), list(network.parameters()), self._n_updates)
            for statistics, latest in zip(target.buffers(), network.buffers(), strict=True):  # of a batch norm, say
                statistics.copy_(latest)

    def _update_learning_rate(self, optimizers: Any) -> None:
        """Set both learning rates; SB3's own would set one for all.

        :param optimizers: ignored, the policy owns them.
        """
        progress = self._current_progress_remaining
        for name, optimizer, schedule in (
            ("learning_rate", self.actor.optimizer, self.lr_schedule),
            ("critic_learning_rate", self.critic.optimizer, self.critic_lr_schedule),
        ):
            rate = schedule(progress)
            self.logger.record(f"train/{name}", rate)
            for group in optimizer.param_groups:
                group["lr"] = rate

    # Logging ------------------------------------------------------------------------------------------------------------

    def _accumulate(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self._metric_sums[name] = self._metric_sums.get(name, 0.0) + value.detach()
        self._metric_steps += 1

    def dump_logs(self) -> None:
        """Write the means of the metrics since the last line, and how fast training goes."""
        for name, total in self._metric_sums.items():
            self.logger.record(f"train/{name}", total.item() / self._metric_steps)
        self._metric_sums, self._metric_steps = {}, 0
        seconds = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        steps = self.num_timesteps - self._num_timesteps_at_start
        self.logger.record("time/gradient_steps_per_s", steps / seconds)
        self.logger.record("time/time_elapsed", int(seconds), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)
