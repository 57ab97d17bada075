"""The report of a grid: its tables, its facts, and a page that needs no network."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sb3_llmdpd.benchmarks.metaworld.report import NOT_SHOWN, SHARED_SCENES, facts, metaworld_report
from sb3_llmdpd.benchmarks.metaworld.results import GridResults, TrainingCell
from sb3_llmdpd.benchmarks.metaworld.tables import Row, curves, normalised, rows_of, tables
from sb3_llmdpd.evaluation.html_page import DOTS, LABELS, chart, page
from sb3_llmdpd.evaluation.report import Table
from sb3_llmdpd.evaluation.statistics import Estimate

SETTINGS = {
    "split": "custom",
    "train_tasks": ["reach", "push"],
    "unseen_tasks": ["door-lock", "door-unlock"],
    "goal_known_tasks": [],
    "goal": "visible",
    "data": "expert",
    "n_episodes": 20,
    "n_steps": 10_000,
    "n_unseen_episodes": 4,
    "n_seen_episodes": 2,
    "max_episode_steps": 500,
    "stop_at_success": False,
}


def played(variant: str, seed: int, task: str, condition: str, *successes: int) -> TrainingCell:
    seen = task in SETTINGS["train_tasks"]
    returns = tuple(100.0 * success for success in successes)
    return TrainingCell(variant, seed, task, condition, seen, successes, returns)


@pytest.fixture
def results() -> GridResults:
    """Two rows, of which the second has one seed; all episodes of a task agree."""
    cells = [
        *(played("bc", 0, task, "text", 1, 1) for task in ("reach", "push")),
        *(played("bc", 0, task, "text", 0, 0, 0, 0) for task in ("door-lock", "door-unlock")),
        *(played("full", seed, task, "text", 1, 1) for seed in (0, 1) for task in ("reach", "push")),
        *(played("full", seed, "door-lock", "text", 1, 1, 1, 1) for seed in (0, 1)),
        *(played("full", seed, "door-unlock", "text", *[seed] * 4) for seed in (0, 1)),
        *(played("full", seed, "door-lock", "none", 0, 0, 0, 0) for seed in (0, 1)),
    ]
    rows = {"full": {"sentence": "the <method>"}, "bc": {"sentence": "cloning"}}
    versions = {"torch": "2.8.0", "mujoco": None}
    return GridResults(SETTINGS, rows, {"machine": "x86_64", "cores": 2}, versions, tuple(cells))


def test_rows_are_variants_in_their_order_with_their_conditions(results: GridResults) -> None:
    assert [(row.variant, row.condition, row.n_seeds) for row in rows_of(results)] == [
        ("full", "text", 2),
        ("full", "none", 2),
        ("bc", "text", 1),
    ]


def test_columns_are_the_groups_and_each_unseen_task(results: GridResults) -> None:
    success, returns, _ = tables(results)
    assert success.header == ("row", "told", "seeds", "seen (2)", "unseen (2)", "door-lock", "door-unlock")
    always, never = "1.00 [1.00, 1.00]", "0.00 [0.00, 0.00]"
    assert success.rows == (
        ("full", "text", "2", always, "0.75 [0.50, 1.00]", always, "0.50 [0.00, 1.00]"),
        ("full", "none", "2", "", never, never, ""),
        ("bc", "text", "1", always, never, never, never),
    )
    assert returns.rows[0][4] == "75 [50, 100]"


def test_a_task_played_for_its_shared_scenes_alone_is_no_seen_one(results: GridResults) -> None:
    with_faucet = replace(results.cells[0], task="faucet-open", condition="told:faucet-close", soon=(0, 0))
    assert tables(replace(results, cells=(*results.cells, with_faucet)))[0].header[3] == "seen (2)"


def test_tasks_of_a_known_goal_are_marked_and_left_out_of_means(results: GridResults) -> None:
    settings = {**SETTINGS, "goal": "hidden", "goal_known_tasks": ["door-unlock"]}
    hidden = replace(results, settings=settings)
    success = tables(hidden)[0]
    assert success.header[4:] == ("unseen (1)", "door-lock", "door-unlock*")
    assert success.rows[0][4:] == ("1.00 [1.00, 1.00]", "1.00 [1.00, 1.00]", "0.50 [0.00, 1.00]")
    assert "such tasks, marked *, are left out of the means" in " ".join(facts(hidden))


def test_where_episodes_end_at_success_returns_are_left_out(results: GridResults) -> None:
    ended = replace(results, settings={**SETTINGS, "stop_at_success": True})
    assert [table.title for table in tables(ended)] == ["Success at any step [95% interval]", "The rows"]


def test_scenes_that_two_tasks_share_have_tables_of_their_own(results: GridResults) -> None:
    told = [
        *(played("full", seed, "push", "told:push", 1, 1, 1, 1) for seed in (0, 1)),
        *(played("full", seed, "reach", "told:reach", 1, 1, 0, 0) for seed in (0, 1)),
        *(played("full", seed, "push", "told:reach", 0, 0, 1, seed) for seed in (0, 1)),
    ]
    plain = tables(results)
    of_both = replace(results, cells=(*results.cells, *(replace(cell, soon=(0, 0, 1, 0)) for cell in told)))
    success, _, means, single, _ = tables(of_both)
    assert success == plain[0]
    assert [row[:3] for row in means.rows] == [("full", "2", means.rows[0][2])]
    assert [entry[:4] for entry in means.rows[0][2:]] == ["0.75", "0.38", "0.25"]
    assert [(*row[:3], row[3][:4], row[4][:4]) for row in single.rows] == [
        ("full", "push", "push", "1.00", "0.25"),
        ("full", "reach", "reach", "0.50", "0.25"),
        ("full", "push", "reach", "0.38", "0.25"),
    ]
    assert SHARED_SCENES in facts(of_both)
    assert SHARED_SCENES not in facts(results)


def test_how_far_the_method_and_the_experts_came_is_a_mean_over_seeds(results: GridResults) -> None:
    ways = {
        ("full", "text+trajectory"): [(1.0, 0.5, 0.0, 0.0, 0.0), (0.5, 0.5, 0.5, 0.0, 0.0)],
        ("expert", "expert"): [(1.0,) * 5],
    }
    watched = [
        replace(played(variant, seed, "door-lock", condition, 0), phases=phases)
        for (variant, condition), of_seeds in ways.items()
        for seed, phases in enumerate(of_seeds)
    ]
    order = {"expert": {"sentence": ""}, "full": {"sentence": ""}}
    made = tables(replace(results, cells=tuple(watched), variants=order))
    header = ("unseen task", "row", "reach", "grasp", "lift", "move", "place")
    (table,) = [table for table in made if table.header == header]
    assert table.rows == (
        ("door-lock", "expert", "1.00", "1.00", "1.00", "1.00", "1.00"),
        ("door-lock", "full", "0.75", "0.50", "0.25", "0.00", "0.00"),
    )


def test_the_method_is_held_against_every_other_row_scene_by_scene(results: GridResults) -> None:
    """A difference is that of the same scenes: two rows that fail in the same ones differ for certain."""
    both = [
        *(played("full", 0, task, "text+trajectory", 1, 1) for task in ("reach", "push")),
        *(played("full", 0, task, "text+trajectory", 1, 1, 0, 0) for task in ("door-lock", "door-unlock")),
        *(played("no-prompt", 0, task, "none", 0, 0, 0, 0) for task in ("door-lock", "door-unlock")),
        *(played("bc", 0, task, "text+trajectory", 1, 1, 0, 0) for task in ("door-lock", "door-unlock")),
        *(played("bc", 1, task, "text+trajectory", 1, 1, 1, 1) for task in ("door-lock", "door-unlock")),
    ]
    order = {name: {"sentence": ""} for name in ("full", "no-prompt", "bc")}
    _, above, _, returns, _ = tables(replace(results, cells=tuple(both), variants=order))
    assert above.header == ("row", "told", "seen (2)", "unseen (2)")
    assert [row[:3] for row in above.rows] == [("no-prompt", "none", ""), ("bc", "text+trajectory", "")]
    assert above.rows[0][3][:4] == "0.50"
    assert above.rows[1][3] == "0.00 [0.00, 0.00]"  # of the seed that both have
    assert returns.rows[0][3][:2] == "50"


def test_a_control_that_plays_fewer_episodes_is_held_against_as_many(results: GridResults) -> None:
    of_method = played("full", 0, "reach", "text+trajectory", 1, 1, 0, 0)
    above = tables(replace(results, cells=(of_method, played("full", 0, "reach", "wrong", 0, 0))))[1]
    assert above.rows == (("full", "wrong", "1.00 [1.00, 1.00]", ""),)


# By the number of examples


def paid(
    variant: str, condition: str, task: str, *returns: float, early: tuple[float, ...] | None = None
) -> TrainingCell:
    """Make a cell by its returns; what earns more than 50 is a success."""
    cell = played(variant, 0, task, condition, *(int(each > 50) for each in returns))
    return replace(cell, returns=returns, early_returns=early)


ENDS = [
    paid("random", "none", "door-lock", 0.0, 20.0, early=(0.0, 2.0)),
    paid("random", "none", "door-unlock", -10.0, early=(0.0,)),
    paid("expert", "expert", "door-lock", 110.0, early=(11.0,)),
    paid("expert", "expert", "door-unlock", 190.0, early=(5.0,)),
]
"""The floor is at 10 and -10, the ceiling at 110 and 190; of the first steps at 1 and 0, and 11 and 5."""

BY_NUMBER = [
    *ENDS,
    paid("full", "trajectory", "door-lock", 60.0, 60.0, early=(6.0, 6.0)),
    paid("full", "trajectory", "door-unlock", 40.0, 40.0, early=(2.5, 2.5)),
    paid("full", "trajectory:5", "door-lock", 110.0, 110.0, early=(11.0, 11.0)),
    paid("full", "trajectory:25", "door-lock", 10.0, 10.0, early=(1.0, 1.0)),
    paid("full", "text", "door-lock", 60.0, early=(6.0,)),
    paid("align", "trajectory:25", "door-lock", 210.0, 210.0, early=(6.0, 6.0)),
    paid("align", "trajectory", "door-lock", 110.0, 110.0, early=(1.0, 1.0)),
]


def grid(results: GridResults, cells: list[TrainingCell], **settings: object) -> GridResults:
    order = {cell.variant: {"sentence": ""} for cell in cells}
    return replace(results, cells=tuple(cells), variants=order, settings={**SETTINGS, **settings})


def by_number(results: GridResults) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Rows of the tables by the number of examples, by their titles."""
    made = [table for table in tables(results) if "by the number of examples" in table.title]
    assert {table.header for table in made} <= {("row", "told", "1", "5", "25")}
    return {table.title: table.rows for table in made}


