"""The figures on the docs' page of benchmarks, each computed again from the raw results that are kept beside it."""

import json
from collections.abc import Collection, Iterable
from functools import partial
from statistics import mean, stdev
from typing import Any

import pytest
from result_tables import DOCS, PAGE, filled, of_grid, on_the_page, results_of, tables_of

from sb3_llmdpd.benchmarks.d4rl_results import is_d4rl
from sb3_llmdpd.benchmarks.splits import tasks_of_split
from sb3_llmdpd.benchmarks.variants import BOTH, EXAMPLE, TEXT
from sb3_llmdpd.data.metaworld.tasks import TASKS

CONDITIONS = {
    "visible": ("text+trajectory", "trajectory", "text", "none"),
    "hidden": ("text+trajectory", "trajectory", "wrong-trajectory", "copy"),
}


def table_behind(mark: str) -> list[list[str]]:
    """The cells of the table that follows a comment in the page, without its head."""
    page = PAGE.read_text(encoding="utf-8")
    lines = page.partition(f"<!-- {mark} -->\n")[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def words_of_the_page() -> str:
    return " ".join(PAGE.read_text(encoding="utf-8").split())


def rate(values: Iterable[float]) -> str:
    rates = list(values)
    return f"{mean(rates):.2f}" if rates else ""


def means(cells: Collection[dict[str, float]]) -> list[str]:
    """Success rate and return of tasks, as a table shows them."""
    return [rate(cell["success"] for cell in cells), f"{mean(cell['return'] for cell in cells):.0f}"]


def paired(one: dict[str, float], other: dict[str, float], digits: int) -> tuple[str, str]:
    """Mean of the differences and its standard error."""
    assert set(one) == set(other)
    differences = [one[key] - other[key] for key in one]
    error = stdev(differences) / len(differences) ** 0.5
    return f"{mean(differences):.{digits}f}", f"{error:.{digits}f}"


def of_tuning(name: str) -> Any:
    return json.loads((DOCS / "results" / "tuning.json").read_text(encoding="utf-8"))[name]


def tuning(goal: str) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = of_tuning(goal)
    return runs


@pytest.mark.parametrize("goal", ["visible", "hidden"])
def test_the_table_of_what_was_tried_is_what_the_raw_results_give(goal: str) -> None:
    by_setting: dict[str, list[dict[str, Any]]] = {}
    for run in tuning(goal):
        by_setting.setdefault(run["setting"], []).append(run)
    assert table_behind(f"tuning {goal}") == [
        [
            setting,
            str(len(runs)),
            rate(success for run in runs for success in run["seen"].values()),
            *(
                rate(cells[condition] for run in runs for cells in run["unseen"].values() if condition in cells)
                for condition in CONDITIONS[goal]
            ),
        ]
        for setting, runs in by_setting.items()
    ]


OF_FOLDS = [("seen", BOTH), ("seen", EXAMPLE), ("seen", TEXT), ("unseen", BOTH), ("unseen", EXAMPLE), ("unseen", TEXT)]
"""Columns of the table of folds, but for the last."""
SWAPPED = "another task's sentence beside half of the examples"


def of_folds(setting: str, group: str, told: str) -> dict[str, float]:
    """Success rates by task and seed; tasks and seeds where it was not measured are left out."""
    return {
        f"{task} {run['seed']}": cells[told]
        for run in tuning("folds")
        if run["setting"] == setting
        for task, cells in run[group].items()
        if told in cells
    }


def test_the_table_of_folds_is_what_the_raw_results_give() -> None:
    settings = [run["setting"] for run in tuning("folds")]
    assert table_behind("tuning folds") == [
        [
            setting,
            str(settings.count(setting)),
            *(rate(of_folds(setting, *column).values()) for column in [*OF_FOLDS, ("unseen", "wrong-trajectory")]),
        ]
        for setting in dict.fromkeys(settings)
    ]


def test_what_the_page_says_of_another_tasks_sentence_is_what_the_raw_results_give() -> None:
    unseen, seen = (
        paired(of_folds(SWAPPED, group, BOTH), of_folds("as it is", group, BOTH), 2) for group in ("unseen", "seen")
    )
    of_first = [
        mean(value for key, value in of_folds(setting, "unseen", BOTH).items() if key.endswith(" 0"))
        for setting in (SWAPPED, "as it is")
    ]
    text = words_of_the_page()
    assert f"The first seed had {of_first[0] - of_first[1]:.2f} more on unseen tasks" in text
    assert f"three seeds it is {unseen[0]} (standard error {unseen[1]}), and on seen tasks {seen[0]} ({seen[1]})" in text
    visible = [rate(cells[BOTH] for cells in run["seen"].values()) for run in tuning("swaps")]
    assert f"With the goal visible, on third 0, it was {visible[0]} into {visible[1]} on seen tasks." in text
    said = "the sentence of an unseen task does {}, the example of another goal {}."
    assert said.format(*(rate(of_folds("as it is", "unseen", told).values()) for told in (TEXT, "wrong-trajectory"))) in text
    reach = [value for key, value in of_folds("as it is", "seen", BOTH).items() if key.startswith("reach ")]
    assert f"reach is done in {rate(reach)} of the episodes when it is seen" in text
    as_it_is, longer = (
        [of_folds(setting, "seen", told)["reach 0"] for told in (BOTH, EXAMPLE)]
        for setting in ("as it is", "episodes recorded for 50 steps after their success")
    )
    assert "recorded for 50 it is {:.2f} with both prompts and {:.2f} by the example".format(*longer) in text
    assert "(first fold and seed; {:.2f} and {:.2f} as it is)".format(*as_it_is) in text


def test_what_the_page_says_of_reach_is_what_the_raw_results_give() -> None:
    trace = of_tuning("reach")
    text = words_of_the_page()
    assert sum(distance < 0.04 for distance in trace["nearest"]) == 7
    assert len(trace["nearest"]) == 8
    assert (
        "In eight episodes with the example alone (second row, first seed) the hand comes within 4 cm of the goal in seven"
        in text
    )
    at_the_end = [sum(entry**2 for entry in offset) ** 0.5 for offset in trace["end"]]
    assert f"after 150 steps it is {100 * min(at_the_end):.0f} to {100 * max(at_the_end):.0f} cm away." in text
    copied = [cell for cell in results_of("hidden-goals").cells if (cell.variant, cell.task) == ("copy", "reach")]
    assert copied
    assert all(all(cell.successes) for cell in copied)
    assert "copying does all of it" in text


def test_the_folds_with_the_goal_hidden_have_no_task_of_the_hold_out() -> None:
    held_out = {"box-close", "pick-place", "push-back", "shelf-place"}
    told = {task for task, info in TASKS.items() if info.goal_needs_telling}
    for run in tuning("folds"):
        assert {*run["seen"], *run["unseen"]} == told - held_out
        assert set(run["seen"]).isdisjoint(run["unseen"])


def test_the_table_of_what_was_tried_on_mixed_data_is_what_the_raw_results_give() -> None:
    assert table_behind("tuning mixed") == [
        [run["setting"], str(run["candidates"]), *means(run["seen"].values()), *means(run["unseen"].values())]
        for run in tuning("mixed")
    ]


def test_the_table_of_standardised_returns_is_what_the_raw_results_give() -> None:
    assert table_behind("tuning weights") == [
        [
            run["split"].removeprefix("third-"),
            f"{run['weight']:g}",
            f"{run['eta']:g}",
            *means(run["seen"].values()),
            *(entry for told in (BOTH, EXAMPLE) for entry in means([cells[told] for cells in run["unseen"].values()])),
        ]
        for run in tuning("weights")
    ]


SHOWN = (("seen", BOTH), ("seen", TEXT), ("unseen", BOTH), ("unseen", EXAMPLE))
"""Columns of the table of trainings, once for the errors and once for success."""
TOLD = (SHOWN[0], *SHOWN[2:])
"""Those of them that were measured where the sentence alone was not."""


def by_data_and_weights(group: str, told: str, value: str) -> dict[tuple[str, str], dict[str, float]]:
    """A value by third and task, of cloning with weights of each kind; empty where it was not measured."""
    values: dict[tuple[str, str], dict[str, float]] = {}
    for run in tuning("returns"):
        of_run = {f"{run['split']} {task}": cells[told] for task, cells in run[group].items() if told in cells}
        of_kind = values.setdefault((run["data"], run["weights"]), {})
        of_kind |= {key: cell[value] for key, cell in of_run.items() if value in cell}
    return values


def test_the_table_of_weights_by_shortfalls_is_what_the_raw_results_give() -> None:
    successes, returns = (
        [by_data_and_weights(*column, value) for column in columns]
        for columns, value in ((SHOWN, "success"), (TOLD, "return"))
    )
    assert table_behind("tuning returns") == [
        [
            *kind,
            *(rate(column[kind].values()) for column in successes),
            *(f"{mean(column[kind].values()):.0f}" if column[kind] else "" for column in returns),
        ]
        for kind in successes[0]
    ]


def test_what_the_page_says_of_shortfalls_is_what_the_raw_results_give() -> None:
    seen = by_data_and_weights("seen", BOTH, "success")
    expert = paired(seen["expert", "shortfall, 8"], seen["expert", "standardised, 1"], 2)
    mixed = paired(seen["mixed", "standardised, 4"], seen["mixed", "shortfall, 8"], 2)
    weaker = paired(seen["mixed", "shortfall, 8"], seen["mixed", "shortfall, 4"], 2)
    text = words_of_the_page()
    assert (
        f"seen tasks, {expert[0]} more, standard error {expert[1]}) and with 4 on mixed data ({mixed[0]} less, {mixed[1]})"
        in text
    )
    assert f"On mixed data 4 is too little (8 does {weaker[0]} more, {weaker[1]})" in text
    draws = of_tuning("draws")["expert"]
    short, standard = draws["shortfall, 8"], draws["standardised, 1"]
    assert f"{short['failures']:.1%} of what it draws is of failed episodes, and {standard['failures']:.1%} with" in text
    assert f"weigh as much as {short['episodes']} that are drawn alike, and as {standard['episodes']}." in text


def test_what_the_page_says_of_examples_drawn_by_weight_is_what_the_raw_results_give() -> None:
    success, returns = (
        [
            "{} ({})".format(*paired(of["mixed", "shortfall, 8, of examples, too"], of["mixed", "shortfall, 8"], digits))
            for of in (by_data_and_weights("unseen", told, value) for told in (BOTH, EXAMPLE))
        ]
        for value, digits in (("success", 2), ("return", 0))
    )
    text = words_of_the_page()
    assert f"give {success[0]} more on unseen tasks told both and {success[1]} by the example, and returns" in text
    assert f"and returns that are {returns[0]} and {returns[1]} higher." in text


def test_the_table_of_episodes_recorded_whole_is_what_the_raw_results_give() -> None:
    assert table_behind("tuning whole") == [
        [
            run["recorded"],
            *(entry for group, told in TOLD for entry in means([cells[told] for cells in run[group].values()])),
        ]
        for run in tuning("whole")
    ]


def test_what_the_page_says_of_episodes_recorded_whole_is_what_the_raw_results_give() -> None:
    short, whole = tuning("whole")
    success, returns = (
        [
            paired(*({task: cells[told][value] for task, cells in run[group].items()} for run in (whole, short)), digits)
            for group, told in TOLD
        ]
        for value, digits in (("success", 2), ("return", 0))
    )
    text = words_of_the_page()
    assert f"seen tasks are done less often, by {success[0][0].strip('-')} (standard error {success[0][1]})" in text
    assert "in {} ({}) more of the episodes told both and in {} ({}) more by".format(*success[1], *success[2]) in text
    said = "by {} ({}) on seen tasks, by {} ({}) on unseen ones told both and by {} ({}) by the example."
    assert said.format(*(entry for pair in returns for entry in pair)) in text


def test_what_the_page_says_of_guidance_is_what_the_raw_results_give() -> None:
    seen, both, example = (
        f"{rate(by_data_and_weights(group, told, 'success')['expert', 'shortfall, 8'].values())}"
        f" into {rate(cells[told]['success'] for run in tuning('guidance') for cells in run[group].values())}"
        for group, told in TOLD
    )
    said = f"told both {seen} on seen tasks and {both} on unseen ones, with the example alone {example}. Left out"
    assert said in words_of_the_page()


def values_of(runs: Iterable[dict[str, Any]], values: str, group: str, told: str) -> list[float]:
    return [cells[told] for run in runs if values in run for cells in run[values][group].values()]


def test_the_table_of_trainings_is_what_the_raw_results_give() -> None:
    assert table_behind("tuning training") == [
        [
            run["split"].removeprefix("third-"),
            run["setting"],
            *(f"{mean(values_of([run], 'errors', *shown)):.4f}" for shown in SHOWN),
            *(rate(values_of([run], "success", *shown)) for shown in SHOWN),
        ]
        for run in tuning("training")
    ]


UNIFORM, BY_SIGNAL, WEIGHTED = "1e-3, alike", "2e-3, by signal", "2e-3, by signal, standardised returns, 1"


def over_thirds(setting: str, values: str) -> list[float]:
    """Of three trainings, in the columns of the table."""
    runs = [run for run in tuning("training") if run["setting"] == setting]
    assert [run["split"] for run in runs] == ["third-0", "third-1", "third-2"]
    return [mean(values_of(runs, values, *shown)) for shown in SHOWN]


def test_what_the_page_says_of_the_draw_of_steps_is_what_the_raw_results_give() -> None:
    before, after = (over_thirds(setting, "errors") for setting in (UNIFORM, BY_SIGNAL))
    less = [f"{1 - new / old:.0%}" for old, new in zip(before, after, strict=True)]
    before, after = (over_thirds(setting, "success") for setting in (UNIFORM, BY_SIGNAL))
    text = words_of_the_page()
    assert f"falls by {less[0]} told both and by {less[1]} told the sentence, over three thirds, and by {less[2]} on" in text
    assert f"where the sentence is all that is told: {before[1]:.2f} into {after[1]:.2f} on seen tasks" in text
    assert f"told both it is {before[0]:.2f} and {after[0]:.2f} there, {before[2]:.2f} and {after[2]:.2f} on unseen" in text


def test_what_the_page_says_of_weights_among_demonstrations_is_what_the_raw_results_give() -> None:
    (alike, weighted), (success, of_weighted) = (
        [over_thirds(setting, values) for setting in (BY_SIGNAL, WEIGHTED)] for values in ("errors", "success")
    )
    text = words_of_the_page()
    assert (
        f"the same on seen tasks ({alike[0]:.4f} and {weighted[0]:.4f}), and {weighted[2] / alike[2] - 1:.0%} larger" in text
    )
    assert f"whose success is {success[2]:.2f} and {of_weighted[2]:.2f}." in text
    of_hard = {(run["split"], run["setting"]): rate(cells[BOTH] for cells in run["seen"].values()) for run in tuning("hard")}
    gains = [f"{of_hard[third, BY_SIGNAL]} into {of_hard[third, WEIGHTED]}" for third in ("third-0", "third-1", "third-2")]
    assert f"told both {gains[0]}, {gains[1]} and {gains[2]} on the three thirds" in text


def of_the_three_thirds(weight: float, group: str, told: str, value: str) -> dict[str, float]:
    """A value by third and task, of cloning with a weight."""
    return {
        f"{run['split']} {task}": (cells[told] if group == "unseen" else cells)[value]
        for run in tuning("weights")
        if (run["weight"], run["eta"]) == (weight, 0.0)
        for task, cells in run[group].items()
    }


def test_what_the_page_says_of_the_strength_of_weights_is_what_the_raw_results_give() -> None:
    without, two, four = ([of_the_three_thirds(w, *group, "success") for group in TOLD] for w in (0.0, 2.0, 4.0))
    seen, both, example = (f"{rate(old.values())} into {rate(new.values())}" for old, new in zip(without, four, strict=True))
    text = words_of_the_page()
    assert f"a weight of 4 makes {seen} on seen tasks, and on unseen ones {both} with both" in text
    assert f"prompts and {example} with the example alone" in text
    assert f"2 does nearly as well ({', '.join(rate(values.values()) for values in two)})" in text
    for of_weights, old in zip(four[1:], without[1:], strict=True):
        assert paired(of_weights, old, 2) == ("0.12", "0.05")
    assert "0.12 more in both cases (standard error 0.05)" in text
    returns = ([of_the_three_thirds(w, *group, "return") for group in TOLD[1:]] for w in (4.0, 0.0))
    both, example = ("{} ({})".format(*paired(new, old, 0)) for new, old in zip(*returns, strict=True))
    assert f"Their returns grow as well, by {both} and {example}." in text


def test_what_the_page_says_of_the_q_term_beside_weights_is_what_the_raw_results_give() -> None:
    seen = {
        run["eta"]: rate(cell["success"] for cell in run["seen"].values())
        for run in tuning("weights")
        if (run["split"], run["weight"]) == ("third-1", 4.0)
    }
    assert f"{seen[0.0]} without it, {seen[0.1]} with `eta=0.1`, and {seen[1.0]} with `eta=1`" in words_of_the_page()


def test_what_the_page_says_of_critics_on_mixed_data_is_what_the_raw_results_give() -> None:
    td, advantage, many_steps = (list(run["seen"].values()) for run in tuning("ranking"))
    preferred = [mean(cell["preferred"] for cell in cells) for cells in (td, advantage, many_steps)]
    gaps = [mean(cell["gap"] for cell in cells) for cells in (td, many_steps)]
    text = words_of_the_page()
    assert f"to a random one in {preferred[0]:.2f} of the cases, and values it by {gaps[0]:.0%} more" in text
    assert f"prefers it in {preferred[1]:.2f}, and one of 50-step returns in {preferred[2]:.2f}, by {gaps[1]:.0%}." in text


def test_what_the_page_says_of_return_weights_is_what_the_raw_results_give() -> None:
    of = {
        (run["setting"], group): mean(cell["success"] for cell in run[group].values())
        for run in tuning("mixed")
        if run["candidates"] == 1
        for group in ("seen", "unseen")
    }
    alone = of["cloning of the successful episodes alone", "seen"] - of["cloning alone", "seen"]
    weighted = [of[f"{row}, standardised returns, 2", group] for group in ("seen", "unseen") for row in ("eta=1", "cloning")]
    text = words_of_the_page()
    assert f"Cloning the successful episodes alone does {alone:.2f} more on seen tasks" in text
    said = "({:.2f} and {:.2f} on seen tasks, {:.2f} and {:.2f} on unseen ones"
    assert said.format(*weighted) in text


def test_what_the_page_says_of_several_windows_is_what_the_raw_results_give() -> None:
    one, one_example, four, four_example = (mean(run["seen"].values()) for run in tuning("windows"))
    said = (
        f"{four:.2f} instead of {one:.2f} with both prompts, {four_example:.2f} instead of {one_example:.2f} with the example"
    )
    assert said in words_of_the_page()


def test_what_was_tried_was_measured_on_the_tasks_of_the_thirds() -> None:
    of_trainings = [{"split": run["split"], **run["errors"]} for run in tuning("training")]
    others = ("visible", "hidden", "mixed", "weights", "returns", "guidance", "swaps", "whole")
    for run in [*of_trainings, *(run for name in others for run in tuning(name))]:
        train, unseen = tasks_of_split(run["split"])
        assert set(run["unseen"]) <= set(unseen)
        assert set(run["seen"]) <= set(train)


FINE = "steps, other dropouts, fine differences"


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (("steps", "text+trajectory"), ("concat", "text+trajectory"), "Alone they gain {0} (standard error {1})"),
        (
            (f"{FINE}, no sentence beside an example", "trajectory"),
            (FINE, "text+trajectory"),
            "reads no sentence beside an example does {0} better (standard error {1}) than one that is told both",
        ),
        ((f"{FINE}, pair dropout", "trajectory"), (FINE, "trajectory"), "{0} more from the example alone ({1})"),
    ],
    ids=["nearest steps", "no sentence", "pair dropout"],
)
def test_a_difference_that_the_page_states_is_that_of_the_same_tasks(
    one: tuple[str, str], other: tuple[str, str], said: str
) -> None:
    rates = [
        {
            task: cells[condition]
            for run in tuning("visible")
            if run["setting"] == setting
            for task, cells in run["unseen"].items()
        }
        for setting, condition in (one, other)
    ]
    assert len(rates[0]) == 45
    assert said.format(*paired(*rates, digits=2)) in words_of_the_page()


