"""Stable-Baselines3's tests of callbacks, asked of LLMDPD; each says which one it answers."""

from typing import Any

import numpy as np
import pytest
import torch as th
from factories import differing, model_of
from gymnasium import spaces
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toys import SpacesEnv

from sb3_llmdpd import LLMDPD

BOX = spaces.Box(-1.0, 1.0, (2,))


def toy_env() -> SpacesEnv:
    """Its episodes bring a return of 10."""
    return SpacesEnv(BOX, BOX)


def toy_model(**kwargs: Any) -> LLMDPD:
    return model_of(toy_env(), **kwargs)


def evaluation_of(env: Any = None, **kwargs: Any) -> EvalCallback:
    """Evaluate one episode each time."""
    defaults = dict(n_eval_episodes=1, warn=False, verbose=0)
    return EvalCallback(env or toy_env(), **{**defaults, **kwargs})


class Recorder(BaseCallback):
    """Remembers what it is told and when."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []

    def _on_training_start(self) -> None:
        self.heard.append("start")

    def _on_step(self) -> bool:
        self.heard.append(self.num_timesteps)
        return True

    def _on_training_end(self) -> None:
        self.heard.append("end")


class LineCounter(Logger):
    """A log without a place."""

    def __init__(self) -> None:
        super().__init__(None, [])
        self.steps: list[int] = []

    def dump(self, step: int = 0) -> None:
        self.steps.append(step)


def test_sb3s_callbacks_work_together_and_are_told_the_same(tmp_path):
    """Answers `test_callbacks.py::test_callbacks`; locals hold no `new_obs` and `dones`, as nobody steps."""
    model, logger = toy_model(), LineCounter()
    model.set_logger(logger)
    checkpoint = CheckpointCallback(save_freq=5, save_path=str(tmp_path))
    evaluation = evaluation_of(
        callback_on_new_best=StopTrainingOnRewardThreshold(reward_threshold=10.5, verbose=1),
        callback_after_eval=StopTrainingOnNoModelImprovement(20, min_evals=1, verbose=1),
        best_model_save_path=str(tmp_path),
        log_path=str(tmp_path),
        eval_freq=3,
        verbose=1,
    )
    event_checkpoint = CheckpointCallback(save_freq=1, save_path=str(tmp_path), name_prefix="event")
    event, log = EveryNTimesteps(n_steps=4, callback=event_checkpoint), LogEveryNTimesteps(n_steps=2)
    recorder = Recorder()
    together = CallbackList([checkpoint, evaluation, event, log, recorder])
    model.learn(8, callback=together, log_interval=None)

    assert together.locals["self"] is model
    assert together.locals["total_timesteps"] == 8
    for callback in (checkpoint, evaluation, event, event_checkpoint, log, recorder):
        assert callback.locals["self"] is model
        assert callback.num_timesteps <= model.num_timesteps
    assert (event.num_timesteps, event.n_calls) == (model.num_timesteps, model.num_timesteps) == (8, 8)
    assert recorder.heard == ["start", *range(1, 9), "end"]
    assert evaluation.evaluations_timesteps == [3, 6]
    at_each_second, at_each_third = [2, 4, 6, 8], [3, 6]  # LogEveryNTimesteps and EvalCallback
    assert logger.steps == sorted(at_each_second + at_each_third)
    saved = {path.name for path in tmp_path.glob("*.zip")}
    assert saved == {"rl_model_5_steps.zip", "event_4_steps.zip", "event_8_steps.zip", "best_model.zip"}

    model.learn(2, callback=None)
    model.learn(2, callback=[checkpoint, recorder], progress_bar=True)
    assert recorder.heard[10:] == ["start", 1, 2, "end"]
    model.learn(2, callback=lambda _locals, _globals: True)
    assert model.num_timesteps == 2


@pytest.mark.parametrize(
    "falsy", [False, np.bool_(0), th.tensor(0, dtype=th.bool)], ids=["bool", "numpy", "torch"]
)
@pytest.mark.parametrize("how", ["alone", "in a list", "as a function", "at an event"])
def test_a_callback_that_says_no_ends_training_at_once(falsy, how):
    """Answers `test_callbacks.py::test_callbacks_can_cancel_runs`."""

    class SayNo(BaseCallback):
        def _on_step(self) -> Any:
            return falsy

    no = SayNo()
    callback: dict[str, Any] = {
        "alone": no,
        "in a list": [Recorder(), no],
        "as a function": lambda _locals, _globals: falsy,
        "at an event": EveryNTimesteps(1, no),
    }
    assert toy_model().learn(5, callback=callback[how]).num_timesteps == 1
    assert no.n_calls == (how != "as a function")


def test_stopping_on_episodes_says_that_training_has_none():
    """Answers `test_callbacks.py::test_callbacks`, the part that cannot be: no environment is stepped."""
    with pytest.raises(AssertionError, match="dones"):
        toy_model().learn(2, callback=StopTrainingOnMaxEpisodes(max_episodes=1))


def test_training_stops_where_evaluations_no_longer_improve():
    """Answers `test_callbacks.py::test_callbacks`: the return is always 10, so none is above the first."""
    stop = StopTrainingOnNoModelImprovement(max_no_improvement_evals=2, min_evals=1)
    model = toy_model().learn(50, callback=evaluation_of(callback_after_eval=stop, eval_freq=2))
    assert model.num_timesteps == 8  # the best at 2, then no better at 4, 6 and 8


@pytest.mark.parametrize(("threshold", "steps"), [(9.5, 2), (10.5, 6)])
def test_training_stops_at_a_reward_and_only_there(threshold, steps):
    """Answers `test_callbacks.py::test_callbacks`."""
    stop = StopTrainingOnRewardThreshold(reward_threshold=threshold)
    model = toy_model().learn(6, callback=evaluation_of(callback_on_new_best=stop, eval_freq=2))
    assert model.num_timesteps == steps


def test_several_environments_evaluate_during_training():
    """Answers `test_callbacks.py::test_eval_callback_vec_env`."""
    evaluation = evaluation_of(DummyVecEnv([toy_env] * 3), eval_freq=2, n_eval_episodes=5)
    toy_model().learn(5, callback=evaluation)
    assert evaluation.last_mean_reward == 10.0
    assert evaluation.evaluations_timesteps == []  # they are kept with a `log_path` alone


class SometimesSuccessful(SpacesEnv):
    """Every second episode is one."""

    def __init__(self) -> None:
        super().__init__(BOX, BOX)

    def step(self, action: np.ndarray) -> Any:
        *rest, info = super().step(action)
        return *rest, {**info, "is_success": self.n_resets % 2 == 0}


def test_shares_of_success_are_logged_and_kept(tmp_path):
    """Answers `test_callbacks.py::test_eval_success_logging`."""
    logged = dict(log_path=str(tmp_path), eval_freq=3, n_eval_episodes=4)
    evaluation = evaluation_of(SometimesSuccessful(), **logged)
    toy_model().learn(3, callback=evaluation, log_interval=None)
    assert np.mean(evaluation._is_success_buffer) == 0.5
    assert np.load(tmp_path / "evaluations.npz")["successes"].shape == (1, 4)


def test_evaluations_are_logged_at_the_step_they_were_made_at(tmp_path):
    """Answers `test_callbacks.py::test_eval_callback_logs_are_written_with_the_correct_timestep`."""
    model = toy_model(tensorboard_log=str(tmp_path))
    model.learn(8, callback=evaluation_of(eval_freq=3), log_interval=2)
    model.logger.close()
    events = EventAccumulator(str(tmp_path / "LLMDPD_1")).Reload()
    assert [event.step for event in events.scalars.Items("eval/mean_reward")] == [3, 6]


def test_callbacks_of_an_evaluation_know_their_parent(tmp_path):
    """Answers `test_callbacks.py::test_eval_callback_chaining`."""
    parents: list[Any] = []

    class Child(BaseCallback):
        def _on_step(self) -> bool:
            parents.append(self.parent)
            return True

    stop = StopTrainingOnRewardThreshold(reward_threshold=200.0, verbose=1)
    evaluation = evaluation_of(
        best_model_save_path=str(tmp_path),
        eval_freq=2,
        callback_on_new_best=CallbackList([Child(), stop]),
        callback_after_eval=CallbackList([Child()]),
    )
    toy_model().learn(4, callback=evaluation)
    assert parents == [evaluation] * 3  # one new best, two evaluations
    assert evaluation.best_mean_reward == 10.0


def test_checkpoints_bring_the_buffer_along_and_a_run_goes_on_from_both(tmp_path):
    """Answers `test_callbacks.py::test_checkpoint_additional_info`; VecNormalize has no statistics here."""
    extras = dict(save_replay_buffer=True, save_vecnormalize=True)
    whole = toy_model().learn(3, callback=CheckpointCallback(3, str(tmp_path), **extras, verbose=2))
    whole.learn(2, reset_num_timesteps=False)
    saved = {path.name for path in tmp_path.iterdir()}
    assert saved == {"rl_model_3_steps.zip", "rl_model_replay_buffer_3_steps.pkl"}

    model = LLMDPD.load(tmp_path / "rl_model_3_steps.zip", env=toy_env(), device="cpu")
    model.load_replay_buffer(tmp_path / "rl_model_replay_buffer_3_steps.pkl")
    assert model.learn(2, reset_num_timesteps=False).num_timesteps == 5
    assert differing(model.policy, whole.policy) == set()


@pytest.mark.parametrize("n_envs", [1, 2])
def test_a_progress_bar_ends_at_the_number_of_gradient_steps(n_envs, capsys):
    """Answers `test_callbacks.py::test_callbacks`: `progress_bar=True` with vectorised environments, too."""
    model = model_of(DummyVecEnv([toy_env] * n_envs))
    for steps in (3, 2):
        model.learn(steps, reset_num_timesteps=steps == 3, progress_bar=True)
        assert f"{steps}/{steps}" in capsys.readouterr().out


def test_sb3s_progress_bar_can_be_a_callback_among_others(capsys):
    """Answers `test_callbacks.py::test_callbacks`: the bar as an object."""
    toy_model().learn(3, callback=[Recorder(), ProgressBarCallback()])
    assert "3/3" in capsys.readouterr().out
