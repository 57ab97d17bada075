"""Stable-Baselines3's tests of logging, asked of LLMDPD; each says which one it answers."""

import csv
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import model_of
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import (
    CSVOutputFormat,
    HParam,
    HumanOutputFormat,
    JSONOutputFormat,
    Logger,
    TensorBoardOutputFormat,
    configure,
)
from stable_baselines3.common.vec_env import DummyVecEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toys import ActionEnv

from sb3_llmdpd import LLMDPD


@pytest.fixture(autouse=True)
def closed_logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SB3 leaves the files of a log open when the next one begins."""
    loggers: list[Logger] = []
    make = Logger.__init__

    def remember(self: Logger, *args: Any, **kwargs: Any) -> None:
        loggers.append(self)
        make(self, *args, **kwargs)

    monkeypatch.setattr(Logger, "__init__", remember)
    yield
    for logger in loggers:
        logger.close()


def toy_model(**kwargs: Any) -> LLMDPD:
    return model_of(ActionEnv(), **kwargs)


def formats(model: LLMDPD) -> list[type]:
    return [type(output) for output in model.logger.output_formats]


@pytest.mark.parametrize(
    ("verbose", "with_tensorboard", "expected"),
    [
        (0, False, []),
        (0, True, [TensorBoardOutputFormat]),
        (1, False, [HumanOutputFormat]),
        (1, True, [HumanOutputFormat, TensorBoardOutputFormat]),
    ],
)
def test_verbosity_and_folder_say_where_the_log_goes(tmp_path, verbose, with_tensorboard, expected):
    """Answers `test_logger.py::test_set_logger`: what holds without a logger of the user's."""
    folder = str(tmp_path) if with_tensorboard else None
    model = toy_model(verbose=verbose, tensorboard_log=folder).learn(1)
    assert formats(model) == expected
    assert (str(tmp_path) in model.logger.dir) == with_tensorboard


def test_an_environment_variable_says_where_logs_lie(tmp_path, monkeypatch):
    """Answers `test_logger.py::test_set_logger`: SB3_LOGDIR."""
    monkeypatch.setenv("SB3_LOGDIR", str(tmp_path / "elsewhere"))
    assert toy_model().learn(1).logger.dir == str(tmp_path / "elsewhere")


@pytest.mark.parametrize("learned_before", [False, True])
def test_a_logger_of_the_users_is_kept(tmp_path, learned_before):
    """Answers `test_logger.py::test_set_logger`: also where the model wrote elsewhere before."""
    model = toy_model(verbose=1, tensorboard_log=str(tmp_path / "own") if learned_before else None)
    if learned_before:
        model.learn(1)
    model.set_logger(configure(str(tmp_path / "set"), ["stdout", "csv", "tensorboard"]))
    expected = [HumanOutputFormat, CSVOutputFormat, TensorBoardOutputFormat]
    assert formats(model) == expected
    model.learn(2)
    assert formats(model) == expected
    assert model.logger.dir == str(tmp_path / "set")


def read_csv(folder: Path) -> list[dict[str, Any]]:
    with (folder / "progress.csv").open() as file:
        return list(csv.DictReader(file))


def read_json(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "progress.json").read_text().splitlines()]


def read_tensorboard(folder: Path) -> list[dict[str, Any]]:
    scalars = EventAccumulator(str(folder)).Reload().scalars
    lines: dict[int, dict[str, Any]] = {}
    for key in scalars.Keys():
        for event in scalars.Items(key):
            lines.setdefault(event.step, {"time/total_timesteps": event.step})[key] = event.value
    return list(lines.values())


READERS: dict[str, tuple[type, Callable[[Path], list[dict[str, Any]]]]] = {
    "csv": (CSVOutputFormat, read_csv),
    "json": (JSONOutputFormat, read_json),
    "tensorboard": (TensorBoardOutputFormat, read_tensorboard),
}


@pytest.mark.parametrize("name", READERS)
def test_a_log_for_programs_holds_every_loss_at_its_step(tmp_path, name):
    """Answers `test_logger.py::test_make_output` with what training writes."""
    output_format, read = READERS[name]
    model = toy_model()
    model.set_logger(configure(str(tmp_path), [name]))
    assert formats(model) == [output_format]
    model.learn(4, log_interval=2)
    lines = read(tmp_path)
    assert [int(line["time/total_timesteps"]) for line in lines] == [2, 4]
    for line in lines:
        losses = [float(line[f"train/{loss}"]) for loss in ("actor_loss", "bc_loss", "critic_loss")]
        assert np.isfinite(losses).all()
        assert losses[1] > 0
        assert float(line["train/learning_rate"]) == pytest.approx(1e-3)
        assert ("train/n_updates" in line) == (name != "tensorboard")  # answers test_exclude_keys