GRIDS = sorted(path.parent.name for path in (DOCS / "results").glob("*/results.json") if not is_d4rl(path))


@pytest.mark.parametrize("grid", GRIDS)
def test_what_the_page_says_of_a_grid_is_the_report_of_its_raw_results(grid: str) -> None:
    assert on_the_page()[grid] == of_grid(grid)


def test_a_page_is_filled_with_the_tables_of_the_grids_that_it_names_and_stays_as_it_is_beside_them() -> None:
    empty = "before\n<!-- grid {0} -->\n{1}<!-- end of grid -->\nbehind\n"
    assert filled(empty.format("hidden-goals", "old\n")) == empty.format("hidden-goals", of_grid("hidden-goals"))


def test_every_grid_on_the_page_has_its_raw_results() -> None:
    assert sorted(on_the_page()) == GRIDS


def entry(grid: str, title: str, row: tuple[str, ...], column: str) -> str:
    """What a report has in a row, which its first cells tell, and a column."""
    (table,) = (table for table in tables_of(grid) if table.title == f"{title} [95% interval]")
    (found,) = (cells for cells in table.rows if tuple(cells[: len(row)]) == row)
    return found[table.header.index(column)]


def reported(grid: str, row: tuple[str, str], column: str) -> str:
    """A success rate with its interval; of the table of shared scenes where the row has no condition."""
    if row[1]:
        return entry(grid, "Success at any step", row, column)
    return entry(grid, "Scenes that two tasks share", row[:1], column)