def row_of(results: GridResults, variant: str, condition: str) -> Row:
    (found,) = [row for row in rows_of(results) if (row.variant, row.condition) == (variant, condition)]
    return found


def test_curves_are_of_what_was_played_with_several_numbers_of_examples(results):
    told = played("full", 0, "reach", "told:reach", 1)
    found = curves(grid(results, [*BY_NUMBER, told, paid("bc", "trajectory:5", "door-lock", 1.0)]))
    assert [(curve.variant, curve.condition, list(curve.rows)) for curve in found] == [
        ("full", "trajectory", [1, 5, 25]),
        ("align", "trajectory", [1, 25]),
    ]


def test_a_curve_has_the_row_of_each_number(results):
    (curve, _) = curves(grid(results, BY_NUMBER))
    shown = {n: row.condition for n, row in curve.rows.items()}
    assert shown == {1: "trajectory", 5: "trajectory:5", 25: "trajectory:25"}


@pytest.mark.parametrize(
    ("values", "shares"),
    [("returns", [(0.5, 0.5), (0.25, 0.25)]), ("early_returns", [(0.5, 0.5), (0.5, 0.5)])],
)
def test_normalised_returns_are_0_of_random_actions_and_1_of_the_expert_task_by_task(results, values, shares):
    of_all = grid(results, BY_NUMBER)
    row = normalised(of_all, row_of(of_all, "full", "trajectory"), values)
    assert [getattr(cell, values) for cell in row.cells] == [pytest.approx(share) for share in shares]


