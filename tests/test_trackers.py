"""Trackers: the log of a training in tensorboard, wandb and trackio, and runs that go on."""

import json
import sys
from pathlib import Path

import pytest
from factories import make_episodes, tiny_model
from stable_baselines3.common.logger import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_cli import TINY, run

from sb3_llmdpd import OfflineDataset
from sb3_llmdpd.data.npz import write_npz
from sb3_llmdpd.llmdpd.trackers import RunWriter, check_trackers, make_logger

STUB = """
import json, pathlib
FILE = pathlib.Path({path!r})
def note(*entry):
    with FILE.open("a") as file:
        file.write(json.dumps(entry) + "\\n")
class Run:
    def log(self, numbers, step):
        note("log", step, numbers)
    def finish(self):
        note("finish")
def init(**arguments):
    note("init", arguments)
    return Run()
"""


@pytest.fixture(params=["wandb", "trackio"])
def service(request, tmp_path, monkeypatch):
    """A package that notes in a file what it is told; its name, and a reader of the file."""
    name, notes = request.param, tmp_path / "notes"
    (tmp_path / "stubs").mkdir()
    (tmp_path / "stubs" / f"{name}.py").write_text(STUB.format(path=str(notes)))
    monkeypatch.syspath_prepend(tmp_path / "stubs")
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # so that no later test finds another
    yield name, lambda: [json.loads(line) for line in notes.read_text().splitlines()]
    sys.modules.pop(name, None)


def test_a_service_gets_the_numbers_of_each_step_and_the_settings(service, tmp_path):
    name, told = service
    model, logger = tiny_model(), make_logger(tmp_path / "runs", [name], {"seed": 3})
    model.set_logger(logger)
    model.learn(4, log_interval=2)
    logger.close()
    begun, *logged, ended = told()
    run_id = (tmp_path / "runs" / "run_id.txt").read_text()
    assert begun[1]["config"] == {"seed": 3}
    assert begun[1]["project"] == "sb3_llmdpd"
    assert run_id in (begun[1].get("id"), begun[1].get("name"))
    assert [entry[1] for entry in logged] == [2, 4]
    assert logged[0][2]["train/bc_loss"] > 0
    assert ended == ["finish"]


def test_a_run_that_goes_on_keeps_its_name_and_a_new_one_gets_another(service, tmp_path):
    name, told = service
    for resume in (False, True, False):
        make_logger(tmp_path / "runs", [name], resume=resume).close()
    first, second, third = (entry[1].get("id") or entry[1]["name"] for entry in told() if entry[0] == "init")
    assert first == second
    assert first != third


def test_what_is_kept_from_a_service_or_no_number_is_not_sent():
    class Kept:
        def log(self, numbers, step):
            self.sent = numbers

    run_of = Kept()
    values = {"a": 1, "b": 2.0, "c": "a word", "d": Figure(None, True)}
    RunWriter(run_of, "wandb").write(values, {"a": ("wandb",), "b": ("stdout",)}, 1)
    assert run_of.sent == {"b": 2.0}


def scalars(folder: Path) -> list[int]:
    events = EventAccumulator(str(folder)).Reload().scalars
    return [event.step for event in events.Items("train/bc_loss")]


def test_tensorboard_and_csv_lie_in_the_folder_of_the_run(tmp_path):
    model, logger = tiny_model(), make_logger(tmp_path, ["tensorboard", "csv"])
    model.set_logger(logger)
    model.learn(2, log_interval=1)
    logger.close()
    place = tmp_path / (tmp_path / "run_id.txt").read_text()
    assert scalars(place) == [1, 2]
    assert len((place / "progress.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("trackers", [["tensorbord"], []])
def test_an_unknown_tracker_is_refused(trackers):
    with pytest.raises(ValueError, match="a tracker is one of tensorboard, wandb, trackio, csv, got"):
        check_trackers(trackers)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_names_its_extra(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"pip install 'sb3-llmdpd\[{name}\]'"):
        make_logger(tmp_path / "runs", [name])
    assert not (tmp_path / "runs").exists()


def test_a_log_for_tensorboard_without_it_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'sb3-llmdpd\[tensorboard\]'"):
        tiny_model(tensorboard_log=str(tmp_path)).learn(1)


@pytest.fixture
def data(tmp_path):
    found = OfflineDataset.from_episodes(make_episodes())
    write_npz(tmp_path / "data.npz", found.episodes, found.observation_space, found.action_space)
    return tmp_path / "data.npz"


def test_the_command_goes_on_with_the_tracked_run(service, tmp_path, data):
    name, told = service
    out = tmp_path / "run"
    first = run(f"train {TINY} --track csv,{name} --dataset", data, "--out", out)
    assert first.exit_code == 0, first.output
    second = run("train --steps 4 --resume", out)
    assert second.exit_code == 0, second.output
    begun = [entry[1] for entry in told() if entry[0] == "init"]
    assert len({entry.get("id") or entry["name"] for entry in begun}) == 1
    assert begun[0]["config"]["batch_size"] == 4
    assert [entry[1] for entry in told() if entry[0] == "log"] == [1, 2, 3, 4]


def test_the_command_refuses_an_unknown_tracker_before_anything_is_written(tmp_path, data):
    said = run(f"train {TINY} --track tensorbord --dataset", data, "--out", tmp_path / "run")
    assert said.exit_code == 2
    assert "Error: a tracker is one of tensorboard, wandb, trackio, csv, got 'tensorbord'" in said.output
    assert not (tmp_path / "run").exists()


def test_two_logs_for_tensorboard_are_refused(tmp_path, data):
    said = run(f"train {TINY} --track tensorboard --tensorboard-log logs --dataset", data)
    assert "Error: pass either --track tensorboard or --tensorboard-log, not both" in said.output