def above(grid: str, row: tuple[str, str], column: str, what: str = "successes") -> str:
    """How much more `full`, told both, has than a row, scene by scene, with its interval."""
    return entry(grid, f"full told {BOTH}: {what} above those of each row, scene by scene", row, column)


def by_seed(grid: str, row: str, told: str, task: str | None = None) -> list[float]:
    """Success rate on unseen tasks, or on one of them, of each training in the order of its seeds."""
    cells = [cell for cell in results_of(grid).cells if (cell.variant, cell.condition, cell.seen) == (row, told, False)]
    chosen = [cell for cell in cells if task in (None, cell.task)]
    seeds = sorted({cell.seed for cell in chosen})
    return [mean(mean(cell.successes) for cell in chosen if cell.seed == seed) for seed in seeds]


@pytest.mark.parametrize(
    ("grid", "row", "column", "said"),
    [
        ("ml45-visible", ("full", BOTH), "unseen (5)", "| Does it do [tasks that it never saw](#ml45-goal-visible)? | {} |"),
        ("ml45-visible", ("no-prompt", "none"), "unseen (5)", "| {} trained without any prompt,"),
        ("ml45-visible", ("no-trajectory", "text"), "unseen (5)", "any prompt, {} without examples |"),
        ("hidden-goals", ("full", BOTH), "unseen (4)", "from the example, in tasks that it never saw? | {}, and"),
        ("hidden-goals", ("full", EXAMPLE), "unseen (4)", ", and {} without a sentence | "),
        ("hidden-goals", ("full", "wrong-trajectory"), "unseen (4)", "| {} with the example of another goal,"),
        ("hidden-goals", ("copy", "copy"), "unseen (4)", "of another goal, {} copying it,"),
        ("hidden-goals", ("no-trajectory", "text"), "unseen (4)", "copying it, {} trained without examples |"),
        ("ml45-visible", ("full", BOTH), "unseen (5)", "Unseen tasks are done in {} of the episodes with"),
        ("ml45-visible", ("no-prompt", "none"), "unseen (5)", "Without any prompt it is {}: in Meta-World"),
        ("ml45-visible", ("full", ""), "does what it is told", "what is told is done in {}, and the other task never."),
        ("ml45-visible", ("bc", BOTH), "seen (45)", "of all episodes alike (`bc`) does {} on seen tasks,"),
        ("ml45-visible", ("bc", BOTH), "unseen (5)", "and on unseen ones {} told both and"),
        ("ml45-visible", ("bc", EXAMPLE), "unseen (5)", "told both and {} by the example."),
        ("ml45-visible", ("no-q", BOTH), "unseen (5)", "(`no-q`, one seed) unseen tasks are done in {} and"),
        ("ml45-visible", ("candidates-10", BOTH), "seen (45)", "the best of ten candidates does {} on seen tasks"),
        ("ml45-visible", ("candidates-10", BOTH), "unseen (5)", "on seen tasks and {} on unseen ones (one seed"),
        ("hidden-goals", ("full", BOTH), "unseen (4)", "Told both, unseen tasks are done in {} of the episodes:"),
        ("hidden-goals", ("no-trajectory", TEXT), "unseen (4)", "of the episodes: trained without examples in {}, without"),
        ("hidden-goals", ("no-prompt", "none"), "unseen (4)", ", without any prompt in {}, with the example"),
        ("hidden-goals", ("full", "wrong-trajectory"), "unseen (4)", "with the example of another goal in {}, by copying"),
        ("hidden-goals", ("copy", "copy"), "unseen (4)", ", by copying in {}. On seen"),
        ("hidden-goals", ("full", BOTH), "seen (8)", "On seen tasks it is {} against"),
        ("hidden-goals", ("no-trajectory", TEXT), "seen (8)", "0.78] against {},"),
        ("hidden-goals", ("no-prompt", "none"), "seen (8)", "0.58], {},"),
        ("hidden-goals", ("full", "wrong-trajectory"), "seen (8)", "0.39], {} and"),
        ("hidden-goals", ("copy", "copy"), "seen (8)", "0.17] and {}. The interval of the first"),
        ("hidden-goals", ("full", EXAMPLE), "unseen (4)", "with the example alone it is {}, scene by scene"),
        ("hidden-goals", ("no-text", EXAMPLE), "unseen (4)", "and trained without sentences {}."),
        ("hidden-goals", ("bc", BOTH), "seen (8)", "of all episodes alike (`bc`) does {} and"),
        ("hidden-goals", ("bc", BOTH), "unseen (4)", "0.78] and {}. - push-back"),
        ("hidden-goals", ("full", BOTH), "push-back", "- push-back is the failure: {} with both prompts"),
        ("hidden-goals", ("full", EXAMPLE), "push-back", "with both prompts and {} with the example, while"),
        ("ml45-visible", ("full", ""), "does what it is told", "between two tasks of one scene? | {} as told |"),
        ("ml45-visible", ("full", ""), "does the other", "| {} the other |"),
        ("ml45-visible", ("full", BOTH), "seen (45)", "of the tasks that it was trained on? | {} |"),
        ("ml45-visible", ("expert", "expert"), "seen (45)", "| {} the scripted experts |"),
    ],
)
def test_a_number_in_the_words_of_the_page_is_in_a_report(grid: str, row: tuple[str, str], column: str, said: str) -> None:
    assert said.format(reported(grid, row, column)) in words_of_the_page()


