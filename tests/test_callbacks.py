"""Callbacks: the learning curve, the latest model file, and stopping on a signal."""

import csv
import os
import signal
import threading
from collections.abc import Iterator

import pytest
from factories import At, tiny_model
from killed import without_times
from stable_baselines3.common.logger import Logger

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.llmdpd.callbacks import LearningCurve, SaveLatest, StopOnSignal, read_curve, write_curve


def interrupt(_: LLMDPD) -> None:
    raise KeyboardInterrupt


def send(number: signal.Signals, times: int, step: int) -> At:
    """A callback that signals to this process after a step."""
    return At(step, lambda _: [os.kill(os.getpid(), number) for _ in range(times)])


def test_the_learning_curve_keeps_what_is_logged_and_writes_it(tmp_path):
    curve = LearningCurve(tmp_path / "progress.csv")
    model = tiny_model().learn(6, callback=curve, log_interval=2)
    assert [row["step"] for row in curve.rows] == [2.0, 4.0, 6.0]
    assert curve.rows[-1]["train/learning_rate"] == model.learning_rate
    with (tmp_path / "progress.csv").open() as file:
        written = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert written == curve.rows


def test_each_row_is_in_the_file_when_the_callbacks_of_its_step_are_called(tmp_path):
    curve, seen = LearningCurve(tmp_path / "progress.csv"), []
    look = At(4, lambda _: seen.extend(read_curve(tmp_path / "progress.csv")))
    tiny_model().learn(6, callback=[look, curve], log_interval=2)
    assert seen == curve.rows[:2]


def test_a_curve_in_memory_goes_on_when_the_training_does():
    curve = LearningCurve()
    model = tiny_model().learn(2, callback=curve, log_interval=1)
    model.learn(2, callback=curve, log_interval=1, reset_num_timesteps=False)
    assert [row["step"] for row in curve.rows] == [1.0, 2.0, 3.0, 4.0]


def test_a_training_that_starts_anew_starts_its_curve_anew(tmp_path):
    (tmp_path / "progress.csv").write_text("not a curve")
    curve = LearningCurve(tmp_path / "progress.csv")
    model = tiny_model().learn(2, callback=curve, log_interval=1)
    model.learn(1, callback=curve, log_interval=1)
    assert [row["step"] for row in curve.rows] == [1.0]
    assert read_curve(tmp_path / "progress.csv") == curve.rows


def test_the_file_goes_on_at_the_step_of_the_model_and_later_rows_come_again(tmp_path):
    path = tmp_path / "progress.csv"
    whole = LearningCurve()
    tiny_model().learn(6, callback=whole, log_interval=1)
    model = tiny_model().learn(4, callback=LearningCurve(path), log_interval=1)
    rows_of_a_killed_process = "5.0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1.0\r\n6.0,0."
    path.write_text(path.read_text() + rows_of_a_killed_process)
    curve = LearningCurve(path)
    model.learn(2, callback=curve, log_interval=1, reset_num_timesteps=False)
    assert without_times(curve.rows) == without_times(whole.rows)
    assert read_curve(path) == curve.rows


def test_going_on_with_what_is_no_curve_is_refused(tmp_path):
    (tmp_path / "progress.csv").write_text("a,b\n1,x\n")
    model = tiny_model().learn(1)
    message = r"progress.csv is no learning curve that a training could go on with: move it away"
    with pytest.raises(ValueError, match=message):
        model.learn(1, callback=LearningCurve(tmp_path / "progress.csv"), reset_num_timesteps=False)


@pytest.mark.parametrize("is_same_object", [True, False])
def test_a_training_that_was_interrupted_goes_on_with_one_row_a_step(tmp_path, is_same_object):
    """As in a notebook whose cell runs again: the log is the user's own, and outlives the training."""
    path, model = tmp_path / "progress.csv", tiny_model()
    model.set_logger(Logger(None, []))
    curve = LearningCurve(path)
    with pytest.raises(KeyboardInterrupt):
        model.learn(6, callback=[curve, At(3, interrupt)], log_interval=1)
    again = curve if is_same_object else LearningCurve(path)
    model.learn(3, callback=again, log_interval=1, reset_num_timesteps=False)
    assert [row["step"] for row in again.rows] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert read_curve(path) == again.rows
    assert model.logger.output_formats == []


def test_two_curves_of_one_training_both_get_its_rows(tmp_path):
    curves = [
        LearningCurve(),
        LearningCurve(),
        LearningCurve(tmp_path / "a.csv"),
        LearningCurve(tmp_path / "b"),
    ]
    tiny_model().learn(2, callback=[*curves], log_interval=1)
    assert [len(curve.rows) for curve in curves] == [2, 2, 2, 2]


