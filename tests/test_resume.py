"""A training goes on after `LLMDPD.load` as if it had not stopped, and so do all callbacks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import At, make_episodes, tiny_model
from killed import curve, differences
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnNoModelImprovement,
)
from stable_baselines3.common.monitor import Monitor
from toys import ActionEnv

from sb3_llmdpd import LLMDPD, CosineSchedule
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
