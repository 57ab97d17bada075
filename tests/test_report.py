"""Results in files, tables and charts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch as th

from sb3_llmdpd.common import optional_imports
from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.evaluation.charts import curves_chart, success_chart
from sb3_llmdpd.evaluation.conditions import Cell, Condition, make_cells
from sb3_llmdpd.evaluation.report import summarise, tables, told_rates
from sb3_llmdpd.evaluation.results import read_results, write_results
from sb3_llmdpd.evaluation.rollouts import Rollout
from sb3_llmdpd.evaluation.statistics import Estimate, rounded, with_interval
from sb3_llmdpd.evaluation.tasks import CellResult

PNG = b"\x89PNG"


def result(cell: Cell, n_successes: int, n: int = 4) -> CellResult:
    """The first episodes succeed, and all but one of them to the end."""
    firsts = [3 if i < n_successes else None for i in range(n)]
    rollouts = [Rollout(i, 10.0 * i, i, 7, first, 0 < i < n_successes) for i, first in enumerate(firsts)]
    return CellResult.of(cell, rollouts)


def some_results() -> list[CellResult]:
    cells = make_cells(["drawer-open", "door-lock"], ["text", "none"], unseen=["door-lock"])
    told = [Cell("pick-place", Condition(f"told:{task}", text_of=task)) for task in ("pick-place", "reach")]
    return [result(cell, n) for cell, n in zip([*cells, *told], (4, 2, 3, 1, 4, 0), strict=True)]


def test_an_interrupted_write_leaves_the_file_of_before_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("before")

    def interrupted() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("file.txt", "before")]


def test_a_whole_file_takes_its_place_in_a_new_folder_with_its_suffix(tmp_path: Path) -> None:
    with whole_file(tmp_path / "new" / "film.mp4") as temporary:
        assert temporary.suffix == ".mp4"
        temporary.write_text("whole")
    assert [(each.name, each.read_text()) for each in (tmp_path / "new").iterdir()] == [("film.mp4", "whole")]


def test_results_survive_the_way_through_their_file(tmp_path: Path) -> None:
    settings = {"seed": 3, "noise": [0.0, 0.1], "model": {"activation_fn": th.nn.SiLU}}
    write_results(tmp_path / "results.json", some_results(), settings)
    results, read = read_results(tmp_path / "results.json")
    assert results == some_results()
    assert read == {"seed": 3, "noise": [0.0, 0.1], "model": {"activation_fn": {":class:": "torch.nn.SiLU"}}}


def test_the_results_file_says_what_made_the_numbers_and_what_they_sum_up_to(tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", some_results(), {})
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["versions"]["torch"] == th.__version__
    assert document["cells"][0]["success_rate"]["value"] == 1.0
    groups = [(group["seen"], group["condition"], group["success"]["value"]) for group in document["groups"]]
    assert groups == [(False, "text", 0.75), (False, "none", 0.25), (True, "text", 1.0), (True, "none", 0.5)]
    estimates = [Estimate(**group["success"]) for group in document["groups"]]
    assert estimates[2] == Estimate(1.0, 1.0, 1.0)


def test_groups_keep_seen_and_unseen_apart_and_leave_out_told_scenes() -> None:
    unseen, *_, seen = summarise(some_results())
    assert (unseen.seen, unseen.condition, unseen.n_tasks) == (False, "text", 1)
    assert (unseen.success.value, unseen.last_success.value, unseen.total_reward.value) == (0.75, 0.5, 15.0)
    assert (seen.seen, seen.condition) == (True, "none")
    assert {summary.condition for summary in summarise(some_results())} == {"text", "none"}


def test_tables_show_groups_tasks_and_the_scenes_where_the_sentence_decides() -> None:
    groups, tasks, told = tables(some_results())
    assert groups.rows[0][:2] == ("unseen (1)", "text")
    assert groups.rows[0][2].startswith("0.75 [")
    assert tasks.header == ("task", "", "text", "none")
    assert tasks.rows == (("door-lock", "unseen", "0.75", "0.25"), ("drawer-open", "seen", "1.00", "0.50"))
    assert [(row[0], row[1], row[2][:4], row[3][:4]) for row in told.rows] == [
        ("pick-place", "pick-place", "1.00", "1.00"),
        ("pick-place", "reach", "0.00", "0.00"),
        ("mean", "does what it is told", "1.00", "1.00"),
        ("mean", "does the other", "0.00", "0.00"),
    ]


def test_what_was_told_counts_apart_from_what_was_not() -> None:
    def cell(task: str, told: str) -> Cell:
        return Cell(task, Condition(f"told:{told}", text_of=told))

    rates = told_rates([result(cell("a", "a"), 4), result(cell("b", "b"), 2), result(cell("a", "b"), 1)])
    values = {name: rate.value for name, rate in rates.items()}
    assert values == {"does what it is told": 0.75, "does the other": 0.25}
    assert set(told_rates([result(cell("a", "a"), 4)])) == {"does what it is told"}


def test_of_what_was_told_only_successes_within_twice_the_experts_steps_count_as_soon() -> None:
    early = result(Cell("reach", Condition("told:reach", text_of="reach")), 4)
    late = replace(early, first_successes=(3, 3, 3, 92), expert_steps=46)
    assert told_rates([late])["does what it is told"].value == 1.0
    assert told_rates([late], "soon")["does what it is told"].value == 0.75
    assert replace(late, first_successes=(91, None, 92, 0)).soon == (True, False, False, True)


def test_where_no_expert_was_measured_every_success_is_soon() -> None:
    assert replace(result(Cell("a", Condition("text")), 2), first_successes=(499, None)).soon == (True, False)


def test_a_table_without_rows_is_left_out() -> None:
    assert [table.header[0] for table in tables(some_results()[:4])] == ["tasks", "task"]


def test_a_table_is_aligned_in_a_terminal_and_a_table_in_markdown() -> None:
    (table,) = tables(some_results()[4:])
    title, header, rule, *rows = table.text().splitlines()
    assert title == "Scenes where the sentence alone decides [95% interval]"
    assert {len(line) for line in (header, rule, *rows)} == {len(rule)}
    assert "| pick-place | reach | 0.00 [0.00, 0.49] | 0.00 [0.00, 0.49] |" in table.markdown()


def test_charts_are_written_as_png(tmp_path: Path) -> None:
    success_chart(some_results(), tmp_path / "success.png")
    rows = [{"step": step, "train/bc_loss": 2.0 - step} for step in (1.0, 2.0)]
    curves_chart(rows, tmp_path / "curves.png")
    found = {path.name: path.read_bytes()[:4] for path in tmp_path.iterdir()}
    assert found == {"success.png": PNG, "curves.png": PNG}


def test_a_chart_of_success_has_a_dot_for_each_rate_also_at_zero(tmp_path, monkeypatch):
    drawn = figures_of(monkeypatch)
    more = result(make_cells(["reach"], ["text"], unseen=["reach"])[0], 1)
    success_chart([*some_results(), more], tmp_path / "success.png", "runs/model.zip")
    (figure,) = drawn
    unseen, seen, told = figure.axes
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles[:2] == ["unseen tasks, n = 4 a dot", "seen tasks, n = 4 a dot"]
    assert [label.get_text() for label in unseen.get_yticklabels()] == ["mean", "door-lock", "reach"]
    assert [label.get_text() for label in seen.get_yticklabels()] == ["drawer-open"]
    assert [label.get_text() for label in told.get_yticklabels()][1] == "pick-place,\ntold reach"
    ends = [line.get_xdata()[0] for line in told.lines if len(line.get_xdata()) == 1]
    assert ends == [1.0, 0.0]
    assert "runs/model.zip" in figure.legends[0].get_title().get_text()


def test_learning_curves_are_grouped_and_a_constant_rate_is_left_out(tmp_path, monkeypatch):
    drawn = figures_of(monkeypatch)
    names = ("bc_loss", "q_value", "target_q_value", "critic_learning_rate")
    rows = [
        {"step": step, "train/learning_rate": 1e-3, **{f"train/{name}": step for name in names}}
        | {"validation/both_error": 1.0, "validation/none_error": 2.0, "validation/both_error_end": 3.0}
        for step in (1.0, 2.0)
    ]
    curves_chart(rows, tmp_path / "curves.png")
    charts = {axes.get_title("left"): [line.get_label() for line in axes.lines] for axes in drawn[0].axes}
    assert charts == {
        "bc_loss": ["bc_loss"],
        "value": ["q_value", "target_q_value"],
        "learning rate": ["critic_learning_rate"],
        "error": ["both", "none"],
    }


def figures_of(monkeypatch) -> list:
    """Collect the figures that are drawn, and write none."""
    drawn: list = []
    monkeypatch.setattr("sb3_llmdpd.evaluation.charts.save_figure", lambda figure, path: drawn.append(figure))
    return drawn


@pytest.mark.parametrize(
    ("number", "digits", "text"),
    [(-0.001, 2, "0.00"), (-0.0, 0, "0"), (-0.4, 0, "0"), (-0.6, 0, "-1"), (0.25, 1, "0.2")],
)
def test_no_table_writes_a_zero_with_a_sign(number, digits, text):
    assert rounded(number, digits) == text
    assert with_interval(Estimate(number, number, number), digits) == f"{text} [{text}, {text}]"


def test_a_chart_without_matplotlib_says_how_to_install_it(tmp_path, monkeypatch):
    def absent(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(optional_imports.importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r"pip install 'sb3-llmdpd\[plots\]'"):
        success_chart(some_results(), tmp_path / "success.png")


def test_a_chart_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no results to draw"):
        success_chart([], tmp_path / "success.png")
    with pytest.raises(ValueError, match="no learning curve to draw"):
        curves_chart([{"step": 1.0}], tmp_path / "curves.png")
