"""`LLMDPD`, LLM-Driven Policy Diffusion as a Stable-Baselines3 algorithm."""

import copy
import difflib
import inspect
import io
import pathlib
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback, ProgressBarCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_pkl
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule, TensorDict
from stable_baselines3.common.utils import FloatSchedule

from sb3_llmdpd.checkpoint import FileLike
from sb3_llmdpd.common.optional_imports import require
from sb3_llmdpd.data.episodes import OfflineDataset
from sb3_llmdpd.data.images import channels_first_space
from sb3_llmdpd.data.loading import DatasetLike, load_dataset
from sb3_llmdpd.envs.dataset_env import (
    DatasetEnv,
    check_readable,
    check_spaces,
    observed_space,
    refuse_vec_normalize,
)
from sb3_llmdpd.envs.task_text_wrapper import split_observation
from sb3_llmdpd.llmdpd import saving
from sb3_llmdpd.llmdpd.acceleration import Acceleration
from sb3_llmdpd.llmdpd.arguments import checked
from sb3_llmdpd.llmdpd.augmentation import Augmentation
from sb3_llmdpd.llmdpd.callback_counters import Counters, Watched, counters_of, give_back, watched
from sb3_llmdpd.llmdpd.export import OneTaskNetwork, PromptedNetwork, write_program
from sb3_llmdpd.llmdpd.gradient_step import GradientStep
from sb3_llmdpd.llmdpd.loss_watch import (
    CHECK_EVERY,
    LossWatch,
    MetricMeans,
    TrainingDiverged,
    first_bad_weight,
    loss_limits,
)
from sb3_llmdpd.llmdpd.losses import Losses
from sb3_llmdpd.llmdpd.policies import Acting, CnnPolicy, LLMDPDPolicy, MlpPolicy, MultiInputPolicy
from sb3_llmdpd.llmdpd.prompter import (
    Example,
    Examples,
    Prompter,
    PromptLike,
    TaskText,
    as_prompts,
    check_kind,
    with_sentences,
)
from sb3_llmdpd.llmdpd.rehearsal import rehearse
from sb3_llmdpd.prompts.alignment import Alignment, align, alignment_named
from sb3_llmdpd.prompts.explanation import PromptExplanation
from sb3_llmdpd.prompts.prompt import PROMPT_WINDOW, Prompt
from sb3_llmdpd.prompts.text_cache import cached_encoder
from sb3_llmdpd.prompts.text_encoders import make_text_encoder
from sb3_llmdpd.prompts.text_table import TextTable
from sb3_llmdpd.replay.buffer import PromptReplayBuffer

Predictions = tuple[np.ndarray, tuple[np.ndarray, ...] | None]
"""Actions, and the state that `predict` was given."""

STATISTICS_ROWS = 200_000
"""Observations that the normalisers are fitted to, at most; they are spread evenly over the data."""


def _acting(name: str) -> Any:
    """Make a property of the model of a setting that its policy acts by, too; see `Acting`."""

    def get(model: "LLMDPD") -> Any:
        return getattr(model.acting, name)

    def change(model: "LLMDPD", value: Any) -> None:
        setattr(model.acting, name, value)

    return property(get, change, doc="Setting of how the policy acts, see `Acting`.")


