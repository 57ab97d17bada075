"""The figures of grids on the docs' page of benchmarks, each computed again from the raw results kept beside it."""

import re
from functools import partial
from statistics import mean

import pytest
from result_tables import DOCS, PAGE, filled, of_grid, on_the_page, results_of, tables_of
from result_words import words_of

from sb3_llmdpd.benchmarks.common.variants import BOTH, EXAMPLE, TEXT
from sb3_llmdpd.benchmarks.d4rl.results import is_d4rl

GRIDS = sorted(path.parent.name for path in (DOCS / "results").glob("*/results.json") if not is_d4rl(path))


@pytest.mark.parametrize("grid", GRIDS)
def test_what_the_page_says_of_a_grid_is_the_report_of_its_raw_results(grid: str) -> None:
    assert on_the_page()[grid] == of_grid(grid)


def test_a_page_is_filled_with_the_tables_of_the_grids_that_it_names_and_stays_as_it_is_beside_them() -> None:
    empty = "before\n<!-- grid {0} -->\n{1}<!-- end of grid -->\nbehind\n"
    assert filled(empty.format("hidden-goals", "old\n")) == empty.format(
        "hidden-goals", of_grid("hidden-goals")
    )


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


def numbers_of(shown: str) -> list[float]:
    """Value and interval of an estimate as a table shows it."""
    return [float(number) for number in re.findall(r"-?[\d.]+", shown)]


def turned(difference: str) -> str:
    """What the other one has above, with its interval."""
    value, low, high = (0.0 - number for number in numbers_of(difference))
    return f"{value:.2f} [{high:.2f}, {low:.2f}]"


def by_seed(grid: str, row: str, told: str, task: str | None = None) -> list[float]:
    """Success rate on unseen tasks, or on one of them, of each training in the order of its seeds."""
    cells = [
        cell
        for cell in results_of(grid).cells
        if (cell.variant, cell.condition, cell.seen) == (row, told, False)
    ]
    chosen = [cell for cell in cells if task in (None, cell.task)]
    seeds = sorted({cell.seed for cell in chosen})
    return [mean(mean(cell.successes) for cell in chosen if cell.seed == seed) for seed in seeds]