@pytest.mark.parametrize("name", ["stdout", "log"])
def test_a_log_for_people_holds_every_loss(tmp_path, name, capsys):
    """Answers `test_logger.py::test_make_output` and `test_key_length`: no key is cut into another."""
    model = toy_model()
    model.set_logger(configure(str(tmp_path), [name]))
    model.learn(2, log_interval=1)
    text = capsys.readouterr().out if name == "stdout" else (tmp_path / "log.txt").read_text()
    keys = ("gradient_steps_per_s", "critic_learning_rate", "actor_loss")
    assert [text.count(key) for key in keys] == [2, 2, 2]


class Hyperparameters(BaseCallback):
    """Logs what the model was made with, as SB3's documentation shows."""

    def _on_training_start(self) -> None:
        values = {"algorithm": type(self.model).__name__, "gamma": self.model.gamma}
        hparam = HParam(values, {"train/actor_loss": 0.0})
        self.logger.record("hparams", hparam, exclude=("stdout", "log", "json", "csv"))

    def _on_step(self) -> bool:
        return True


def test_runs_of_tensorboard_have_names_and_numbers(tmp_path):
    """Answers `test_tensorboard.py::test_tensorboard` and `test_escape_log_name`."""
    model = toy_model(verbose=1, tensorboard_log=str(tmp_path))
    model.learn(2, callback=Hyperparameters(), log_interval=1)
    model.learn(2, reset_num_timesteps=False, log_interval=1)
    assert [path.name for path in tmp_path.iterdir()] == ["LLMDPD_1"]
    events = EventAccumulator(str(tmp_path / "LLMDPD_1")).Reload()
    # In any order: tensorboard reads files of one second by name, a tenth before a ninth of one process.
    steps = sorted(event.step for event in events.scalars.Items("train/actor_loss"))
    assert steps[-4:] == [1, 2, 3, 4]
    assert "_hparams_/session_start_info" in events.summary_metadata

    for _ in range(2):
        model.learn(1, tb_log_name="name[16, 16]")
    assert {path.name for path in tmp_path.iterdir()} == {"LLMDPD_1", "name[16, 16]_1", "name[16, 16]_2"}


class InMemory(Logger):
    """Keeps what is recorded."""

    def __init__(self) -> None:
        super().__init__(None, [])

    def dump(self, step: int = 0) -> None:
        pass


class Slow(BaseCallback):
    """A hundredth of a second for each step."""

    def _on_step(self) -> bool:
        time.sleep(0.01)
        return True


@pytest.mark.parametrize("n_envs", [1, 3])
def test_the_speed_is_that_of_the_last_call_of_learn(n_envs):
    """Answers `test_logger.py::test_fps_logger`; gradient steps are counted, whatever the environments."""
    model, logger = model_of(DummyVecEnv([ActionEnv] * n_envs)), InMemory()
    model.set_logger(logger)
    fastest = 100 * 8 / 7  # the last sleep comes after the log
    for reset in (True, True, False):
        model.learn(8, callback=Slow(), log_interval=8, reset_num_timesteps=reset)
        assert 1 <= logger.name_to_value["time/gradient_steps_per_s"] <= fastest
        model.num_timesteps = 20_000


@pytest.mark.parametrize("log_interval", [1, 4])
def test_a_clock_that_stands_still_divides_nothing_by_zero(log_interval, monkeypatch):
    """Answers `test_logger.py::test_fps_no_div_zero`."""
    monkeypatch.setattr("time.time", lambda: 42.0)
    monkeypatch.setattr("time.time_ns", lambda: 42)
    model, logger = toy_model(), InMemory()
    model.set_logger(logger)
    model.learn(4, log_interval=log_interval)
    assert np.isfinite(logger.name_to_value["time/gradient_steps_per_s"])


@pytest.mark.parametrize("stats_window_size", [1, 42])
def test_the_window_of_sb3s_statistics_can_be_chosen(stats_window_size, tmp_path):
    """Answers `test_logger.py::test_ep_buffers_stats_window_size`, also of a loaded model."""
    model = toy_model(stats_window_size=stats_window_size).learn(1)
    model.save(tmp_path / "model")
    for made in (model, LLMDPD.load(tmp_path / "model", dataset=model.replay_buffer, device="cpu").learn(1)):
        assert made.ep_info_buffer.maxlen == made.ep_success_buffer.maxlen == stats_window_size
