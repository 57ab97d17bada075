"""A grid of cells: what is finished stays, what is not is run, and other settings are kept apart."""

import json
import re
from dataclasses import replace
from pathlib import Path

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
RESULT = CellResult.of(
    Cell("reach", Condition("text", text_of="reach"), True), [Rollout(7, 1.26, 5, 2, False)]
)


class Killed(BaseException):
    """Nothing in the package expects it, so that what it leaves is what a kill leaves."""


class Worker:
    """Runs cells, and remembers which; does something else at one of them."""

    def __init__(self, stops_at: tuple[str, int] | None = None, by: type[BaseException] = Killed) -> None:
        self.stops_at, self.by = stops_at, by
        self.ran: list[tuple[str, int]] = []

    def __call__(self, cell: Training, folder: Path, bar: TrainingsBar) -> None:
        if (cell.variant, cell.seed) == self.stops_at:
            raise self.by
        bar.advance(cell.work)
        write_results(folder / "results.json", [RESULT], cell.settings)
        self.ran.append((cell.variant, cell.seed))


def run(out: Path, worker: Worker) -> list[tuple[str, int]]:
    run_trainings(out, TRAININGS, worker, after_each=lambda: None, show=False)
    return worker.ran


def test_cells_are_run_in_their_order_in_folders_of_their_own(tmp_path: Path) -> None:
    assert run(tmp_path, Worker()) == [("a", 0), ("b/c", 0), ("a", 1), ("b/c", 1)]
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json")}
    assert files == {f"{name}/seed-{seed}/results.json" for name in ("a", "b%2Fc") for seed in (0, 1)}


def test_a_killed_grid_goes_on_with_the_cell_that_was_not_finished(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, Worker(stops_at=("a", 1)))
    assert run(tmp_path, Worker()) == [("a", 1), ("b/c", 1)]
    assert run(tmp_path, Worker()) == []


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    message = f"Stopped by SIGINT in b/c, seed 0. To go on: the command of before with --out {tmp_path}: it runs what is not"
    with pytest.raises(RunStopped, match=re.escape(message)) as stopped:
        run(tmp_path, Worker(stops_at=("b/c", 0), by=KeyboardInterrupt))
    assert stopped.value.exit_status == 130


def test_the_caller_is_told_after_each_cell(tmp_path: Path) -> None:
    worker = Worker()
    finished: list[int] = []
    run_trainings(
        tmp_path, TRAININGS, worker, after_each=lambda: finished.append(len(worker.ran)), show=False
    )
    assert finished == [1, 2, 3, 4]


def test_results_of_other_settings_are_refused_before_anything_is_run(tmp_path: Path) -> None:
    last = TRAININGS[-1]
    write_results(
        last.folder(tmp_path) / "results.json", [RESULT], {**last.settings, "eta": 0.5, "gamma": 1.0}
    )
    worker = Worker()
    with pytest.raises(
        ValueError, match=r"other settings \(eta 0.5 there, 1.0 asked; gamma 1.0 there, null asked\)"
    ):
        run(tmp_path, worker)
    assert worker.ran == []


def test_a_folder_keeps_the_settings_of_its_grid(tmp_path: Path) -> None:
    open_folder(tmp_path / "grid", {"goal": "visible", "tasks": ["reach"]})
    open_folder(tmp_path / "grid", {"goal": "visible", "tasks": ["reach"]})
    with pytest.raises(ValueError, match=r'goal "visible" there, "hidden" asked.*or choose another --out'):
        open_folder(tmp_path / "grid", {"goal": "hidden", "tasks": ["reach"]})


def test_a_file_that_holds_no_settings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "benchmark.json").write_text("{")
    with pytest.raises(ValueError, match="does not hold the settings of a benchmark"):
        open_folder(tmp_path, {})


# The bar --------------------------------------------------------------------------------------------------------------------


def test_the_bar_counts_finished_cells_but_not_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
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


# Results --------------------------------------------------------------------------------------------------------------------


def some_results() -> GridResults:
    cells = tuple(
        TrainingCell(name, seed, "reach", "text", True, (1, 0), (3.5, 0.1))
        for name in ("a", "b")
        for seed in (0, 1)
    )
    return GridResults(
        {"split": "ml45"}, {"a": {"sentence": "first"}, "b": {}}, {"cores": 2}, {"torch": "2.8"}, cells
    )


def test_results_of_a_grid_survive_the_way_through_their_file(tmp_path: Path) -> None:
    write_grid(tmp_path / "results.json", some_results())
    assert read_grid(tmp_path / "results.json") == some_results()


def test_the_file_has_a_line_for_each_task_and_condition(tmp_path: Path) -> None:
    write_grid(tmp_path / "results.json", some_results())
    lines = [line for line in (tmp_path / "results.json").read_text().splitlines() if '"task"' in line]
    assert len(lines) == 4
    assert json.loads(lines[0].rstrip(",")) == {
        "variant": "a",
        "seed": 0,
        "task": "reach",
        "condition": "text",
        "seen": True,
        "successes": [1, 0],
        "returns": [3.5, 0.1],
        "phases": None,
        "soon": None,
    }


def test_the_file_keeps_how_far_the_episodes_came(tmp_path: Path) -> None:
    watched = replace(
        some_results(), cells=(replace(some_results().cells[0], phases=(1.0, 0.5, 0.0, 0.0, 0.0)),)
    )
    write_grid(tmp_path / "results.json", watched)
    assert read_grid(tmp_path / "results.json") == watched


def test_scenes_that_two_tasks_share_keep_which_successes_came_soon() -> None:
    told = Condition("told:faucet-close", text_of="faucet-close")
    result = CellResult("faucet-open", told, True, (0, 1), (True, True), (True, True), (1.0, 2.0), (60, 250))
    assert TrainingCell.of(TRAININGS[0], result).soon == (1, 0)
    assert (
        TrainingCell.of(
            TRAININGS[0], replace(result, condition=Condition("text", text_of="faucet-open"))
        ).soon
        is None
    )


def test_finished_cells_are_gathered(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, Worker(stops_at=("b/c", 0)))
    found = gather(tmp_path, {"goal": "visible"}, {"a": {}, "b/c": {}}, TRAININGS)
    assert found.cells == (TrainingCell("a", 0, "reach", "text", True, (1,), (1.3,)),)


def test_rows_of_an_earlier_call_are_kept_and_those_run_again_replaced() -> None:
    earlier = some_results()
    new = TrainingCell("b", 1, "reach", "text", True, (1, 1), (5.0, 5.0))
    merged = GridResults({"split": "ml45"}, {"b": {"sentence": "second"}}, {"cores": 4}, {}, (new,)).merged(
        earlier
    )
    assert merged.cells == (*earlier.cells[:3], new)
    assert merged.variants == {"a": {"sentence": "first"}, "b": {"sentence": "second"}}
    assert merged.hardware == {"cores": 4}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "does not hold results of sb3_llmdpd \\(JSONDecodeError"),
        ("[]", "does not hold results"),
        ('{"format_version": 2}', "does not hold results"),
        (
            '{"format_version": 99}',
            "has format version 99 of results of kind None, and this sb3_llmdpd reads versions up to 3",
        ),
    ],
)
def test_a_file_that_holds_no_results_of_a_grid_is_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_grid(tmp_path / "results.json")