@pytest.mark.parametrize(
    ("variant", "condition", "level"), [("random", "none", 0.0), ("expert", "expert", 1.0)]
)
def test_the_two_ends_themselves_have_means_of_0_and_1(results, variant, condition, level):
    of_all = grid(results, BY_NUMBER)
    row = normalised(of_all, row_of(of_all, variant, condition), "returns")
    assert [sum(cell.returns) / len(cell.returns) for cell in row.cells] == pytest.approx([level, level])


def test_all_but_the_returns_that_are_normalised_stays(results):
    of_all = grid(results, BY_NUMBER)
    row = row_of(of_all, "full", "trajectory")
    changed = normalised(of_all, row, "returns")
    restored = [
        replace(cell, returns=before.returns) for cell, before in zip(changed.cells, row.cells, strict=True)
    ]
    assert tuple(restored) == row.cells


def test_the_two_ends_are_means_over_all_seeds(results):
    another = replace(paid("expert", "expert", "door-lock", 310.0), seed=1)
    of_all = grid(results, [*BY_NUMBER, another])
    row = normalised(of_all, row_of(of_all, "full", "trajectory:5"), "returns")
    assert row.cells[0].returns == pytest.approx((0.5, 0.5))  # 110 between 10 and 210


@pytest.mark.parametrize("lacking", ["random", "expert"])
def test_without_the_two_ends_of_a_task_nothing_is_normalised(results, lacking):
    kept = [cell for cell in BY_NUMBER if (cell.variant, cell.task) != (lacking, "door-unlock")]
    of_all = grid(results, kept)
    assert normalised(of_all, row_of(of_all, "full", "trajectory"), "returns") is None
    assert normalised(of_all, row_of(of_all, "full", "trajectory:5"), "returns") is not None


