"""The whole way from simulator to table, at a size that takes seconds."""

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.benchmarks.quickstart import QuickstartSettings
from sb3_llmdpd.benchmarks.runs import example_episodes
from sb3_llmdpd.cli import app
from sb3_llmdpd.data.metaworld.tasks import SPLITS, TASKS
from sb3_llmdpd.data.minari import load_minari
from sb3_llmdpd.evaluation.conditions import CONDITIONS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a small run where nothing can draw, and what it printed."""
    out = tmp_path_factory.mktemp("quickstart")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUJOCO_GL", "disabled")
        result = CliRunner().invoke(app, ["quickstart", "--smoke", "--processes", "1", "--seed", "3", "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out, result.output


def test_everything_is_written_and_what_cannot_be_is_said(finished: tuple[Path, str]) -> None:
    out, printed = finished
    files = {path.name for path in out.iterdir()}
    assert files == {
        "data", "run.json", "model.zip", "progress.csv", "curves.png", "results.json", "results.md", "success.png",
    }  # fmt: skip
    assert "No video: drawing is switched off by MUJOCO_GL=disabled" in printed


def test_the_stages_are_announced_and_the_table_comes_last(finished: tuple[Path, str]) -> None:
    _, printed = finished
    parts = ["1/4 Collecting", "2/4 Training", "3/4 Evaluating", "4/4 Filming", "Success at any step", "told the sentence of"]
    places = [printed.index(part) for part in parts]
    assert places == sorted(places)


def test_the_model_learned_the_training_tasks_alone(finished: tuple[Path, str]) -> None:
    model = LLMDPD.load(finished[0] / "model.zip")
    known = set(model.known_task_texts)
    assert model.num_timesteps == QuickstartSettings.smoke().n_steps
    assert known == set(TASKS["reach"].texts) | set(TASKS["pick-place"].texts)


def test_unseen_and_seen_tasks_stand_beside_all_controls(finished: tuple[Path, str]) -> None:
    document = json.loads((finished[0] / "results.json").read_text())
    rows = [(cell["task"], cell["seen"], cell["condition"]["name"]) for cell in document["cells"]]
    of_tasks = [(task, seen, name) for task, seen in (("door-close", False), ("reach", True)) for name in CONDITIONS]
    told = [("pick-place", None, "told:pick-place"), ("pick-place", None, "told:reach")]
    assert rows == of_tasks + told
    assert document["settings"]["seed"] == 3
    assert document["settings"]["unseen_tasks"] == ["door-close"]


def test_the_learning_curve_covers_the_training(finished: tuple[Path, str]) -> None:
    with (finished[0] / "progress.csv").open() as file:
        assert [float(row["step"]) for row in csv.DictReader(file)] == [2.0, 4.0]


def test_examples_are_other_episodes_than_those_of_training(finished: tuple[Path, str]) -> None:
    root = finished[0] / "data"
    trained = load_minari("metaworld/reach-v0", root=root).episodes
    shown = example_episodes(["reach"], 1, seed=3, n_processes=1, root=root)["reach"]
    firsts = [tuple(episode.observations[0]) for episode in (*trained, *shown)]  # type: ignore[index]
    assert len(set(firsts)) == 3


def test_the_quickstarts_own_tasks_are_ml45() -> None:
    settings = QuickstartSettings()
    assert (settings.train_tasks, settings.unseen_tasks) == SPLITS["ml45"]
    assert set(settings.seen_tasks) <= set(settings.train_tasks)
    assert settings.n_episodes == 10
