"""A training goes on after `LLMDPD.load` as if it had not stopped, and so do all callbacks."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from expect import warned
from factories import At, make_episodes, tiny_model
from killed import curve, differences
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnNoModelImprovement,
)
from stable_baselines3.common.logger import HumanOutputFormat, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from toys import ActionEnv

from sb3_llmdpd import LLMDPD, CosineSchedule, TaskTextWrapper
from sb3_llmdpd.llmdpd.callback_counters import COUNTERS, describe
from sb3_llmdpd.llmdpd.callbacks import LearningCurve, SaveLatest

N_STEPS = 12
TEXT = "do task number 1"

Callbacks = Callable[[Path], list[BaseCallback]]
"""Makes the callbacks of a training that writes into a folder."""


class Killed(BaseException):
    """Nothing in the package expects it, so that what it leaves is what a kill leaves."""


def die(_: LLMDPD) -> None:
    raise Killed


def resumed_from(path: Path) -> LLMDPD:
    return LLMDPD.load(path, device="cpu", dataset=make_episodes())


def train(
    model: LLMDPD, folder: Path, callbacks: list[BaseCallback], *last: BaseCallback
) -> list[BaseCallback]:
    """Train to the end, and save the model of every third step."""
    model.set_task(task_text=TEXT)
    every = [*callbacks, SaveLatest(folder / "model.zip", 3), *last]
    n_steps = N_STEPS - model.num_timesteps
    model.learn(n_steps, callback=every, log_interval=2, reset_num_timesteps=False)
    return callbacks


def train_in_one_go(folder: Path, callbacks: Callbacks, **arguments: Any) -> list[BaseCallback]:
    return train(tiny_model(**arguments), folder, callbacks(folder))


def train_and_be_killed(
    folder: Path, callbacks: Callbacks, after: int, **arguments: Any
) -> list[BaseCallback]:
    """The training goes on from the latest file, with new callbacks of the same kinds."""
    with pytest.raises(Killed):
        train(tiny_model(**arguments), folder, callbacks(folder), At(after, die))
    return train(resumed_from(folder / "model.zip"), folder, callbacks(folder))


def evaluation(folder: Path, **arguments: Any) -> EvalCallback:
    paths = dict(log_path=str(folder), best_model_save_path=str(folder))
    env = Monitor(ActionEnv())
    return EvalCallback(env, eval_freq=2, n_eval_episodes=2, verbose=0, **paths, **arguments)


def counted(callback: BaseCallback) -> dict[str, Any]:
    return {name: value for name, value in vars(callback).items() if isinstance(value, int | float | list)}


AFTER = pytest.mark.parametrize("after", [4, 6, 8, 11])
"""One step after a save, at a save and an evaluation, at an evaluation that comes again, and near the end."""


@AFTER
def test_a_killed_training_has_the_model_and_the_curve_of_one_that_was_not(tmp_path, after):
    def callbacks(folder: Path) -> list[BaseCallback]:
        return [LearningCurve(folder / "progress.csv")]

    train_in_one_go(tmp_path / "whole", callbacks, learning_rate=CosineSchedule(1e-3))
    train_and_be_killed(tmp_path / "killed", callbacks, after, learning_rate=CosineSchedule(1e-3))
    assert differences(tmp_path / "killed", tmp_path / "whole") == set()
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert [row["step"] for row in curve(tmp_path / "whole")] == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]


@AFTER
def test_an_evaluation_goes_on_counting_its_steps_its_results_and_its_best(tmp_path, after):
    (whole,) = train_in_one_go(tmp_path / "whole", lambda folder: [evaluation(folder)])
    (again,) = train_and_be_killed(tmp_path / "killed", lambda folder: [evaluation(folder)], after)
    assert counted(again) == counted(whole)
    expected, found = (results(tmp_path / name) for name in ("whole", "killed"))
    assert found == expected
    assert found["timesteps"] == [2, 4, 6, 8, 10, 12]


def results(folder: Path) -> dict[str, Any]:
    """Read what an evaluation left in a folder, and the step of its best model."""
    best = LLMDPD.load(folder / "best_model", device="cpu").num_timesteps
    with np.load(folder / "evaluations.npz") as found:
        return {"best": best, **{name: found[name].tolist() for name in found}}


def test_an_evaluation_and_the_curve_share_a_log(tmp_path):
    def callbacks(folder: Path) -> list[BaseCallback]:
        return [LearningCurve(folder / "progress.csv"), evaluation(folder)]

    train_in_one_go(tmp_path / "whole", callbacks)
    train_and_be_killed(tmp_path / "killed", callbacks, 8)
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert sum("eval/mean_reward" in row for row in curve(tmp_path / "whole")) == 6


@pytest.mark.parametrize("after", [4, 6, 7])
def test_patience_goes_on_where_it_was(tmp_path, after):
    """Nothing is learned, and so the fourth evaluation is the third without a new best."""

    def callbacks(folder: Path) -> list[BaseCallback]:
        return [evaluation(folder, callback_after_eval=StopTrainingOnNoModelImprovement(2))]

    frozen = dict(learning_rate=1e-30)
    (whole,) = train_in_one_go(tmp_path / "whole", callbacks, **frozen)
    assert whole.num_timesteps == 8
    (again,) = train_and_be_killed(tmp_path / "killed", callbacks, after, **frozen)
    assert (counted(again), counted(again.callback)) == (counted(whole), counted(whole.callback))


@AFTER
def test_checkpoints_come_at_the_same_steps(tmp_path, after):
    def callbacks(folder: Path) -> list[BaseCallback]:
        return [
            CheckpointCallback(5, str(folder / "checkpoints")),
            EveryNTimesteps(4, SaveLatest(folder / "fourth.zip", 1)),
        ]

    _, whole = train_in_one_go(tmp_path / "whole", callbacks)
    _, again = train_and_be_killed(tmp_path / "killed", callbacks, after)
    assert counted(again) == counted(whole)
    for run in ("whole", "killed"):
        names = {path.name for path in (tmp_path / run / "checkpoints").iterdir()}
        assert names == {"rl_model_10_steps.zip", "rl_model_5_steps.zip"}


def test_a_training_goes_on_from_an_sb3_checkpoint(tmp_path):
    checkpoints = CheckpointCallback(4, str(tmp_path))
    whole = tiny_model().learn(10, callback=checkpoints)
    resumed = resumed_from(tmp_path / "rl_model_4_steps.zip")
    resumed.learn(6, callback=CheckpointCallback(4, str(tmp_path / "again")), reset_num_timesteps=False)
    whole.save(tmp_path / "whole" / "model.zip")
    resumed.save(tmp_path / "resumed" / "model.zip")
    assert differences(tmp_path / "resumed", tmp_path / "whole") == set()
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["rl_model_8_steps.zip"]


def test_callbacks_after_the_one_that_saves_see_its_step_when_the_training_goes_on(tmp_path):
    def callbacks(name: str) -> list[BaseCallback]:  # in the order of SB3's documentation
        return [CheckpointCallback(4, str(tmp_path)), evaluation(tmp_path / name)]

    whole, again = callbacks("whole"), callbacks("again")
    model = tiny_model()
    model.set_task(task_text=TEXT)
    model.learn(8, callback=whole)
    resumed = resumed_from(tmp_path / "rl_model_4_steps.zip")
    resumed.set_task(task_text=TEXT)
    resumed.learn(4, callback=again, reset_num_timesteps=False)
    assert counted(again[1]) == counted(whole[1])
    assert again[1].evaluations_timesteps == [2, 4, 6, 8]


class Recorder(BaseCallback):
    """Records every few steps, until its time is over; as many write a callback."""

    def __init__(self, every: int, seconds: float = 60.0) -> None:
        super().__init__()
        self._every, self._seconds, self._began = every, seconds, time.time()
        self.n_records = 0
        self.steps: list[int] = []

    def _on_step(self) -> bool:
        if self.n_calls % self._every == 0:
            self.steps.append(self.num_timesteps)
            self.n_records += 1
        return time.time() - self._began < self._seconds


def resumed(model: LLMDPD) -> LLMDPD:
    """Save a model and load it, with its data."""
    file = io.BytesIO()
    model.save(file)
    again = LLMDPD.load(io.BytesIO(file.getvalue()), device="cpu", dataset=make_episodes())
    again.set_task(task_text=TEXT)
    return again


def told_model() -> LLMDPD:
    model = tiny_model()
    model.set_task(task_text=TEXT)
    return model


def test_what_the_constructor_of_a_callback_is_told_now_counts():
    model = resumed(told_model().learn(4, callback=Recorder(every=100, seconds=30.0)))
    now = Recorder(every=3)
    began = now._began
    model.learn(5, callback=now, reset_num_timesteps=False)
    assert (now._every, now._seconds, now._began) == (3, 60.0, began)
    assert (now.steps, now.n_records, now.n_calls) == ([6, 9], 2, 9)


def test_the_list_of_counters_names_what_sb3s_callbacks_have():
    evaluation = EvalCallback(ActionEnv())
    every = EveryNTimesteps(4, Recorder(1))
    patience = StopTrainingOnNoModelImprovement(2)
    for callback in (evaluation, every, patience):
        names = [name for cls, counters in COUNTERS.items() if isinstance(callback, cls) for name in counters]
        assert set(names) <= set(vars(callback))


class Pays(ActionEnv):
    """Pays the same at each step, whatever is done."""

    def __init__(self, pay: Any, render_mode: str | None = None) -> None:
        super().__init__()
        self.pay, self.render_mode = pay, render_mode

    def step(self, action: np.ndarray) -> Any:
        observation, _, *rest = super().step(action)
        return observation, self.pay, *rest


def evaluating(pay: float, **arguments: Any) -> EvalCallback:
    return EvalCallback(Monitor(Pays(pay)), eval_freq=2, n_eval_episodes=1, verbose=0, **arguments)


def test_each_of_two_evaluations_has_its_own_best_wherever_it_stands_in_the_list():
    model = resumed(told_model().learn(4, callback=[evaluating(1.0), evaluating(5.0)]))
    high, low = evaluating(5.0), evaluating(1.0)
    model.learn(1, callback=[high, low], reset_num_timesteps=False)
    assert (high.best_mean_reward, low.best_mean_reward) == (15.0, 3.0)


def test_an_evaluation_that_is_alone_now_has_the_best_of_its_own_task():
    model = resumed(told_model().learn(4, callback=[evaluating(1.0), evaluating(5.0)]))
    high = evaluating(5.0)
    model.learn(1, callback=high, reset_num_timesteps=False)
    assert (high.best_mean_reward, high.n_calls) == (15.0, 5)


def test_an_evaluation_of_another_task_begins_anew():
    model = resumed(told_model().learn(4, callback=evaluating(5.0)))
    other = evaluating(1.0)
    model.learn(1, callback=other, reset_num_timesteps=False)
    assert (other.best_mean_reward, other.n_calls) == (-np.inf, 1)


def with_bests(folder: Path, *names: str) -> list[EvalCallback]:
    """Make evaluations of one task, each with a folder of its own."""
    return [evaluating(1.0, log_path=str(folder / name)) for name in names]


def test_evaluations_of_one_task_are_known_by_where_they_write(tmp_path):
    first, second = with_bests(tmp_path, "one", "two")
    model = told_model().learn(4, callback=[first, second])
    model._counted[1].numbers["best_mean_reward"] = 7.0
    (again,) = with_bests(tmp_path / "in another folder", "two")
    resumed(model).learn(1, callback=again, reset_num_timesteps=False)
    assert again.best_mean_reward == 7.0


def test_a_folder_within_the_folder_of_another_evaluation_is_another_one(tmp_path):
    model = told_model().learn(4, callback=with_bests(tmp_path, "", "inner"))
    model._counted[1].numbers["best_mean_reward"] = 7.0
    (again,) = with_bests(tmp_path, "inner")
    resumed(model).learn(1, callback=again, reset_num_timesteps=False)
    assert again.best_mean_reward == 7.0


def test_evaluations_that_nothing_tells_apart_begin_anew_and_say_so(tmp_path):
    model = told_model().learn(4, callback=[evaluating(1.0), evaluating(1.0)])
    (again,) = with_bests(tmp_path, "three")
    message = r"EvalCallback of Pays\(pay=1.0\): 2 of them are in the model file and 1 in this training.*anew"
    with warned(message):
        resumed(model).learn(1, callback=again, reset_num_timesteps=False)
    assert (again.best_mean_reward, again.n_calls) == (-np.inf, 1)


def test_evaluations_of_one_task_keep_their_order_where_they_write_nothing():
    model = told_model().learn(4, callback=[evaluating(1.0), Recorder(1), evaluating(1.0)])
    model._counted[2].numbers["best_mean_reward"] = 7.0
    again = [evaluating(1.0), evaluating(1.0)]
    resumed(model).learn(1, callback=CallbackList(again), reset_num_timesteps=False)
    assert [each.best_mean_reward for each in again] == [3.0, 7.0]


def test_a_callback_of_an_evaluation_goes_with_it():
    def callbacks(*pays: float) -> list[EvalCallback]:
        return [evaluating(pay, callback_after_eval=StopTrainingOnNoModelImprovement(9)) for pay in pays]

    model = resumed(told_model().learn(4, callback=callbacks(1.0, 5.0)))
    (again,) = callbacks(5.0)
    model.learn(1, callback=again, reset_num_timesteps=False)
    assert again.callback.last_best_mean_reward == 15.0


def test_the_log_says_what_was_given_back():
    model, log = resumed(told_model().learn(4, callback=evaluating(5.0))), io.StringIO()
    model.set_logger(Logger(None, [HumanOutputFormat(log)]))
    model.learn(1, callback=evaluating(5.0), reset_num_timesteps=False, log_interval=None)
    told = "Callbacks count on from step 4: EvalCallback of Pays(pay=5.0) (n_calls, num_timesteps,"
    assert told in log.getvalue()


def told_of(*envs: Any) -> str:
    return describe(DummyVecEnv([lambda env=env: env for env in envs]))


def test_an_environment_is_described_by_its_settings_and_its_task():
    assert told_of(Pays(2.0)) == "Pays(pay=2.0)"
    assert told_of(Monitor(Pays(2.0, "rgb_array"))) == "Pays(pay=2.0)"  # how it is rendered is no task
    assert told_of(Pays(2.0), Pays(2.0)) == "Pays(pay=2.0)"
    assert told_of(Pays(2.0), Pays(3.0)) == "Pays(pay=2.0); Pays(pay=3.0)"
    assert told_of(Pays("/maps/one")) == "Pays"  # a place on a machine is no task
    assert told_of(TaskTextWrapper(ActionEnv(), "go left", "hashing")) == "ActionEnv(length=3) 'go left'"


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_environments_in_other_processes_are_described_by_their_task():
    def env() -> TaskTextWrapper:
        return TaskTextWrapper(ActionEnv(), "go left", "hashing")

    envs = SubprocVecEnv([env] * 2, start_method="fork")
    try:
        assert describe(envs) == "SubprocVecEnv 'go left'"
    finally:
        envs.close()
