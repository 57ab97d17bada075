"""Trainings of a benchmark: finished ones stay, others are run, and other settings are kept apart."""

import json
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from sb3_llmdpd.benchmarks.common.run_folder import RunStopped
from sb3_llmdpd.benchmarks.common.trainings import Training, TrainingsBar, open_folder, run_trainings
from sb3_llmdpd.benchmarks.metaworld.results import GridResults, TrainingCell, gather, read_grid, write_grid
from sb3_llmdpd.evaluation.conditions import Cell, Condition
from sb3_llmdpd.evaluation.results import write_results
from sb3_llmdpd.evaluation.rollouts import Rollout
from sb3_llmdpd.evaluation.tasks import CellResult

TRAININGS = [
    Training(name, seed, {"variant": name, "seed": seed, "eta": 1.0}, work=10)
    for seed in (0, 1)
    for name in ("a", "b/c")
]
CELL = Cell("reach", Condition("text", text_of="reach"), True)
RESULT = CellResult.of(CELL, [Rollout(7, 1.26, 0.8, 5, 2, False)])


class Killed(BaseException):
    """Nothing in the package expects it, so that what it leaves is what a kill leaves."""


class Worker:
    """Runs trainings, and remembers which; does something else at one of them."""

    def __init__(self, stops_at: tuple[str, int] | None = None, by: type[BaseException] = Killed) -> None:
        self.stops_at, self.by = stops_at, by
        self.ran: list[tuple[str, int]] = []
        self.n_ran: list[int] = []

    def __call__(self, training: Training, folder: Path, bar: TrainingsBar) -> None:
        if (training.variant, training.seed) == self.stops_at:
            raise self.by
        bar.advance(training.work)
        write_results(folder / "results.json", [RESULT], training.settings)
        self.ran.append((training.variant, training.seed))


def run(out: Path, worker: Worker) -> list[tuple[str, int]]:
    def finished() -> None:
        worker.n_ran.append(len(worker.ran))

    run_trainings(out, TRAININGS, worker, after_each=finished, show=False)
    return worker.ran


def test_trainings_are_run_in_order_in_their_own_folders_and_reported_each(tmp_path: Path) -> None:
    worker = Worker()
    assert run(tmp_path, worker) == [("a", 0), ("b/c", 0), ("a", 1), ("b/c", 1)]
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json")}
    assert files == {f"{name}/seed-{seed}/results.json" for name in ("a", "b%2Fc") for seed in (0, 1)}
    assert worker.n_ran == [1, 2, 3, 4]


def test_a_killed_benchmark_goes_on_with_the_training_that_was_not_finished(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, Worker(stops_at=("a", 1)))
    assert run(tmp_path, Worker()) == [("a", 1), ("b/c", 1)]
    assert run(tmp_path, Worker()) == []


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    message = f"Stopped by SIGINT in b/c, seed 0. To go on: the command of before with --out {tmp_path}: it"
    with pytest.raises(RunStopped, match=re.escape(message)) as stopped:
        run(tmp_path, Worker(stops_at=("b/c", 0), by=KeyboardInterrupt))
    assert stopped.value.exit_status == 130


def test_results_of_other_settings_are_refused_before_anything_is_run(tmp_path: Path) -> None:
    last, worker = TRAININGS[-1], Worker()
    others = {**last.settings, "eta": 0.5, "gamma": 1.0}
    write_results(last.folder(tmp_path) / "results.json", [RESULT], others)
    said = r"other settings \(eta 0.5 there, 1.0 asked; gamma 1.0 there, null asked\)"
    with pytest.raises(ValueError, match=said):
        run(tmp_path, worker)
    assert worker.ran == []


@pytest.mark.parametrize("in_results", [False, True])
def test_a_folder_keeps_the_settings_of_its_benchmark(in_results: bool, tmp_path: Path) -> None:
    visible: dict[str, Any] = {"goal": "visible", "tasks": ["reach"]}
    if in_results:
        write_results(tmp_path / "results.json", [RESULT], visible)
    open_folder(tmp_path, visible)
    open_folder(tmp_path, visible)
    if in_results:
        (tmp_path / "benchmark.json").unlink()
    with pytest.raises(ValueError, match=r'goal "visible" there, "hidden" asked.*or choose another --out'):
        open_folder(tmp_path, {**visible, "goal": "hidden"})


def test_a_file_that_holds_no_settings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "benchmark.json").write_text("{")
    with pytest.raises(ValueError, match="does not hold the settings of a benchmark"):
        open_folder(tmp_path, {})


def test_the_bar_counts_finished_trainings_but_not_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    with TrainingsBar(TRAININGS, 2, work_left=20) as bar:
        bar.begin(TRAININGS[2])
        bar.skip(5)
        now[0] = 3.0
        bar.advance(5)
        shown = bar.text()
    # Thirty of forty units are done, five of them in three seconds: the last ten take six.
    assert shown.startswith("2/4 trainings; a, seed 1  75%")
    assert shown.endswith("00:03 so far, 00:06 left")


def some_results() -> GridResults:
    cells = tuple(
        TrainingCell(name, seed, "reach", "text", True, (1, 0), (3.5, 0.1))
        for name, seed in product(("a", "b"), (0, 1))
    )
    variants: dict[str, dict[str, str]] = {"a": {"sentence": "first"}, "b": {}}
    return GridResults({"split": "ml45"}, variants, {"cores": 2}, {"torch": "2.8"}, cells)


def test_the_file_has_a_line_for_each_cell_with_the_phases_of_its_episodes(tmp_path: Path) -> None:
    first, *others = some_results().cells
    watched = replace(some_results(), cells=(replace(first, phases=(1.0, 0.5, 0.0, 0.0, 0.0)), *others))
    write_grid(tmp_path / "results.json", watched)
    assert read_grid(tmp_path / "results.json") == watched
    lines = [line for line in (tmp_path / "results.json").read_text().splitlines() if '"task"' in line]
    assert len(lines) == 4
    assert json.loads(lines[1].rstrip(",")) == {
        **{"variant": "a", "seed": 1, "task": "reach", "condition": "text", "seen": True},
        **{"successes": [1, 0], "returns": [3.5, 0.1], "phases": None, "soon": None, "early_returns": None},
    }


def test_scenes_that_two_tasks_share_keep_which_successes_came_soon() -> None:
    told, plain = (Condition(name, text_of="faucet-close") for name in ("told:faucet-close", "text"))
    result = CellResult("faucet-open", told, True, (0, 1), (True, True), (True, True), (1.0, 2.0), (60, 250))
    result = replace(result, expert_steps=59)
    assert TrainingCell.of(TRAININGS[0], result).soon == (1, 0)
    assert TrainingCell.of(TRAININGS[0], replace(result, condition=plain)).soon is None


def test_finished_trainings_are_gathered(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, Worker(stops_at=("b/c", 0)))
    cell = TrainingCell("a", 0, "reach", "text", True, (1,), (1.3,), early_returns=(0.8,))
    assert gather(tmp_path, TRAININGS) == (cell,)


def test_trainings_of_an_earlier_call_are_kept_and_those_run_again_replaced() -> None:
    earlier = some_results()
    new = TrainingCell("b", 1, "reach", "text", True, (1, 1), (5.0, 5.0))
    now = GridResults({"split": "ml45"}, {"b": {"sentence": "second"}}, {"cores": 4}, {}, (new,))
    merged = now.merged(earlier)
    assert merged.cells == (*earlier.cells[:3], new)
    assert merged.variants == {"a": {"sentence": "first"}, "b": {"sentence": "second"}}
    assert merged.hardware == {"cores": 4}
