"""The whole way from simulator to table, at a size that takes seconds."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from killed import differences, without_progress_bar
from typer.testing import CliRunner, Result

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.benchmarks.common.ownership import owned
from sb3_llmdpd.benchmarks.metaworld.examples import example_episodes
from sb3_llmdpd.benchmarks.quickstart import QuickstartSettings
from sb3_llmdpd.cli import app
from sb3_llmdpd.data.metaworld.tasks import SPLITS, TASKS
from sb3_llmdpd.data.minari import load_minari
from sb3_llmdpd.evaluation.conditions import CONDITIONS

pytestmark = pytest.mark.slow
Finished = tuple[Path, str]


def run(out: Path, *options: str) -> Result:
    given = ["quickstart", "--smoke", "--processes", "1", "--seed", "3", "--out", str(out), *options]
    return CliRunner().invoke(app, given)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The folder of a small run where nothing can draw, and what it printed."""
    out = tmp_path_factory.mktemp("quickstart")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUJOCO_GL", "disabled")
        result = run(out)
    assert result.exit_code == 0, result.output
    return out, result.output


def test_everything_is_written_and_what_cannot_be_is_said(finished: Finished) -> None:
    out, printed = finished
    of_run, of_evaluation = ("run.json", "model.zip", "progress.csv"), ("results.json", "results.md")
    files = {path.name for path in out.iterdir()}
    assert files == {".lock", "data", *of_run, *of_evaluation, "curves.png", "success.png"}
    assert "No video: drawing is switched off by MUJOCO_GL=disabled" in printed


def test_the_stages_are_announced_and_the_table_comes_last(finished: Finished) -> None:
    _, printed = finished
    stages = ("1/4 Collecting", "2/4 Training", "3/4 Evaluating", "4/4 Filming")
    places = [printed.index(part) for part in (*stages, "Success at any step", "told the sentence of")]
    assert places == sorted(places)


def test_the_model_learned_the_training_tasks_alone(finished: Finished) -> None:
    model = LLMDPD.load(finished[0] / "model.zip")
    known = set(model.known_task_texts)
    assert model.num_timesteps == QuickstartSettings.smoke().n_steps
    assert known == set(TASKS["reach"].texts) | set(TASKS["pick-place"].texts)


def test_unseen_and_seen_tasks_stand_beside_all_controls(finished: Finished) -> None:
    document = json.loads((finished[0] / "results.json").read_text())
    rows = [(cell["task"], cell["seen"], cell["condition"]["name"]) for cell in document["cells"]]
    evaluated = (("door-close", False), ("reach", True))
    of_tasks = [(task, seen, name) for task, seen in evaluated for name in CONDITIONS]
    told = [("pick-place", None, "told:pick-place"), ("pick-place", None, "told:reach")]
    assert rows == of_tasks + told
    assert document["settings"]["seed"] == 3
    assert document["settings"]["unseen_tasks"] == ["door-close"]


def test_the_learning_curve_covers_the_training(finished: Finished) -> None:
    with (finished[0] / "progress.csv").open() as file:
        assert [float(row["step"]) for row in csv.DictReader(file)] == [2.0, 4.0]


def test_examples_are_other_episodes_than_those_of_training(finished: Finished) -> None:
    root = finished[0] / "data"
    trained = load_minari("metaworld/reach-v0", root=root).episodes
    shown = example_episodes(["reach"], 1, seed=3, n_processes=1, root=root)["reach"]
    firsts = [tuple(episode.observations[0]) for episode in (*trained, *shown)]
    assert len(set(firsts)) == 3


class _Reached(Exception):
    """A stage was reached that would do the work once more."""


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let the training take its steps, and end before the evaluation."""

    def evaluate(*args: Any, **kwargs: Any) -> None:
        raise _Reached("evaluation")

    monkeypatch.setattr("sb3_llmdpd.benchmarks.quickstart.evaluate_into", evaluate)
    return monkeypatch


def test_a_training_that_was_stopped_goes_on_when_the_command_is_given_again(finished, stages, tmp_path):
    shutil.copytree(finished[0] / "data", tmp_path / "data")
    take_step = LLMDPD.train

    def step(self: LLMDPD, *args: Any, **kwargs: Any) -> None:
        take_step(self, *args, **kwargs)
        if self.num_timesteps == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LLMDPD, "train", step)
        stopped = run(tmp_path)
    assert stopped.exit_code == 143
    assert f"To go on: the command of before: sb3-llmdpd quickstart --out {tmp_path}" in stopped.output
    again = run(tmp_path)
    assert "from step 3 on, where the run before this one was stopped" in again.output
    assert isinstance(again.exception, _Reached)
    assert differences(tmp_path, finished[0]) == set()


@pytest.mark.parametrize(("with_results", "reached"), [(False, "evaluation"), (True, "training")])
def test_a_finished_training_is_done_once_more_where_its_results_are_there(
    with_results: bool, reached: str, finished: Finished, stages: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def step(*args: Any, **kwargs: Any) -> None:
        raise _Reached("training")

    stages.setattr(LLMDPD, "learn", without_progress_bar(LLMDPD.learn))
    stages.setattr(LLMDPD, "train", step)
    shutil.copytree(finished[0], tmp_path / "run")
    if not with_results:
        (tmp_path / "run" / "results.json").unlink()
    assert str(run(tmp_path / "run").exception) == reached


def test_the_model_of_other_settings_is_kept_and_the_ways_on_are_named(finished: Finished) -> None:
    before = (finished[0] / "model.zip").read_bytes()
    result = run(finished[0], "--seed", "4")
    assert result.exit_code == 2
    go_on = f"the command of before: sb3-llmdpd quickstart --out {finished[0]}"
    assert f"Go on with {go_on}; or begin elsewhere, with another --out" in result.output
    assert "1/4 Collecting" not in result.output
    assert (finished[0] / "model.zip").read_bytes() == before


def test_a_folder_that_a_process_works_in_is_left_to_it(finished: Finished) -> None:
    with owned(finished[0]):
        result = run(finished[0])
    assert result.exit_code == 2
    assert f"process {os.getpid()} works in {finished[0]}" in result.output


def test_the_quickstarts_own_tasks_are_ml45() -> None:
    settings = QuickstartSettings()
    assert (settings.train_tasks, settings.unseen_tasks) == SPLITS["ml45"]
    assert set(settings.seen_tasks) <= set(settings.train_tasks)
    assert settings.n_episodes == 10
