"""Grids with other hold-outs, read as one."""

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sb3_llmdpd.benchmarks.metaworld.pooled import pooled
from sb3_llmdpd.benchmarks.metaworld.report import POOLED, facts
from sb3_llmdpd.benchmarks.metaworld.results import GridResults, TrainingCell, read_grid, write_grid
from sb3_llmdpd.benchmarks.metaworld.tables import MOST_COLUMNS, tables
from sb3_llmdpd.cli import app

SHARED = {
    "goal": "visible",
    "data": "mixed",
    "n_episodes": 20,
    "n_steps": 100,
    "n_unseen_episodes": 2,
    "n_seen_episodes": 2,
    "max_episode_steps": 500,
    "stop_at_success": True,
}
ROWS = {"full": {"sentence": "the method"}, "bc": {"sentence": "cloning"}}


def grid(
    split: str, unseen: dict[str, float], seen: dict[str, float], rows: tuple[str, ...] = ("full", "bc")
) -> GridResults:
    """Two seeds, told both; `full` has the rates given, and all others none."""
    cells = []
    for row in rows:
        for seed, (task, rate) in product((0, 1), [*unseen.items(), *seen.items()]):
            successes = tuple(int(row == "full" and episode < 2 * rate) for episode in range(2))
            cells.append(
                TrainingCell(row, seed, task, "text+trajectory", task in seen, successes, (0.0, 0.0))
            )
    tasks = {"train_tasks": [*seen], "unseen_tasks": [*unseen], "goal_known_tasks": []}
    settings: dict[str, Any] = {**SHARED, "split": split, **tasks}
    variants = {row: ROWS[row] for row in rows}
    return GridResults(settings, variants, {"machine": "x86_64", "cores": 2}, {}, tuple(cells))


FIRST = grid("fold-0", {"reach": 1.0}, {"push": 0.5, "door-open": 1.0})
SECOND = grid("fold-1", {"push": 0.5}, {"reach": 0.5, "door-open": 0.0})


def rate_of(results: GridResults, column: str, row: str = "full") -> str:
    table = tables(results)[0]
    (found,) = (cells for cells in table.rows if cells[0] == row)
    return found[table.header.index(column)].partition(" ")[0]


def test_the_mean_over_unseen_tasks_is_that_of_each_where_it_was_unseen() -> None:
    together = pooled([FIRST, SECOND])
    assert rate_of(together, "unseen (2)") == "0.75"
    assert rate_of(together, "reach") == "1.00"
    assert rate_of(together, "push") == "0.50"


def test_the_mean_over_seen_tasks_is_over_all_grids() -> None:
    assert rate_of(pooled([FIRST, SECOND]), "seen (3)") == "0.50"  # 0.75 in one and 0.25 in the other


def test_each_seed_of_each_grid_is_a_training() -> None:
    assert tables(pooled([FIRST, SECOND]))[0].rows[0][2] == "4"


def test_a_row_is_held_against_another_on_the_same_scenes() -> None:
    above = tables(pooled([FIRST, SECOND]))[1]
    assert above.rows[0][0] == "bc"
    assert above.rows[0][3].startswith("0.75 ")


def test_the_interval_says_how_hold_outs_differ_where_their_episodes_agree() -> None:
    none = grid("fold-1", {"push": 0.0}, {"reach": 1.0})
    assert tables(FIRST)[0].rows[0][4] == "1.00 [1.00, 1.00]"
    assert tables(pooled([FIRST, none]))[0].rows[0][4] == "0.50 [0.00, 1.00]"


def test_rows_that_are_missing_in_one_grid_are_left_out() -> None:
    together = pooled([FIRST, grid("fold-1", {"push": 0.5}, {"reach": 0.5}, rows=("full",))])
    assert list(together.variants) == ["full"]
    assert {cell.variant for cell in together.cells} == {"full"}


def test_seeds_that_are_missing_in_one_grid_are_left_out() -> None:
    second = replace(SECOND, cells=tuple(cell for cell in SECOND.cells if cell.seed == 0))
    assert tables(pooled([FIRST, second]))[0].rows[0][2] == "2"


def test_one_grid_is_that_grid() -> None:
    assert pooled([FIRST]) is FIRST