@pytest.mark.parametrize(
    ("grid", "row", "column", "said"),
    [
        (
            "ml45-visible",
            ("full", BOTH),
            "unseen (5)",
            "| Does it do [tasks that it never saw](#ml45-goal-visible)? | {} |",
        ),
        ("ml45-visible", ("no-prompt", "none"), "unseen (5)", "| {} trained without any prompt,"),
        ("ml45-visible", ("no-trajectory", "text"), "unseen (5)", "any prompt, {} without examples |"),
        ("ml45-visible", ("concat", BOTH), "unseen (5)", "| {} as one vector, as in the paper,"),
        ("ml45-visible", ("prompt-dt", BOTH), "unseen (5)", "as in the paper, {} by Prompt-DT |"),
        (
            "hidden-goals",
            ("full", BOTH),
            "unseen (4)",
            "from the example, in tasks that it never saw? | {}, and",
        ),
        ("hidden-goals", ("full", EXAMPLE), "unseen (4)", ", and {} without a sentence | "),
        (
            "hidden-goals",
            ("full", "wrong-trajectory"),
            "unseen (4)",
            "| {} with the example of another goal,",
        ),
        ("hidden-goals", ("copy", "copy"), "unseen (4)", "of another goal, {} copying it,"),
        (
            "hidden-goals",
            ("no-trajectory", "text"),
            "unseen (4)",
            "copying it, {} trained without examples |",
        ),
        ("ml45-visible", ("full", BOTH), "unseen (5)", "Unseen tasks are done in {} of the episodes with"),
        ("ml45-visible", ("no-prompt", "none"), "unseen (5)", "Without any prompt it is {}: in Meta-World"),
        (
            "ml45-visible",
            ("full", ""),
            "does what it is told",
            "what is told is done in {}, and the other task never.",
        ),
        ("ml45-visible", ("bc", BOTH), "seen (45)", "of all episodes alike (`bc`) does {} on seen tasks,"),
        ("ml45-visible", ("bc", BOTH), "unseen (5)", "and on unseen ones {} told both and"),
        ("ml45-visible", ("bc", EXAMPLE), "unseen (5)", "told both and {} by the example."),
        ("ml45-visible", ("no-q", BOTH), "unseen (5)", "(`no-q`, one seed) unseen tasks are done in {} and"),
        (
            "ml45-visible",
            ("candidates-10", BOTH),
            "seen (45)",
            "the best of ten candidates does {} on seen tasks",
        ),
        (
            "ml45-visible",
            ("candidates-10", BOTH),
            "unseen (5)",
            "on seen tasks and {} on unseen ones (one seed,",
        ),
        ("ml45-visible", ("candidates-50", BOTH), "seen (45)", "and the best of fifty {} and"),
        (
            "ml45-visible",
            ("candidates-50", BOTH),
            "unseen (5)",
            "the best of fifty 0.87 [0.85, 0.90] and {}.",
        ),
        (
            "ml45-visible",
            ("concat", BOTH),
            "seen (45)",
            "(`concat`, one seed as all that follow), does {} on seen",
        ),
        (
            "ml45-visible",
            ("concat", BOTH),
            "unseen (5)",
            "on seen tasks and {} on unseen ones; there it does",
        ),
        (
            "ml45-visible",
            ("concat", EXAMPLE),
            "unseen (5)",
            "there it does {} by the example alone, as without any",
        ),
        ("ml45-visible", ("cross-attention", BOTH), "unseen (5)", "(`cross-attention`) does {}. Prompt-DT,"),
        (
            "ml45-visible",
            ("prompt-dt", BOTH),
            "seen (45)",
            "Prompt-DT, told and shown the same, does {} on seen tasks",
        ),
        (
            "ml45-visible",
            ("prompt-dt", BOTH),
            "unseen (5)",
            "0.79] on seen tasks and {} on unseen ones. - Of a task",
        ),
        ("ml45-visible", ("random-text", TEXT), "unseen (5)", "could be known, does {} alone there,"),
        ("ml45-visible", ("one-hot", TEXT), "unseen (5)", "a number of the task (`one-hot`) {},"),
        (
            "ml45-visible",
            ("full", TEXT),
            "unseen (5)",
            "and the sentence {} (three seeds); beside an example they do",
        ),
        ("ml45-visible", ("random-text", BOTH), "unseen (5)", "beside an example they do {},"),
        ("ml45-visible", ("one-hot", BOTH), "unseen (5)", "0.77], {} and 0.75"),
        ("ml45-visible", ("diffusion-ql", BOTH), "unseen (5)", "(`diffusion-ql`) does {} on unseen tasks,"),
        ("ml45-visible", ("hashing", TEXT), "unseen (5)", "a bag of hashed words (`hashing`) does {} and"),
        ("ml45-visible", ("hashing", BOTH), "unseen (5)", "0.38] and {} on unseen tasks."),
        (
            "ml45-visible",
            ("expectile", BOTH),
            "unseen (5)",
            "the critic of IQL (`expectile`) it is {}: above",
        ),
        ("ml45-visible", ("expectile", BOTH), "seen (45)", "scene by scene, and {} on seen tasks, below it"),
        (
            "hidden-goals",
            ("full", BOTH),
            "unseen (4)",
            "Told both, unseen tasks are done in {} of the episodes:",
        ),
        (
            "hidden-goals",
            ("no-trajectory", TEXT),
            "unseen (4)",
            "of the episodes: trained without examples in {}, without",
        ),
        ("hidden-goals", ("no-prompt", "none"), "unseen (4)", ", without any prompt in {}, with the example"),
        (
            "hidden-goals",
            ("full", "wrong-trajectory"),
            "unseen (4)",
            "with the example of another goal in {}, by copying",
        ),
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
        (
            "ml45-visible",
            ("full", ""),
            "does what it is told",
            "between two tasks of one scene? | {} as told |",
        ),
        ("ml45-visible", ("full", ""), "does the other", "| {} the other |"),
        ("ml45-visible", ("full", BOTH), "seen (45)", "of the tasks that it was trained on? | {} |"),
        ("ml45-visible", ("expert", "expert"), "seen (45)", "| {} the scripted experts |"),
    ],
)
def test_a_number_in_the_words_of_the_page_is_in_a_report(
    grid: str, row: tuple[str, str], column: str, said: str
) -> None:
    assert said.format(reported(grid, row, column)) in words_of(PAGE)