def test_a_curve_has_a_column_for_each_name_in_any_row(tmp_path):
    write_curve(tmp_path / "curve.csv", [{"step": 1.0}, {"step": 2.0, "loss": 0.5}])
    assert (tmp_path / "curve.csv").read_text().split() == ["step,loss", "1.0,", "2.0,0.5"]


def test_a_name_that_comes_later_gets_its_column(tmp_path):
    curve = LearningCurve(tmp_path / "progress.csv")
    late = At(2, lambda model: model.logger.record("own/value", 7.0))  # is in the line of the next step
    tiny_model().learn(3, callback=[curve, late], log_interval=1)
    assert [row.get("own/value") for row in read_curve(tmp_path / "progress.csv")] == [None, None, 7.0]


@pytest.mark.parametrize("value", [0.1 + 0.2, 1e-300, float("inf"), -0.0])
def test_a_number_comes_back_as_it_was(tmp_path, value):
    write_curve(tmp_path / "curve.csv", [{"step": 1.0, "loss": value}])
    assert read_curve(tmp_path / "curve.csv") == [{"step": 1.0, "loss": value}]


@pytest.mark.parametrize(
    ("trainings", "steps"),
    [([7], [3, 6, 7]), ([4, 3], [3, 4, 6, 7])],
    ids=["in one go", "that goes on at step 4"],
)
def test_a_training_is_saved_at_these_steps_and_at_its_end(trainings, steps, monkeypatch):
    saved: list[int] = []
    monkeypatch.setattr(LLMDPD, "save", lambda self, path: saved.append(self.num_timesteps))
    model = tiny_model()
    for n_steps in trainings:
        model.learn(n_steps, callback=SaveLatest("model.zip", save_freq=3), reset_num_timesteps=False)
    assert saved == steps


def test_the_latest_model_is_one_file(tmp_path):
    tiny_model().learn(4, callback=SaveLatest(tmp_path / "new" / "model.zip", 1))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.zip"]
    assert LLMDPD.load(tmp_path / "new" / "model.zip", device="cpu").num_timesteps == 4


def test_saving_never_is_not_what_it_is_for():
    with pytest.raises(ValueError, match="`save_freq` must be at least one gradient step, got 0"):
        SaveLatest("model.zip", 0)


@pytest.fixture(autouse=True)
def handlers_are_left_as_they_were() -> Iterator[None]:
    expected = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in expected.items()}
    yield
    assert {number: signal.signal(number, handler) for number, handler in before.items()} == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_training_after_the_step(number):
    with StopOnSignal() as stop:
        model = tiny_model().learn(9, callback=[send(number, 1, step=3), stop])
    assert (model.num_timesteps, model._n_updates, stop.stopped_by) == (3, 3, number.name)


def test_without_a_signal_the_training_goes_to_its_end():
    with StopOnSignal() as stop:
        assert tiny_model().learn(3, callback=stop).num_timesteps == 3
    assert stop.stopped_by is None


def test_a_second_ctrl_c_interrupts_at_once():
    model = tiny_model()
    with pytest.raises(KeyboardInterrupt), StopOnSignal() as stop:
        model.learn(5, callback=[send(signal.SIGINT, 2, step=2), stop])
    assert (model.num_timesteps, stop.stopped_by) == (2, "SIGINT")


def test_a_second_sigterm_does_not_cut_the_saving_off(tmp_path):
    latest = SaveLatest(tmp_path / "model.zip", 10)
    with StopOnSignal() as stop:
        tiny_model().learn(5, callback=[send(signal.SIGTERM, 2, step=2), stop, latest])
    assert LLMDPD.load(tmp_path / "model.zip", device="cpu").num_timesteps == 2


def test_the_handlers_come_back_after_an_error_too():
    with pytest.raises(KeyboardInterrupt), StopOnSignal() as stop:
        tiny_model().learn(5, callback=[At(1, interrupt), stop])


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with StopOnSignal() as stop:
        model = tiny_model().learn(3, callback=[send(signal.SIGTERM, 1, step=1), stop])
    assert (model.num_timesteps, stop.stopped_by) == (3, None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_outside_the_main_thread_nothing_listens():
    trained: list[int] = []

    def train() -> None:
        with StopOnSignal() as stop:
            trained.append(tiny_model().learn(2, callback=stop).num_timesteps)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert trained == [2]


def test_outside_its_block_it_says_how_to_use_it():
    message = r"listens inside its block alone: with StopOnSignal\(\) as stop: model.learn"
    with pytest.raises(ValueError, match=message):
        tiny_model().learn(1, callback=StopOnSignal())