def test_the_facts_name_each_hold_out_and_say_what_a_seed_is() -> None:
    said = facts(pooled([FIRST, SECOND]))
    assert said[:3] == [
        "Split fold-0: trained on 2 tasks; unseen are reach.",
        "Split fold-1: trained on 2 tasks; unseen are push.",
        POOLED,
    ]


def test_many_unseen_tasks_are_rows_of_their_own_table() -> None:
    many = grid("third-0", {f"task-{number}": 0.5 for number in range(MOST_COLUMNS)}, {"push": 1.0})
    together = pooled([many, FIRST])
    success, _, by_task, _ = tables(together)
    assert success.header == ("row", "told", "seeds", "seen (2)", f"unseen ({MOST_COLUMNS + 1})")
    assert by_task.title == "Success on each unseen task"
    assert by_task.rows[0] == ("task-0", "0.50", "0.00")
    assert by_task.rows[-1] == ("reach", "1.00", "0.00")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda grid: replace(grid, settings={**grid.settings, "n_steps": 200}),
            "'n_steps' of one is 100 and of another 200",
        ),
        (
            lambda grid: replace(grid, variants={**grid.variants, "bc": {"sentence": "other"}}),
            "the variant 'bc' of one is {'sentence': 'cloning'} and of another {'sentence': 'other'}",
        ),
        (
            lambda grid: replace(grid, settings={**grid.settings, "unseen_tasks": ["reach"]}),
            "hold out the same tasks",
        ),
        (
            lambda grid: replace(grid, cells=tuple(replace(cell, seed=5) for cell in grid.cells)),
            "no variant of the same seed in common, which is what can be read together: bc with seed 0; bc"
            " with seed 1;",
        ),
        (lambda grid: pooled([grid, SECOND]), "give the folders of all of them"),
    ],
    ids=["setting", "row", "hold-out", "seed", "read together before"],
)
def test_grids_that_do_not_fit_are_refused(change: Callable[[GridResults], GridResults], said: str) -> None:
    third = grid("fold-2", {"door-open": 1.0}, {"reach": 1.0})
    with pytest.raises(ValueError, match=re.escape(said)):
        pooled([FIRST, change(third)])


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Two benchmarks."""
    for name, results in (("first", FIRST), ("second", SECOND)):
        (tmp_path / name).mkdir()
        write_grid(tmp_path / name / "results.json", results)
        (tmp_path / name / "benchmark.json").write_text("{}")
    return [str(tmp_path / "first"), str(tmp_path / "second")]


def test_several_folders_make_one_report(folders: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["benchmark", "report", *folders, "--out", str(tmp_path / "both")])
    assert result.exit_code == 0, result.output
    assert "unseen (2)" in result.output
    files = {path.name for path in (tmp_path / "both").iterdir()}
    assert files == {"results.json", "report.md", "report.html"}
    assert read_grid(tmp_path / "both" / "results.json") == pooled([FIRST, SECOND])


def test_the_report_of_several_is_made_anew_from_its_own_results(folders: list[str], tmp_path: Path) -> None:
    CliRunner().invoke(app, ["benchmark", "report", *folders, "--out", str(tmp_path / "both")])
    before = (tmp_path / "both" / "report.md").read_text()
    (tmp_path / "both" / "report.md").unlink()
    assert CliRunner().invoke(app, ["benchmark", "report", str(tmp_path / "both")]).exit_code == 0
    assert (tmp_path / "both" / "report.md").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["first", "second"], "got 2 folders and no --out"),
        (["first", "--out", "both"], "got 1 folder"),
        (["first", "second", "--out", "second"], "results stay as they are"),
        (["first", "of-d4rl", "--out", "both"], "has results of kind 'd4rl'"),
        (["first", "nowhere", "--out", "both"], "nowhere"),
    ],
    ids=["no folder for it", "one", "a benchmark's folder", "D4RL", "no such folder"],
)
def test_what_cannot_be_read_together_is_an_error_and_nothing_is_written(
    arguments: list[str], said: str, folders: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of-d4rl").mkdir()
    (tmp_path / "of-d4rl" / "results.json").write_text('{"format_version": 1, "benchmark": "d4rl"}')
    before = (tmp_path / "second" / "results.json").read_text()
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["benchmark", "report", *arguments])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
    assert (tmp_path / "second" / "results.json").read_text() == before
    assert not (tmp_path / "both").exists()