def test_what_the_page_says_of_the_critic_of_iql_scene_by_scene_is_in_the_report() -> None:
    seen, unseen = (
        above("ml45-visible", ("expectile", BOTH), column) for column in ("seen (45)", "unseen (5)")
    )
    of_full = by_seed("ml45-visible", "full", BOTH)[0]
    text = words_of(PAGE)
    assert f"above the {of_full:.2f} of that seed of `full`, by {turned(unseen)} scene by scene" in text
    assert f"on seen tasks, below it by {seen}." in text


@pytest.mark.parametrize("column", ["seen (8)", "unseen (4)"])
@pytest.mark.parametrize(
    "row",
    [("no-trajectory", TEXT), ("no-prompt", "none"), ("full", "wrong-trajectory"), ("copy", "copy")],
    ids="-".join,
)
def test_with_the_goal_hidden_the_interval_of_the_method_meets_none_of_those_that_the_page_names(
    row: tuple[str, str], column: str
) -> None:
    low, high = (
        numbers_of(reported("hidden-goals", row, column))[index]
        for row, index in ((("full", BOTH), 1), (row, 2))
    )
    assert low > high


def test_what_the_page_says_scene_by_scene_of_the_sentence_where_the_goal_is_hidden_is_in_the_report() -> (
    None
):
    seen, unseen = (above("hidden-goals", ("full", EXAMPLE), column) for column in ("seen (8)", "unseen (4)"))
    text = words_of(PAGE)
    assert f"scene by scene {turned(unseen)} more than with both" in text
    assert f"On seen tasks the sentence helps, by {seen}." in text


def test_what_the_page_says_of_mixed_data_is_what_the_raw_results_give() -> None:
    grid, seen, unseen = "ml45-mixed", "seen (45)", "unseen (5)"
    full, cloned = ((row, BOTH) for row in ("full", "bc"))
    of_seen, of_unseen, of_bins, of_locks = (
        [reported(grid, row, column) for row in (full, cloned)]
        for column in (seen, unseen, "bin-picking", "door-lock")
    )
    by_example = [reported(grid, (row, EXAMPLE), unseen) for row in ("full", "bc")]
    gains, no_gains = (
        [above(grid, cloned, column, what) for what in ("successes", "returns")] for column in (seen, unseen)
    )
    text = words_of(PAGE)
    said = "{} told both and {}, scene by scene {} more success and {} more return."
    assert said.format(*of_seen, *gains) in text
    said = (
        "it is not: {} and {}, scene by scene {} in success and {} in return; nor by the example, {} and {}."
    )
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
    said = (
        "(`no-q`) seen tasks are done in {} told both, with a return of {}, and unseen ones in {}, with {}."
    )
    assert said.format(*columns) in text
    said = "is above that by {} in success on seen tasks, by {} on unseen ones, and by {} in return there."
    assert (
        said.format(above(grid, no_q, seen), above(grid, no_q, unseen), above(grid, no_q, unseen, "returns"))
        in text
    )
    said = "door-unlock is all or nothing: {:.2f}, {:.2f} and {:.2f} in the three trainings."
    assert said.format(*by_seed(grid, *no_q, "door-unlock")) in text


@pytest.mark.parametrize("what", ["successes", "returns"])
def test_with_mixed_data_the_method_is_above_cloning_on_seen_tasks_scene_by_scene(what: str) -> None:
    _, low, _ = numbers_of(above("ml45-mixed", ("bc", BOTH), "seen (45)", what))
    assert low > 0


def test_what_the_readme_says_of_the_reference_budget_is_in_the_report() -> None:
    readme = words_of(DOCS.parent / "README.md")
    assert (
        f"it is {reported('ml45-visible', ('full', BOTH), 'unseen (5)')} with sentence and example" in readme
    )
    unprompted = reported("ml45-visible", ("no-prompt", "none"), "unseen (5)")
    assert f"and {unprompted} for a policy trained without any prompt" in readme
    paper, prompt_dt = (
        reported("ml45-visible", (row, BOTH), "unseen (5)") for row in ("concat", "prompt-dt")
    )
    assert (
        f"it is {paper} with the example as one vector, as in the paper, and {prompt_dt} by Prompt-DT"
        in readme
    )
    rows = (("full", EXAMPLE), ("full", BOTH), ("no-trajectory", TEXT))
    example, both, without = (reported("hidden-goals", row, "unseen (4)") for row in rows)
    said = f"in {example} with the example, in {both} with a sentence beside it, and in {without} by a policy trained without"
    assert said in readme