def test_returns_that_older_results_lack_are_not_normalised(results):
    older = replace(BY_NUMBER[-1], early_returns=None)
    of_all = grid(results, [*BY_NUMBER[:-1], older])
    assert normalised(of_all, row_of(of_all, "align", "trajectory"), "early_returns") is None


def test_where_the_expert_earns_what_random_actions_do_nothing_is_normalised(results):
    ends = [paid("random", "none", "door-lock", 0.0), paid("expert", "expert", "door-lock", 0.0)]
    of_all = grid(results, [*ends, paid("full", "trajectory", "door-lock", 1.0)])
    assert normalised(of_all, row_of(of_all, "full", "trajectory"), "returns") is None


OF_UNSEEN = "by the number of examples, unseen (2) [95% interval]"
ENDS_ARE = "0 random and 1 the expert"


def test_success_and_returns_by_the_number_of_examples_have_a_table_each(results):
    """A mean over tasks has each task as often; a number that was not played stays empty."""
    assert by_number(grid(results, BY_NUMBER)) == {
        f"Success {OF_UNSEEN}": (
            ("full", "trajectory", "0.50 [0.50, 0.50]", "1.00 [1.00, 1.00]", "0.00 [0.00, 0.00]"),
            ("align", "trajectory", "1.00 [1.00, 1.00]", "", "1.00 [1.00, 1.00]"),
        ),
        f"Return over 500 steps, {ENDS_ARE}, {OF_UNSEEN}": (
            ("full", "trajectory", "0.38 [0.38, 0.38]", "1.00 [1.00, 1.00]", "0.00 [0.00, 0.00]"),
            ("align", "trajectory", "1.00 [1.00, 1.00]", "", "2.00 [2.00, 2.00]"),
        ),
        f"Return over 100 steps, {ENDS_ARE}, {OF_UNSEEN}": (
            ("full", "trajectory", "0.50 [0.50, 0.50]", "1.00 [1.00, 1.00]", "0.00 [0.00, 0.00]"),
            ("align", "trajectory", "0.00 [0.00, 0.00]", "", "0.50 [0.50, 0.50]"),
        ),
    }