@pytest.mark.parametrize("column", ["seen (8)", "unseen (4)"])
@pytest.mark.parametrize(
    "row", [("no-trajectory", TEXT), ("no-prompt", "none"), ("full", "wrong-trajectory"), ("copy", "copy")], ids="-".join
)
def test_with_the_goal_hidden_the_interval_of_the_method_meets_none_of_those_that_the_page_names(
    row: tuple[str, str], column: str
) -> None:
    low, high = (
        float(reported("hidden-goals", row, column).strip("]").replace("[", ", ").split(", ")[index])
        for row, index in ((("full", BOTH), 1), (row, 2))
    )
    assert low > high


def test_what_the_page_says_scene_by_scene_of_the_sentence_where_the_goal_is_hidden_is_in_the_report() -> None:
    seen, unseen = (above("hidden-goals", ("full", EXAMPLE), column) for column in ("seen (8)", "unseen (4)"))
    low, high = (number.strip("-") for number in unseen.partition("[")[2].strip("]").split(", "))
    text = words_of_the_page()
    assert f"scene by scene {unseen.partition(' ')[0].strip('-')} [{high}, {low}] more than with both" in text
    assert f"On seen tasks the sentence helps, by {seen}." in text


def test_what_the_page_says_of_mixed_data_is_what_the_raw_results_give() -> None:
    grid, seen, unseen = "ml45-mixed", "seen (45)", "unseen (5)"
    full, cloned = ((row, BOTH) for row in ("full", "bc"))
    of_seen, of_unseen, of_bins, of_locks = (
        [reported(grid, row, column) for row in (full, cloned)] for column in (seen, unseen, "bin-picking", "door-lock")
    )
    by_example = [reported(grid, (row, EXAMPLE), unseen) for row in ("full", "bc")]
    gains, no_gains = ([above(grid, cloned, column, what) for what in ("successes", "returns")] for column in (seen, unseen))
    text = words_of_the_page()
    said = "{} told both and {}, scene by scene {} more success and {} more return."
    assert said.format(*of_seen, *gains) in text
    said = "it is not: {} and {}, scene by scene {} in success and {} in return; nor by the example, {} and {}."
    assert said.format(*of_unseen, *no_gains, *by_example) in text
    worst, *others = sorted(by_seed(grid, *full, "door-unlock"))
    said = "trainings do {:.2f}, {:.2f} and {:.2f}: door-unlock is done in {:.2f} of the episodes of one, and always by the"
    assert said.format(*by_seed(grid, *full), worst) in text
    assert others == [1.0, 1.0]
    said = "than by cloning ({} and {}), door-lock less often ({} and {})."
    assert said.format(*of_bins, *of_locks) in text
    no_q = ("no-q", BOTH)
    shown = (partial(reported, grid), partial(entry, grid, "Return"))
    columns = [look(no_q, column) for column in (seen, unseen) for look in shown]
    said = "(`no-q`) seen tasks are done in {} told both, with a return of {}, and unseen ones in {}, with {}."
    assert said.format(*columns) in text
    said = "is above that by {} in success on seen tasks, by {} on unseen ones, and by {} in return there."
    assert said.format(above(grid, no_q, seen), above(grid, no_q, unseen), above(grid, no_q, unseen, "returns")) in text
    said = "door-unlock is all or nothing: {:.2f}, {:.2f} and {:.2f} in the three trainings."
    assert said.format(*by_seed(grid, *no_q, "door-unlock")) in text


@pytest.mark.parametrize("what", ["successes", "returns"])
def test_with_mixed_data_the_method_is_above_cloning_on_seen_tasks_scene_by_scene(what: str) -> None:
    interval = above("ml45-mixed", ("bc", BOTH), "seen (45)", what).partition("[")[2]
    assert float(interval.partition(",")[0]) > 0


def test_what_the_readme_says_of_the_reference_budget_is_in_the_report() -> None:
    readme = " ".join((DOCS.parent / "README.md").read_text(encoding="utf-8").split())
    assert f"it is {reported('ml45-visible', ('full', BOTH), 'unseen (5)')} with sentence and example" in readme
    unprompted = reported("ml45-visible", ("no-prompt", "none"), "unseen (5)")
    assert f"and {unprompted} for a policy trained without any prompt" in readme
    rows = (("full", EXAMPLE), ("full", BOTH), ("no-trajectory", TEXT))
    example, both, without = (reported("hidden-goals", row, "unseen (4)") for row in rows)
    said = f"in {example} with the example, in {both} with a sentence beside it, and in {without} by a policy trained without"
    assert said in readme
