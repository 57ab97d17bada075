"""The loop around the gradient step: SB3's callbacks and logger, schedules, and the watch over the losses."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback, ProgressBarCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from sb3_llmdpd.envs.dataset_env import check_spaces, refuse_vec_normalize
from sb3_llmdpd.llmdpd.callback_counters import Counters, counters_of, give_back
from sb3_llmdpd.llmdpd.loss_watch import LossWatch, TrainingDiverged, first_bad_weight, loss_limits
from sb3_llmdpd.llmdpd.policies import LLMDPDPolicy
from sb3_llmdpd.replay.buffer import PromptReplayBuffer
from sb3_llmdpd.type_aliases import Metrics

CHECK_EVERY = 100
"""Gradient steps between two looks at whether the losses are sane: each look waits for the device."""


class _StepsBar(ProgressBarCallback):
    """SB3's bar adds the number of environments at each step; a gradient step is one, whatever environments there are."""

    def _on_step(self) -> bool:
        self.pbar.update(1)
        return True


class OfflineLearning(OffPolicyAlgorithm):
    """The learning half of `LLMDPD`: everything about `learn` but the gradient step itself."""

    policy: LLMDPDPolicy
    replay_buffer: PromptReplayBuffer | None
    critic_lr_schedule: Schedule
    eta: float
    last_saved: Path | None = None
    """The file that this model was last saved to, or loaded from."""
    _callback: BaseCallback | None = None
    """While it learns."""
    _counted: list[Counters]
    """What the callbacks of the last `learn` had counted at its end."""
    _to_count_on: list[Counters]
    """What those of a loaded model had counted, until the next `learn`."""
    _watch: LossWatch | None = None
    _watched_since: int = 0
    _metric_sums: Metrics
    """Over the steps that are not logged yet."""
    _metric_steps: int = 0
    _accelerating: Callable[[], AbstractContextManager[None]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._metric_sums = {}
        self._counted, self._to_count_on = [], []
        super().__init__(*args, **kwargs)

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
        :param callback: SB3 callbacks, called once a gradient step. In the first `learn` after `LLMDPD.load` that goes on
            counting, callbacks of the classes that were saved count on, too.
        :param log_interval: gradient steps between two lines of the log; None for no log.
        :param tb_log_name: name of the run in tensorboard.
        :param reset_num_timesteps: False to go on counting where the last call ended.
        :param progress_bar: whether to show one.
        :return: the model itself.
        :raises ValueError: when the model has no data set, or ``log_interval`` is below one.
        :raises TrainingDiverged: when a loss or a weight is no longer a sane number; noticed at the latest after
            ``CHECK_EVERY`` steps, and before the model is saved.
        """
        if self.replay_buffer is None:
            raise ValueError(
                "LLMDPD has no data to learn from: pass `dataset` to the constructor or to LLMDPD.load(path, dataset=...)"
            )
        if log_interval is not None and log_interval < 1:
            raise ValueError(f"`log_interval` must be at least 1, or None for no log, got {log_interval}")
        total_timesteps, callback = BaseAlgorithm._setup_learn(
            self, total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        behind = [] if reset_num_timesteps else give_back(callback, self._to_count_on, self.num_timesteps)
        self._to_count_on, self._callback = [], callback
        self._start_watch(self.replay_buffer)
        try:
            with self._accelerating():
                self._learn(total_timesteps, callback, log_interval, behind)
        finally:  # the callbacks may hold environments, and are nobody's business any more
            self._counted, self._callback = counters_of(callback), None
        return self

    def _learn(
        self,
        total_timesteps: int,
        callback: BaseCallback,
        log_interval: int | None,
        behind: list[BaseCallback],
    ) -> None:
        callback.on_training_start(locals(), globals())
        seen = [each.on_step() for each in behind]
        goes_on = all(seen)
        while goes_on and self.num_timesteps < total_timesteps:
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
            self.train(gradient_steps=1, batch_size=self.batch_size)
            self.num_timesteps += 1
            if self.num_timesteps % CHECK_EVERY == 0:
                self.check_health()
            # Before the callbacks: what one of them saves at this step, or stops, has logged all steps up to it.
            if log_interval is not None and self.num_timesteps % log_interval == 0:
                self.dump_logs()
            callback.update_locals(locals())
            goes_on = callback.on_step()
        self.check_health()
        callback.on_training_end()

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        if not progress_bar:
            return super()._init_callback(callback)
        given = callback if isinstance(callback, list) else [] if callback is None else [callback]
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

    def set_env(self, env: GymEnv | str, force_reset: bool = True) -> None:
        """Give callbacks another environment; training never steps it.

        :param env: an environment or its registered name; of the model's spaces, with or without `TaskTextWrapper`.
        :param force_reset: kept for SB3: the next `learn` resets it.
        :raises ValueError: when its spaces are others, or it is a VecNormalize.
        """
        vec_env = self._wrap_env(maybe_make_env(env, self.verbose), self.verbose)
        refuse_vec_normalize(vec_env)
        check_spaces("the environment", vec_env, self, "pass one of the model's spaces")
        self.env, self.n_envs = vec_env, vec_env.num_envs
        if force_reset:
            self._last_obs = None

    # Health -------------------------------------------------------------------------------------------------------------

    def _start_watch(self, buffer: PromptReplayBuffer) -> None:
        limits = loss_limits(buffer.largest_reward, self.gamma, self.policy.critic.n_critics, self.eta)
        self._watch = LossWatch(limits, self.device)
        self._watched_since = self.num_timesteps

    def check_health(self) -> None:
        """Make sure that the training has not diverged; waits for the device.

        :raises TrainingDiverged: when a loss or a weight is no longer a sane number; names the step, the loss and the last
            file that this model was saved to.
        """
        found = None if self._watch is None else self._watch.first_insane()
        bad_weight = first_bad_weight(self.policy.state_dict()) if found is None else None
        if found is not None:
            n_sane, name, value = found
            what = f"{name} was {value:.3g} in gradient step {self._watched_since + n_sane + 1}"
        elif bad_weight is not None:
            what = f"after gradient step {self.num_timesteps} the weight {bad_weight!r} is not finite"
        else:
            return
        kept = (
            "No model was saved before"
            if self.last_saved is None
            else f"The last good model is {self.last_saved}"
        )
        raise TrainingDiverged(
            f"the training has diverged: {what}. {kept}; try a lower `learning_rate`, `eta` or `max_grad_norm`"
        )

    # Logging ------------------------------------------------------------------------------------------------------------

    def _accumulate(self, metrics: Metrics) -> None:
        assert self._watch is not None  # there are data
        self._watch.see(metrics)
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