def test_seen_tasks_have_tables_by_the_number_of_examples_of_their_own(results):
    seen = [paid("full", f"trajectory{n}", "reach", 60.0, 60.0) for n in ("", ":5", ":25")]
    made = by_number(grid(results, [*BY_NUMBER, *seen]))
    success = made["Success by the number of examples, seen (1) [95% interval]"]
    assert success == (("full", "trajectory", *["1.00 [1.00, 1.00]"] * 3),)


def test_where_episodes_end_at_success_only_successes_are_shown_by_the_number_of_examples(results):
    assert list(by_number(grid(results, BY_NUMBER, stop_at_success=True))) == [f"Success {OF_UNSEEN}"]


def test_without_random_actions_and_the_expert_only_successes_are_shown_by_the_number(results):
    assert list(by_number(grid(results, BY_NUMBER[len(ENDS) :]))) == [f"Success {OF_UNSEEN}"]


def test_results_with_one_number_of_examples_have_no_table_by_it(results):
    one = [cell for cell in BY_NUMBER if ":" not in cell.condition]
    assert by_number(grid(results, one)) == {}


def test_every_row_is_explained(results: GridResults) -> None:
    assert tables(results)[-1].rows == (("full", "the <method>"), ("bc", "cloning"))


def test_the_facts_name_tasks_budget_seeds_and_hardware(results: GridResults) -> None:
    said = " ".join(facts(results))
    for part in (
        "Split custom: trained on 2 tasks; unseen are door-lock, door-unlock.",
        "The goal is visible in the observations. Data: expert, 20 episodes a task; 10,000 gradient steps.",
        "Seeds: 2 (but bc 1). Each plays 4 episodes of an unseen task and 2 of a seen one",
        "where a row has a single seed, over its episodes only",
        "Hardware: 2 cores, x86_64. Versions: torch 2.8.0.",
    ):
        assert part in said


def test_results_without_a_finished_training_have_facts_too(results: GridResults) -> None:
    assert "Seeds: 0." in " ".join(facts(replace(results, cells=())))


class Outline(HTMLParser):
    """The elements of a page, and the addresses that it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str | None] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_written_in_markdown_and_as_a_page(results: GridResults, tmp_path: Path) -> None:
    metaworld_report(results).write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.html"}
    markdown = (tmp_path / "report.md").read_text()
    assert markdown.startswith("# Meta-World, split custom, goal visible, expert data\n")
    assert "| full | text | 2 | 1.00 [1.00, 1.00] | 0.75 [0.50, 1.00] |" in markdown
    assert all(sentence in markdown for sentence in NOT_SHOWN)


def test_the_page_holds_everything_and_loads_nothing(results: GridResults, tmp_path: Path) -> None:
    metaworld_report(results).write(tmp_path)
    text = (tmp_path / "report.html").read_text()
    outline = Outline(text)
    assert outline.open == []
    assert outline.addresses == []
    assert "http" not in text
    counts = {tag: outline.tags.count(tag) for tag in ("h1", "h2", "svg", "table", "script")}
    assert counts == {"h1": 1, "h2": 6, "svg": 2, "table": 3, "script": 0}
    # Two charts of dots: three rows on unseen tasks, two on seen ones.
    assert outline.tags.count("circle") == 5
    assert "the &lt;method&gt;" in text


def test_a_dot_is_where_its_rate_is_and_its_interval_lies_on_it() -> None:
    drawn = chart("Unseen", {"full": Estimate(0.5, 0.25, 1.0)})
    assert f'<circle cx="{LABELS + DOTS / 2}" cy="12.0"' in drawn
    interval = re.search(r'<line x1="([\d.]+)" x2="([\d.]+)" y1="12.0" y2="12.0"', drawn)
    assert interval is not None
    assert [float(end) for end in interval.groups()] == [LABELS + DOTS / 4, LABELS + DOTS]


def test_a_page_without_charts_is_whole() -> None:
    assert Outline(page("Title", ["fact"], {}, [Table("Empty", ("a", "b"), ())], "Last", [])).open == []