class LLMDPD(OffPolicyAlgorithm):
    r"""Offline RL of one policy for many tasks, prompted with a sentence and an example trajectory.

    Paper: https://arxiv.org/abs/2509.00347 (LLMDPD), on top of https://arxiv.org/abs/2208.06193
    (Diffusion-QL). With z the encoded prompt of a transition's task and a' drawn from the averaged (EMA)
    actor, a step minimises

    .. math::
        L_Q = \sum_j (Q_j(s, a, z) - r - \gamma (1 - d) \min_i Q'_i(s', a', z))^2 \\
        L_\pi = \lVert \epsilon - \epsilon_\theta(a^k, k, s, z) \rVert^2
        - \eta \, Q(s, \pi_\theta(s, z), z) / \mathbb{E} |Q|

    One timestep of `learn` is one gradient step: SB3's ``eval_freq``, ``save_freq`` and ``log_interval``
    count them. The ranges of the arguments stand in `sb3_llmdpd.llmdpd.arguments`. Their defaults are what
    tasks held out for tuning chose; `sb3_llmdpd.presets.PAPER` has the paper's.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, or a class.
    :param env: environment of the data's spaces, for callbacks that evaluate; training never steps it.
    :param dataset: Minari ids or other names of sources (one or several, see `format_of`), `Episode`s, an
        `OfflineDataset`, or a `PromptReplayBuffer`, whose own settings then go before those given here.
    :param learning_rate: rate of actor and encoders. A float, or a function of the progress remaining, such
        as `CosineSchedule`.
    :param critic_learning_rate: rate of the critic; None for the actor's.
    :param batch_size: transitions in a gradient step, a multiple of ``prompts_per_batch``.
    :param q_batch_size: transitions that the critic and the Q term see, a multiple of ``prompts_per_batch``;
        None for all. These cost several times what behaviour cloning does.
    :param prompts_per_batch: M, prompts in a batch, each for batch_size / M transitions; one for a task,
        while there are enough tasks.
    :param examples_per_prompt: fewest and most examples of a training prompt; how many is drawn for each.
        They are episodes of the task other than those whose transitions are learned, and fewer where the data
        have no more.
    :param gamma: discount.
    :param tau: share of the way that the critic's target moves towards the critic in a step.
    :param ema_decay: share of itself that the averaged actor keeps in a step; ramps up from 0, as (1 + n) /
        (10 + n).
    :param eta: weight of the Q term in the actor's loss; 0 is behaviour cloning, which trains no critic.
    :param policy_objective: ``"diffusion_ql"``: the Q term sees actions sampled through the whole chain.
        ``"action_approximation"``: it sees the one-step estimate of EDP (https://arxiv.org/abs/2305.20081),
        which costs less.
    :param critic_objective: ``"td"``: the critic's target asks the averaged actor for the next action, as
        above. ``"expectile"``: it asks V, the ``expectile`` of Q over the data's own actions, as in IQL
        (https://arxiv.org/abs/2110.06169). Nothing is sampled for the critic then.
    :param expectile: expectile that V learns, in (0, 1): 0.5 is the mean over the data's actions, towards 1
        their best.
    :param max_grad_norm: norm to which the gradients of actor and critic are clipped.
    :param text_dropout: share of the prompts whose sentence is replaced by the learned null; 1 trains without
        text.
    :param trajectory_dropout: share of the prompts whose example is replaced by the learned null,
        independently.
    :param pair_dropout: share of the prompts with both that lose their sentence. A sentence of a known task
        is no help in a new one, and an example has to be followed without it.
    :param prompt_noise: standard deviation of the noise on the prompt vectors (whose entries have unit
        variance) while the actor trains, so that a neighbourhood of each training prompt means its task, and
        not one point.
    :param text_encoder: name of the frozen language model (see `make_text_encoder`); None for a model without
        text. A sentence that it cannot read is an error, or with ``?unknown=warn`` in the name a warning.
    :param same_goal: draw examples from episodes of the same goal (needed where the goal is hidden).
    :param reward_scale: scaling of rewards: ``"per_task"`` or ``"none"``, see `PromptReplayBuffer`.
    :param return_weight: weight of better episodes when transitions are drawn; 0 draws all alike. For data of
        mixed quality, whose bad majority would otherwise be cloned, see `PromptReplayBuffer`.
    :param augmentation: change of each training batch, by a name in
        `sb3_llmdpd.llmdpd.augmentation.AUGMENTATIONS` or a function of your own; None for none.
    :param alignment: move of a few examples into the scene that an episode begins with, by a name in
        `sb3_llmdpd.prompts.alignment.ALIGNMENTS` or a function of your own; None for none. `predict` does it
        where it is told the episode's begin, by ``state`` or ``episode_start``, as SB3's tools tell it.
    :param n_candidates: actions drawn at `predict`, of which the critic picks one. Above 1 a critic is asked
        about actions that it may never have seen: measure it before use on an unseen task.
    :param candidate_temperature: temperature of the choice among candidates; 0 picks the best.
    :param sampler: way in which `predict` runs the chain; None as in training. Of a diffusion that is
        ``"ddpm"``; ``"ddim"`` and ``"dpm_solver++"`` draw noise once and may take fewer steps, see
        `make_chain`. Of a flow it is ``"jumps"``.
    :param n_sampling_steps: steps that the sampler takes; None for all K of a diffusion, and one of a flow.
    :param text_beside_example: least likeness to a known sentence, in [-1, 1], at which an unknown sentence
        counts beside an example; else the example is read alone. 1 leaves out every unknown sentence there,
        -1 none. Alone, every sentence is read. See `TextTable.likeness`, and `explain_prompt`.
    :param acceleration: ways to train faster that depend on the machine, such as ``{"compile": True}``, see
        `Acceleration`.
    :param policy_kwargs: arguments of the policy, see `LLMDPDPolicy`.
    :param stats_window_size: kept for SB3's callbacks.
    :param tensorboard_log: folder of the tensorboard log.
    :param verbose: 0 silent, 1 info, 2 debug.
    :param seed: seed of networks, batches and noise.
    :param device: ``"auto"``, ``"cpu"``, ``"cuda"`` or another torch device.
    :param _init_setup_model: whether to build the networks at once.
    :raises ValueError: on arguments out of range, on spaces that differ between ``env`` and ``dataset``, or
        with neither.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: LLMDPDPolicy
    replay_buffer: PromptReplayBuffer | None

    @checked
    def __init__(
        self,
        policy: str | type[LLMDPDPolicy],
        env: GymEnv | str | None = None,
        dataset: DatasetLike | PromptReplayBuffer | None = None,
        learning_rate: float | Schedule = 1e-3,
        critic_learning_rate: float | Schedule | None = None,
        batch_size: int = 256,
        q_batch_size: int | None = None,
        prompts_per_batch: int = 32,
        examples_per_prompt: tuple[int, int] = (1, 5),
        gamma: float = 0.99,
        tau: float = 0.005,
        ema_decay: float = 0.999,
        eta: float = 0.1,
        policy_objective: str = "action_approximation",
        critic_objective: str = "td",
        expectile: float = 0.7,
        max_grad_norm: float = 5.0,
        text_dropout: float = 0.2,
        trajectory_dropout: float = 0.5,
        pair_dropout: float = 0.5,
        prompt_noise: float = 0.0,
        text_encoder: str | None = "minilm",
        same_goal: bool = False,
        reward_scale: str = "per_task",
        return_weight: float = 8.0,
        augmentation: str | Augmentation | None = None,
        alignment: str | Alignment | None = None,
        n_candidates: int = 1,
        candidate_temperature: float = 0.0,
        sampler: str | None = None,
        n_sampling_steps: int | None = None,
        text_beside_example: float = 0.95,
        acceleration: dict[str, Any] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | pathlib.Path | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        self.critic_learning_rate = critic_learning_rate
        self.q_batch_size = q_batch_size
        self.prompts_per_batch = prompts_per_batch
        self.examples_per_prompt = tuple(examples_per_prompt)
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
        self.augmentation = augmentation
        self.alignment = alignment
        self.acting = Acting(
            n_candidates, candidate_temperature, sampler, n_sampling_steps, text_beside_example
        )
        self.acceleration = acceleration
        policy_kwargs = dict(policy_kwargs or {})  # its own, to which the size of sentence vectors is added
        self.text_table: TextTable | None = None
        self.trusts_encoder = True
        """True where the text encoder is the caller's choice, and not that of a file, see `load`."""
        self.last_saved: pathlib.Path | None = None
        """The file that this model was last saved to, or loaded from."""
        self._metrics = MetricMeans()
        self._watch: LossWatch | None = None
        # While it learns: its callbacks. After that: their counters, and those of a loaded model until the
        # next `learn`.
        self._watched: list[Watched] = []
        self._counted: list[Counters] = []
        self._to_count_on: list[Counters] = []
        self._saved_buffer_state: dict[str, Any] | None = None
        if env is not None:
            env = maybe_make_env(env, verbose)  # as SB3 does, since data may lack the bounds of actions
        data = None if dataset is None else _read_dataset(dataset, None if env is None else env.action_space)
        if env is None and data is not None:
            env = DatasetEnv(channels_first_space(data.observation_space), data.action_space)
        if env is None:
            raise ValueError(
                "LLMDPD needs to know the spaces: pass `dataset` (Minari ids, episodes or a buffer) or `env`,"
                " or use LLMDPD.load(path)"
            )
        # The class and not its name, which SB3 would hold against a wrapped `env`.
        policy_class: Any = self.policy_aliases.get(policy, policy)  # type: ignore[arg-type]
        super().__init__(
            policy_class,
            env,
            learning_rate,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,  # type: ignore[arg-type]  # `checked` has made it a string
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            sde_support=False,
            supported_action_spaces=(spaces.Box,),
        )
        refuse_vec_normalize(self.env)
        if not isinstance(env, DatasetEnv):  # whose spaces are those of data
            of_data = None if data is None else channels_first_space(data.observation_space)
            self.observation_space = observed_space(self.observation_space, of_data)
        check_readable(self.observation_space, self.action_space)  # type: ignore[arg-type]  # a Box
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
            rehearse(self, SAVED_ARGUMENTS)

    n_candidates = _acting("n_candidates")
    candidate_temperature = _acting("candidate_temperature")
    sampler = _acting("sampler")
    n_sampling_steps = _acting("n_sampling_steps")
    text_beside_example = _acting("text_beside_example")

    # Set-up -----------------------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        """Build networks and generators; SB3's own would allocate an empty buffer of a million rows."""
        self._setup_schedules()
        self.generator = th.Generator(self.device)
        """Source of everything random in training but the batches: noise, diffusion steps, prompt dropout."""
        self.action_generator = th.Generator(self.device)
        """Source of the noise in `predict`, apart so that acting changes nothing in training."""
        self.set_random_seed(self.seed)
        self.policy = self._make_policy().to(self.device)
        self.policy.acting = self.acting
        self.policy.actor.process.chain(self.sampler, self.n_sampling_steps)  # refuses an impossible one
        self.actor, self.actor_target = self.policy.actor, self.policy.actor_target
        self.critic, self.critic_target = self.policy.critic, self.policy.critic_target
        self.state_value = self.policy.state_value
        self.prompter = Prompter(self.policy, self.text_table)
        if self.replay_buffer is not None:
            self._attach(self.replay_buffer)

    def _setup_schedules(self) -> None:
        self._setup_lr_schedule()
        critic_rate = self.learning_rate if self.critic_learning_rate is None else self.critic_learning_rate
        self.critic_lr_schedule = FloatSchedule(critic_rate)

    def _make_policy(self) -> LLMDPDPolicy:
        if self.text_encoder is not None and "text_dim" not in self.policy_kwargs:
            known = self.text_table
            encoder = make_text_encoder(self.text_encoder) if known is None else known
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

    @cached_property
    def _settings(self) -> SimpleNamespace:
        """The arguments by name, as losses and gradient step read them."""
        return SimpleNamespace(**self._arguments())

    @cached_property
    def losses(self) -> Losses:
        """The losses that a gradient step minimises; made when training begins."""
        return Losses(self.policy, self._settings)

    @cached_property
    def gradient_step(self) -> GradientStep:
        """Algorithm 1; made when training begins."""
        return GradientStep(self.losses, self._settings, Acceleration.of(self.acceleration))

    def _arguments(self) -> dict[str, Any]:
        """The saved arguments as they are now: SB3's users change them on the model."""
        return {name: getattr(self, name) for name in SAVED_ARGUMENTS}

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

    def set_env(self, env: GymEnv | str, force_reset: bool = True) -> None:
        """Give callbacks another environment; training never steps it.

        :param env: environment of the model's spaces, with or without `TaskTextWrapper`, or its registered
            name.
        :param force_reset: kept for SB3: the next `learn` resets it.
        :raises ValueError: when its spaces are others, or it is a VecNormalize.
        """
        vec_env = self._wrap_env(maybe_make_env(env, self.verbose), self.verbose)
        refuse_vec_normalize(vec_env)
        check_spaces("the environment", vec_env, self, "pass one of the model's spaces")
        self.env, self.n_envs = vec_env, vec_env.num_envs
        if force_reset:
            self._last_obs = None

    # Data -------------------------------------------------------------------------------------------------

    def set_dataset(self, dataset: DatasetLike | PromptReplayBuffer) -> PromptReplayBuffer:
        """Train on other data from now on; the normalisers keep the statistics of the first training.

        :param dataset: as in the constructor.
        :return: the new replay buffer.
        :raises ValueError: when its spaces are not the model's.
        """
        buffer = self._make_buffer(_read_dataset(dataset, self.action_space), self.policy.prompt_window)
        self._attach(buffer)
        self.replay_buffer = buffer
        if self._saved_buffer_state is not None:  # the batches of a loaded model go on where they were
            buffer.generator.bit_generator.state = self._saved_buffer_state
            self._saved_buffer_state = None
        return buffer

    def load_replay_buffer(
        self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True
    ) -> None:
        """Train on a buffer that SB3's `save_replay_buffer` wrote. It is pickled: open only your own.

        :param path: path of the buffer.
        :param truncate_last_traj: kept for SB3; episodes here are whole.
        :raises TypeError: when the file holds something else.
        :raises ValueError: when its spaces are not the model's. In either case the earlier buffer stays.
        """
        buffer = load_from_pkl(path, self.verbose)
        if not isinstance(buffer, PromptReplayBuffer):
            kind = type(buffer).__name__
            raise TypeError(f"LLMDPD learns from a PromptReplayBuffer, and {path} holds a {kind}")
        self.set_dataset(buffer)

    def _make_buffer(self, dataset: OfflineDataset | PromptReplayBuffer, window: int) -> PromptReplayBuffer:
        """Lay a data set out, with the vectors of its sentences."""
        names = ("prompts_per_batch", "examples_per_prompt", "same_goal", "reward_scale", "return_weight")
        if isinstance(dataset, PromptReplayBuffer):
            buffer = dataset.to(self.device)
            if buffer.prompt_window != window:
                raise ValueError(
                    f"the buffer's `prompt_window` is {buffer.prompt_window} and the policy's is {window}:"
                    " make them equal"
                )
            for name in names:
                setattr(self, name, getattr(buffer, name))
        else:
            buffer = PromptReplayBuffer(
                dataset,
                self.device,
                prompt_window=window,
                gamma=self.gamma,
                seed=self.seed,
                observation_space=self.observation_space,
                **{name: getattr(self, name) for name in names},
            )
        if self.text_encoder is not None and buffer.texts:
            if self.text_table is None:
                encoder = cached_encoder(self.text_encoder, self.trusts_encoder)
                self.text_table = TextTable.encode(buffer.texts_by_task, encoder)
            self.text_table = self.text_table.extended(buffer.texts)
            buffer.set_text_vectors(self.text_table.lookup(buffer.texts))
        return buffer

    def _attach(self, buffer: PromptReplayBuffer) -> None:
        """Fit data and model together: spaces, sentences, statistics, and the only task."""
        how = "OfflineDataset.from_episodes(episodes, observation_space, action_space)"
        remedy = f"say what the data are, with {how}"
        check_spaces("the data", buffer, self, remedy)
        self._refuse_unrewarded(buffer)
        if self.text_encoder is None or not buffer.texts:
            buffer.set_text_vectors(np.zeros((len(buffer.texts), self.policy.text_dim), np.float32))
        if self._n_updates == 0:
            self.policy.fit_normalisers(buffer.some_observations(STATISTICS_ROWS), buffer.text_vectors)
        self._start_watch(buffer)
        self.prompter.text_table = self.text_table
        tasks = buffer.texts_by_task
        self.prompter.only_task = None
        if len(tasks) == 1:  # a model of one task needs no prompt to act
            texts = next(iter(tasks.values())) if self.text_encoder is not None else ()
            self.prompter.only_task = [Prompt(text=texts[0] if texts else None)]
        self.prompter.set_task(self.prompter.task)

    def _refuse_unrewarded(self, buffer: PromptReplayBuffer) -> None:
        if self.eta > 0 and not buffer.rewarded:
            raise ValueError(
                f"the data record no rewards, and the Q term, which learns from them, has the weight"
                f" eta={self.eta:g}: pass eta=0.0 (--eta 0), which clones the data"
            )

    # Training ---------------------------------------------------------------------------------------------

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
        :param callback: SB3 callbacks, called once a gradient step. In the first `learn` after `LLMDPD.load`
            that goes on counting, callbacks of the classes that were saved count on, too.
        :param log_interval: gradient steps between two lines of the log; None for no log.
        :param tb_log_name: name of the run in tensorboard.
        :param reset_num_timesteps: False to go on counting where the last call ended.
        :param progress_bar: whether to show one.
        :return: the model itself.
        :raises ValueError: when the model has no data set, or ``log_interval`` is below one.
        :raises ImportError: when ``tensorboard_log`` is set and tensorboard is not installed.
        :raises TrainingDiverged: when a loss or a weight is no longer a sane number; noticed after the first
            step, later within ``CHECK_EVERY`` steps, and always before the model is saved.
        """
        if self.replay_buffer is None:
            raise ValueError(
                "LLMDPD has no data to learn from: pass `dataset` to the constructor or to"
                " LLMDPD.load(path, dataset=...)"
            )
        self._refuse_unrewarded(self.replay_buffer)
        if log_interval is not None and log_interval < 1:
            raise ValueError(f"`log_interval` must be at least 1, or None for no log, got {log_interval}")
        if self.tensorboard_log is not None and not self._custom_logger:
            require("tensorboard", extra="tensorboard")
        total_timesteps, callback = BaseAlgorithm._setup_learn(
            self, total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        self._watched = watched(callback)
        to_count_on = [] if reset_num_timesteps else self._to_count_on
        late, told = give_back(self._watched, to_count_on, self.num_timesteps)
        if told:
            self.logger.info(told)
        self._to_count_on = []
        self._start_watch(self.replay_buffer)
        try:
            with self.gradient_step.accelerated():
                self._learn(total_timesteps, callback, log_interval, late)
        finally:  # the callbacks may hold environments, which nothing needs any more
            self._counted, self._watched = counters_of(self._watched), []
        return self

    def _learn(
        self, total_timesteps: int, callback: BaseCallback, log_interval: int | None, late: list[BaseCallback]
    ) -> None:
        """Run the loop of `learn`; the late callbacks have yet to see the step of a loaded model."""
        callback.on_training_start(locals(), globals())
        seen = [each.on_step() for each in late]
        goes_on = all(seen)
        while goes_on and self.num_timesteps < total_timesteps:
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
            self.train(gradient_steps=1, batch_size=self.batch_size)
            self.num_timesteps += 1
            is_first = self.num_timesteps == self._num_timesteps_at_start + 1
            if is_first or self.num_timesteps % CHECK_EVERY == 0:
                self.check_health()
            # Before the callbacks: what one of them saves or stops has logged all steps up to this one.
            if log_interval is not None and self.num_timesteps % log_interval == 0:
                self.dump_logs()
            callback.update_locals(locals())
            goes_on = callback.on_step()
        self.check_health()
        callback.on_training_end()

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """Run Algorithm 1: sample a batch, step critic and actor, move the targets.

        :param gradient_steps: number of steps.
        :param batch_size: transitions in each.
        """
        buffer, watch = self.replay_buffer, self._watch
        assert buffer is not None  # `learn` has checked
        assert watch is not None  # there are data
        if not self.policy.training:
            self.policy.set_training_mode(True)
        self._update_learning_rate([])
        vars(self._settings).update(self._arguments())
        for _ in range(gradient_steps):
            batch = buffer.sample(batch_size)
            self._n_updates += 1
            metrics = self.gradient_step(batch, self.generator, self._n_updates)
            watch.see(metrics)
            self._metrics.add(metrics)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        if not progress_bar:
            return super()._init_callback(callback)
        given = callback if isinstance(callback, list) else [callback] * (callback is not None)
        callbacks = [each if isinstance(each, BaseCallback) else ConvertCallback(each) for each in given]
        return super()._init_callback([_StepsBar(), *callbacks])  # first, so that one that saves can be last

    def _update_learning_rate(self, optimizers: Any) -> None:
        """Set both learning rates; SB3's own would set one for all.

        :param optimizers: ignored, the policy owns them.
        """
        progress = self._current_progress_remaining
        for name, optimizer, schedule in (
            ("learning_rate", self.policy.actor.optimizer, self.lr_schedule),
            ("critic_learning_rate", self.policy.critic.optimizer, self.critic_lr_schedule),
        ):
            rate = schedule(progress)
            self.logger.record(f"train/{name}", rate)
            for group in optimizer.param_groups:
                if isinstance(group["lr"], th.Tensor):  # which a CUDA graph reads
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    def _start_watch(self, buffer: PromptReplayBuffer) -> None:
        limits = loss_limits(buffer.largest_reward, self.gamma, self.policy.critic.n_critics, self.eta)
        self._watch = LossWatch(limits, self.device, self.num_timesteps)

    def check_health(self) -> None:
        """Make sure that the training has not diverged; waits for the device.

        :raises TrainingDiverged: when a loss or a weight is no longer a sane number; names the step, the loss
            and the last file that this model was saved to.
        """
        found = None if self._watch is None else self._watch.first_insane()
        bad_weight = first_bad_weight(self.policy.state_dict()) if found is None else None
        if found is not None:
            n_before, name, value = found
            what = f"{name} was {value:.3g} in gradient step {n_before + 1}"
        elif bad_weight is not None:
            what = f"after gradient step {self.num_timesteps} the weight {bad_weight!r} is not finite"
        else:
            return
        saved = self.last_saved
        kept = "No model was saved before" if saved is None else f"The last good model is {saved}"
        raise TrainingDiverged(
            f"the training has diverged: {what}. {kept}; try a lower `learning_rate`, `eta` or"
            f" `max_grad_norm`"
        )

    def dump_logs(self) -> None:
        """Write the means of the metrics since the last line, and the speed of training."""
        for name, mean in self._metrics.pop().items():
            self.logger.record(f"train/{name}", mean)
        seconds = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        steps = self.num_timesteps - self._num_timesteps_at_start
        self.logger.record("time/gradient_steps_per_s", steps / seconds)
        self.logger.record("time/time_elapsed", int(seconds), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)

    # Acting -----------------------------------------------------------------------------------------------

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        *,
        task_text: TaskText = None,
        trajectory: Example = None,
        prompt: PromptLike = None,
        trajectories: Examples = None,
    ) -> Predictions:
        """Act on observations under a prompt.

        An observation of a `TaskTextWrapper` brings its sentence along. That sentence goes before the task of
        `set_task`, whose example it joins, as it joins ``trajectory``; ``task_text`` and ``prompt`` go before
        it.

        :param observation: (*obs_shape) or (n, *obs_shape), environment units; or that of a
            `TaskTextWrapper`.
        :param state: with ``alignment``, what the last call returned, so that the scene in which an episode
            began is known; otherwise handed back as it came, since the policy has no memory.
        :param episode_start: (n,), with ``alignment``, true for rows whose episode begins; without it and
            without ``state``, examples are read as they are.
        :param deterministic: True for the chain without noise (with ``n_candidates`` above 1, for the best of
            always the same candidates). The action of a row then depends on that row alone.
        :param task_text: a sentence for all rows, or a list with one (or None) for each row.
        :param trajectory: an example for all rows (see `Trajectory.of`), or a list with one (or None) for
            each row.
        :param prompt: instead of the others: a `Prompt` or a list of them. ``Prompt()`` asks for the policy
            without a prompt. With none of the four, the observation's sentence or the task of `set_task`
            counts.
        :param trajectories: in place of ``trajectory``, a list of any number of examples for all rows, or a
            list of such lists with one (or None) for each row.
        :return: (action_shape) or (n, *action_shape), environment units, and the state for the next call.
        :raises ValueError: when there is no prompt at all, when as many prompts fit neither one nor each row,
            when an observation does not fit the space, when an action is not finite (names its row), or when
            an unknown sentence needs an encoder that is not there, or not trusted (see `load`).
        """
        prompts = as_prompts(task_text, trajectory, prompt, trajectories)
        return self._act(
            observation, state, episode_start, deterministic, prompts, is_whole=prompt is not None
        )

    def _act(
        self,
        observation: Any,
        state: Any,
        episode_start: np.ndarray | None,
        deterministic: bool,
        prompts: list[Prompt] | None,
        is_whole: bool,
    ) -> Predictions:
        """Act; a prompt that is not whole takes a missing sentence from its observation."""
        sentences = None
        if isinstance(observation, dict):  # as that of a `TaskTextWrapper` is
            observation, sentences = split_observation(observation, self.observation_space)
        check_kind(observation, self.observation_space)
        if prompts is None:
            prompts = self.prompter.current(sentences)
        elif sentences is not None and not is_whole:
            prompts = with_sentences(prompts, sentences)
        if self.alignment is not None and not (state is None and episode_start is None):
            alignment = alignment_named(self.alignment)
            given = (observation, self.observation_space, state, episode_start)
            prompts, state = align(alignment, prompts, *given)
        actions = self.policy.predict_prompted(
            observation, self.prompter.encode(prompts), None if deterministic else self.action_generator
        )
        return actions, state

    def explain_prompt(
        self,
        task_text: TaskText = None,
        trajectory: Example = None,
        prompt: PromptLike = None,
        trajectories: Examples = None,
    ) -> list[PromptExplanation]:
        """Say what the model makes of prompts: whether it knows their sentences, and whether it reads them.

        The arguments are those of `predict`; with none of them the task of `set_task` counts.

        :return: one explanation for each prompt; ``print`` shows it in words.
        :raises ValueError: as `predict`.
        """
        prompts = as_prompts(task_text, trajectory, prompt, trajectories) or self.prompter.current()
        return [self.prompter.explain(each) for each in prompts]

    def set_task(
        self,
        task_text: TaskText = None,
        trajectory: Example = None,
        prompt: PromptLike = None,
        trajectories: Examples = None,
    ) -> None:
        """Set the task once, so that plain SB3 tools can call `predict`.

        The arguments are those of `predict`; with none of them the task is forgotten. Lists hold one entry
        for each sub-environment. The policy itself (``model.policy.predict``) acts on this task, too.

        :raises ValueError: when a prompt does not fit the model; the earlier task then remains.
        """
        self.prompter.set_task(as_prompts(task_text, trajectory, prompt, trajectories))

    @contextmanager
    def using_task(
        self,
        task_text: TaskText = None,
        trajectory: Example = None,
        prompt: PromptLike = None,
        trajectories: Examples = None,
    ) -> Iterator[Self]:
        """Set the task for the length of a ``with`` block, as `set_task` does.

        :return: a context that yields the model.
        """
        before = self.prompter.task
        self.set_task(task_text, trajectory, prompt, trajectories)
        try:
            yield self
        finally:
            self.set_task(prompt=before)

    def prompted(
        self,
        task_text: TaskText = None,
        trajectory: Example = None,
        prompt: PromptLike = None,
        trajectories: Examples = None,
    ) -> "PromptedPredictor":
        """Bind the model to a task in a view that has SB3's ``predict`` alone: enough for `evaluate_policy`.

        The arguments are those of `predict`.

        :return: the view.
        :raises ValueError: when all of them are None.
        """
        prompts = as_prompts(task_text, trajectory, prompt, trajectories)
        if prompts is None:
            raise ValueError(
                "`prompted` needs a task: pass `task_text`, `trajectory`, `trajectories` or `prompt`"
            )
        return PromptedPredictor(self, prompts, is_whole=prompt is not None)

    def export(
        self,
        path: str | pathlib.Path,
        task_text: TaskText = None,
        trajectory: Example = None,
        prompt: PromptLike = None,
        deterministic: bool = True,
        trajectories: Examples = None,
        prompt_as_input: bool = False,
    ) -> pathlib.Path:
        """Write the acting network as a program of PyTorch or ONNX, which needs no package of ours.

        It gives the actions of `predict`, with one candidate and the model's sampler: observations
        ``(n, *obs_shape)`` of the model's observation space, or a dict of such tensors, become
        ``(n, *action_shape)``, in environment units. A program of one task takes observations alone. With
        ``prompt_as_input`` it takes a prompt beside them, see `sb3_llmdpd.llmdpd.export.PromptedNetwork`.

        A program of PyTorch runs on the model's device: load a model with ``device="cpu"`` to export it for a
        CPU. Both kinds of file say what goes in and comes out, see `sb3_llmdpd.llmdpd.export`.

        The arguments that say the task are those of `predict`.

        :param path: path of the file, ``.onnx`` for ONNX; ``.pt2`` is added where there is no suffix.
        :param deterministic: False for a program that takes standard normal noise (S, n, action_dim) beside
            the observations, S the number of sampling steps.
        :param prompt_as_input: True for a program of any task, False for one of the task that is given here,
            set, or the only one.
        :return: the file, which is there whole or not at all.
        :raises ValueError: when there is no prompt, more than one, or one beside ``prompt_as_input``; or when
            the model moves examples into the scene (``alignment``), which a program does not.
        :raises ImportError: without the packages that write ONNX.
        """
        given = as_prompts(task_text, trajectory, prompt, trajectories)
        if prompt_as_input and given is not None:
            raise ValueError(
                "a program with `prompt_as_input` is told its task when it runs: pass no task, or leave"
                " `prompt_as_input` out"
            )
        prompts = [] if prompt_as_input else given or self.prompter.current()
        if len(prompts) > 1:
            raise ValueError(
                f"a program is for one task, got {len(prompts)} prompts: export one for each, or one for all"
                " with prompt_as_input=True"
            )
        if self.alignment is not None and (prompt_as_input or prompts[0].trajectories):
            raise ValueError(
                f"the model moves examples to the scene (alignment={self.alignment!r}), and no program can:"
                " set model.alignment = None to export it without, or export a sentence alone"
            )
        actor, window = self.policy.actor_target, self.policy.prompt_window
        chain = actor.process.chain(self.sampler, self.n_sampling_steps)
        network = (
            PromptedNetwork(actor, chain, None if self.policy.reads_all_steps else window)
            if prompt_as_input
            else OneTaskNetwork(actor, chain, self.prompter.encode(prompts))
        )
        return write_program(network, path, deterministic, self._about_prompt(prompts))

    def _about_prompt(self, prompts: list[Prompt]) -> dict[str, str]:
        """Say which sentences a program reads, or which task it does."""
        encoder = {} if self.text_table is None else {"text_encoder": self.text_table.encoder_name}
        if not prompts:
            return encoder
        return {"task_text": prompts[0].text or "", "n_examples": str(len(prompts[0].trajectories))}

    @property
    def known_task_texts(self) -> tuple[str, ...]:
        """The sentences of training; understanding these needs no language model."""
        return self.text_table.texts if self.text_table is not None else ()

    # The file ---------------------------------------------------------------------------------------------

    def save(
        self, path: FileLike, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None
    ) -> None:
        """Write the model with all that acting and further training need; the data set stays outside.

        :param path: a path (``.zip`` is added where there is no suffix), or a binary file open for writing. A
            file is replaced whole or not at all.
        :param exclude: parts to leave out: names of arguments, which then have their defaults after loading,
            and of optimisers, ``"actor.optimizer"`` and ``"critic.optimizer"``, which then start anew.
        :param include: parts to keep although ``exclude`` names them.
        :raises ValueError: on a name that a model file does not have.
        :raises TrainingDiverged: when the weights are no longer sane; the earlier file then remains.
        :raises OSError: when the place cannot be written to, or the disk is full; the earlier file then
            remains.
        """
        self.last_saved = saving.to_file(self, path, SAVED_ARGUMENTS, exclude, include) or self.last_saved

    @classmethod
    def load(
        cls,
        path: FileLike,
        env: GymEnv | str | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        dataset: DatasetLike | PromptReplayBuffer | None = None,
        trust_encoder: bool = False,
        **overrides: Any,
    ) -> Self:
        """Read a model. Nothing in the file is executed, and nothing but the file is read.

        A text encoder that the file names is used at the first sentence that is not among
        `known_task_texts`: of `predict`, or of ``dataset``. One that is not built in, ``"transformers:..."``
        or ``"sentence-transformers:..."``, is used only when ``trust_encoder`` or ``text_encoder`` says so:
        it lies where the file's author chose, in a folder of this machine or on the Hugging Face hub.

        :param path: path that `save` was given.
        :param env: as in `set_env`, for callbacks that evaluate.
        :param device: target device.
        :param custom_objects: classes and functions of your own that the model was built with, by argument
            name; in place of other arguments, too.
        :param print_system_info: whether to print the system that wrote the file, and this one.
        :param force_reset: as in `set_env`.
        :param dataset: data to go on training with; the normalisers keep their statistics.
        :param trust_encoder: True to use the text encoder that the file names, whatever it is.
        :param overrides: arguments of the constructor to change, e.g. ``learning_rate=1e-4``; also
            ``text_encoder``, for the language model of training in another place or with other options.
            Under another name than the file's, its vector of a sentence is compared at once.
        :return: the model.
        :raises FileNotFoundError: when there is no such file.
        :raises TypeError: on an unknown argument.
        :raises ValueError: when the file is damaged or foreign, does not fit ``env`` or ``dataset``, when
            ``text_encoder`` is another language model, or when ``dataset`` has sentences for an encoder that
            is not trusted.
        """
        unknown = sorted(set(overrides) - set(SAVED_ARGUMENTS))
        if unknown:
            nearest = difflib.get_close_matches(unknown[0], SAVED_ARGUMENTS, n=1)
            hint = f", did you mean {nearest[0]!r}?" if nearest else "."
            raise TypeError(
                f"LLMDPD.load got an unknown argument {unknown[0]!r}{hint} Known:"
                f" {', '.join(SAVED_ARGUMENTS)}"
            )
        known = {name: value for name, value in (custom_objects or {}).items() if name in SAVED_ARGUMENTS}
        custom = {**(custom_objects or {}), **overrides}
        given = known | overrides
        trusts = trust_encoder or given.get("text_encoder") is not None
        model = saving.from_file(cls, path, SAVED_ARGUMENTS, device, given, custom, print_system_info, trusts)
        if given:
            rehearse(model, SAVED_ARGUMENTS)
        if env is not None:
            model.set_env(env, force_reset)
        if dataset is not None:
            model.set_dataset(dataset)
        return model

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        """Name the parts that SB3's `get_parameters` and `set_parameters` speak of."""
        return ["policy", *saving.OPTIMIZERS], []

    def set_parameters(
        self,
        load_path_or_dict: FileLike | TensorDict,
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """Take weights and states of optimisers, all of them or none.

        :param load_path_or_dict: a model file, or the dict of SB3's `get_parameters`.
        :param exact_match: whether all parts must be given.
        :param device: ignored: the weights go where the model is.
        :raises ValueError: when parts are missing or unknown, or those of a file do not fit; the model then
            is as it was.
        :raises RuntimeError: when weights of a dict do not fit; the model then is as it was.
        """
        before = copy.deepcopy(self.get_parameters())
        try:
            if isinstance(load_path_or_dict, dict):
                super().set_parameters(load_path_or_dict, exact_match, device)
            else:
                saving.parameters_from_file(self, load_path_or_dict, exact_match)
        except Exception as error:
            super().set_parameters(before)  # type: ignore[arg-type]  # SB3's own answer
            if isinstance(load_path_or_dict, dict) or isinstance(error, ValueError | FileNotFoundError):
                raise
            kind = type(error).__name__
            raise ValueError(f"the parameters do not fit the model ({kind}: {error})") from error


_NOT_SAVED = ("policy", "env", "dataset", "device", "_init_setup_model")
SAVED_ARGUMENTS = tuple(name for name in inspect.signature(LLMDPD).parameters if name not in _NOT_SAVED)
"""Arguments that a model file keeps: all that are not the data, the environment or the device."""


class PromptedPredictor:
    """A model bound to a task: SB3's ``predict`` and nothing else.

    :param model: model that acts.
    :param prompts: one, or one for each observation.
    :param is_whole: False when a prompt without a sentence takes that of its observation.
    """

    def __init__(self, model: LLMDPD, prompts: list[Prompt], is_whole: bool = True) -> None:
        self._model = model
        self._prompts = prompts
        self._is_whole = is_whole

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> Predictions:
        """Act on the bound task; see `LLMDPD.predict`."""
        return self._model._act(
            observation, state, episode_start, deterministic, self._prompts, self._is_whole
        )


class _StepsBar(ProgressBarCallback):
    """SB3's bar, which adds the number of environments at each step; here a gradient step is one."""

    def _on_step(self) -> bool:
        self.pbar.update(1)
        return True


def _read_dataset(
    dataset: DatasetLike | PromptReplayBuffer, action_space: spaces.Space[Any] | None
) -> OfflineDataset | PromptReplayBuffer:
    """Read data, with the bounds of a known action space where a source records none."""
    if isinstance(dataset, PromptReplayBuffer):
        return dataset
    has_bounds = isinstance(action_space, spaces.Box) and action_space.is_bounded()
    return load_dataset(dataset, action_space=action_space if has_bounds else None)  # type: ignore[arg-type]
