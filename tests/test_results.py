"""README and docs say what the raw results give, and what their words claim holds in these results."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from sb3_llmdpd.benchmarks.metaworld.splits import tasks_of_split
from sb3_llmdpd.data.metaworld.tasks import TASKS
from sb3_llmdpd.evaluation.results import METAWORLD, kind_of
from tools import make_tables
from tools.make_tables import filled, number
from tools.result_chart import description
from tools.result_files import RESULTS, MissingError, estimate, source

HELD_OUT = {"box-close", "pick-place", "push-back", "shelf-place"}
"""Unseen tasks of the grid whose goal is hidden."""
TOLD = "language+eta=0.0"
"""Row of the grid in which words tell the goal: the policy told by MiniLM's first and last layer."""
MPNET = "transformers:mpnet?normalize=1&pooling=first-last"
ONE_HOT, RANDOM = (
    f"no-trajectory+eta=0.0+text_encoder={vectors}:metaworld-told" for vectors in ("one-hot", "random")
)
TUNING = json.loads((RESULTS / "tuning.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "page", make_tables.pages(), ids=lambda page: str(page.relative_to(make_tables.ROOT))
)
def test_a_page_has_what_the_raw_results_give(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text, "run `make tables`"


@pytest.mark.parametrize("page", make_tables.CHARTS, ids=lambda page: page.stem)
def test_the_chart_shows_the_table_below_it(page: Path) -> None:
    chart = ElementTree.parse(page.with_suffix(".svg"))
    (found,) = chart.iter("{http://purl.org/dc/elements/1.1/}description")
    assert found.text == description(make_tables.drawn_rows(page)), "run `make tables`"


def test_every_grid_is_shown_whole_in_the_appendix() -> None:
    appendix = make_tables.ROOT / "docs" / "background" / "results_appendix.md"
    text = appendix.read_text(encoding="utf-8")
    grids = [path.parent.name for path in RESULTS.glob("*/results.json") if kind_of(path) == METAWORLD]
    assert {grid for grid in grids if f"<!-- report: {grid} -->" in text} == {*grids}


# What the words claim --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "row", "others"),
    [
        (
            "ml45-visible/unseen",
            "full both",
            "full sentence, full none, full wrong, no-prompt none, no-trajectory sentence, concat both,"
            " cross-attention both, prompt-dt both, copy copy",
        ),
        *[
            (f"ml45-examples/{group}{number}", f"full {told}", "retrieve example")
            for group in ("seen", "unseen")
            for number in ("", ":5", ":25")
            for told in ("example", "both")
        ],
        ("ml45-examples/unseen", "full example", "align example, full sentence, full none"),
        ("osvi/unseen", "full example", "retrieve example, full sentence, full none"),
        ("osvi/unseen:5", "full example", "retrieve example"),
        (
            "hidden-examples/unseen",
            "full example",
            "retrieve example, full wrong-trajectory, full sentence, full none",
        ),
        ("hidden-examples/unseen:5", "full example", "retrieve example"),
        *[
            (f"ml45-returns/share 100 unseen{number}", "full example", "retrieve example, align example")
            for number in ("", ":5")
        ],
        ("hidden-examples/push-back", "full example", "full both"),
        (
            "told/unseen",
            f"{TOLD} sentence",
            f"{ONE_HOT} sentence, {RANDOM} sentence, {TOLD} none, {TOLD} antonym,"
            f" {TOLD}+text_encoder=minilm sentence",
        ),
        ("told/unseen", f"{TOLD}+text_encoder={MPNET} sentence", f"{TOLD} sentence"),
        ("told/seen", f"{TOLD} paraphrase", f"{TOLD}+text_encoder=hashing paraphrase"),
        ("ml45-readers/seen", f"{TOLD} sentence", f"{TOLD} none, {TOLD} paraphrase:de"),
        ("actors/seen", "one-step-flow both", "one-step-ddim both"),
        ("actors/unseen", "one-step-flow both", "one-step-ddim both"),
        ("actors/seen", "flow-in-4-jumps sentence", "one-step-flow sentence"),
        ("ml45-visible/seen", "full both", "no-prompt none, prompt-dt both"),
        ("ml45-visible/bin-picking", "full both", "full sentence, concat both, prompt-dt both, copy copy"),
        *[
            (
                f"hidden-goals/{group}",
                "full both",
                "no-trajectory sentence, no-prompt none, full wrong-trajectory, copy copy",
            )
            for group in ("seen", "unseen")
        ],
        ("hidden-goals/unseen", "full example", "full both"),
        ("ml45-mixed/seen", "full both", "bc both"),
        ("ml45-mixed/return seen", "full both", "bc both"),
    ],
)
def test_an_interval_lies_above_others(column: str, row: str, others: str) -> None:
    file, name = column.split("/")
    _, low, _ = estimate(number(f"{file}/{row}/{name}"))
    for other in others.split(", "):
        _, _, high = estimate(number(f"{file}/{other}/{name}"))
        assert low > high, other


@pytest.mark.parametrize(
    "difference",
    [
        "ml45-visible/full both/unseen - bc both",
        "ml45-visible/full both/unseen - bc example",
        "ml45-visible/full both/unseen - candidates-10 both",
        "ml45-visible/full both/unseen - candidates-50 both",
        "ml45-visible/expectile both/unseen - full both",
        "ml45-examples/full example/unseen - full both",
        "hidden-goals/full example/unseen - full both",
        "hidden-goals/full both/seen - full example",
        "ml45-mixed/full both/seen - bc both",
        "ml45-mixed/full both/return seen - bc both",
    ],
)
def test_a_row_is_above_another_scene_by_scene(difference: str) -> None:
    _, low, _ = estimate(number(difference))
    assert low > 0


@pytest.mark.parametrize("prompt", ["both", "example"])
def test_shown_an_example_models_with_lower_errors_do_better(prompt: str) -> None:
    _, low, _ = estimate(number(f"validation/spearman {prompt}/value"))
    assert low > 0


@pytest.mark.parametrize("row", [ONE_HOT, RANDOM])
def test_words_tell_new_combinations_by_more_than_half_above_what_cannot_generalise(row: str) -> None:
    _, low, _ = estimate(number(f"told/{TOLD} sentence/unseen"))
    _, _, high = estimate(number(f"told/{row} sentence/unseen"))
    assert low - high > 0.5


def test_a_verdict_separates_tasks_that_work_but_not_among_sentences_alone() -> None:
    _, low, _ = estimate(number("validation/verdict all/gain"))
    assert low > 0.5
    _, low, high = estimate(number("validation/verdict sentence/gain"))
    assert low < 0.5 < high


def test_told_a_sentence_alone_few_succeed() -> None:
    for row in ("retrieval, 2000 steps", "few, 2000 steps"):
        sentence, example = (
            float(number(f"validation/success {row}/{told}")) for told in ("sentence", "example")
        )
        assert sentence < 0.5 < example


@pytest.mark.parametrize(
    "difference",
    [
        "ml45-visible/full both/unseen - no-q both",
        "hidden-goals/full both/seen - bc both",
        "hidden-goals/full both/unseen - bc both",
        "ml45-mixed/full both/unseen - bc both",
        "ml45-mixed/full both/return unseen - bc both",
        "ml45-mixed/full both/seen - no-q both",
        "ml45-mixed/full both/unseen - no-q both",
        "ml45-mixed/full both/return unseen - no-q both",
    ],
)
def test_no_difference_can_be_told(difference: str) -> None:
    _, low, high = estimate(number(difference))
    assert low < 0 < high


def test_in_a_scene_of_two_tasks_what_is_told_is_done_and_the_other_never() -> None:
    assert estimate(number("ml45-visible/full/does what it is told"))[1] > 0.9
    assert number("ml45-visible/full/does the other") == "0.00 [0.00, 0.00]"


def test_with_mixed_data_door_unlock_is_done_always_by_two_trainings_and_seldom_by_one() -> None:
    assert sorted(number("ml45-mixed/full both/trainings door-unlock").split(", "))[1:] == ["1.00", "1.00"]
    assert sorted(number("ml45-mixed/no-q both/trainings door-unlock").split(", ")) == [
        "0.00",
        "0.00",
        "1.00",
    ]


@pytest.mark.parametrize(
    ("difference", "errors"),
    [
        ("visible/steps/unseen - concat", 5),
        ("visible/steps, other dropouts, fine differences, pair dropout/unseen example"
         " - steps, other dropouts, fine differences", 1.5),
        ("weights/eta=0, weight=4/seen - eta=0, weight=0", 5),
        ("weights/eta=0, weight=4/unseen - eta=0, weight=0", 2),
        ("weights/eta=0, weight=4/unseen example - eta=0, weight=0", 2),
        ("returns/mixed, shortfall, 8/seen - mixed, alike", 5),
        ("returns/mixed, shortfall, 8/unseen example - mixed, alike", 2),
        ("returns/mixed, shortfall, 8/seen - mixed, shortfall, 4", 2),
        ("whole/ten steps after their success/seen - to step 500", 4),
        ("reference/full, steps=10000/seen - alike, steps=10000", 2),
        ("phrasings/sentences=10/seen paraphrase - sentences=4", 2),
    ],
)  # fmt: skip
def test_what_was_tried_gains_by_so_many_standard_errors(difference: str, errors: float) -> None:
    assert _in_errors(difference) >= errors


@pytest.mark.parametrize(
    "difference",
    [
        "folds/another task's sentence beside half of the examples/unseen - as it is",
        "folds/another task's sentence beside half of the examples/seen - as it is",
        "returns/expert, shortfall, 8/seen - expert, standardised, 1",
        "returns/mixed, shortfall, 8/seen - mixed, standardised, 4",
        "returns/mixed, shortfall, 8, of examples, too/unseen - mixed, shortfall, 8",
        "returns/mixed, shortfall, 8, of examples, too/unseen return - mixed, shortfall, 8",
        "returns/mixed, shortfall, 4, by episodes/unseen - mixed, shortfall, 8",
        "whole/to step 500/seen return - ten steps after their success",
        "whole/to step 500/unseen return - ten steps after their success",
        "reference/full, steps=10000/unseen - alike, steps=10000",
        "reference/alike, steps=10000/unseen - alike, steps=5000",
        "phrasings/sentences=10/unseen paraphrase - sentences=4",
        "chunks/chunk=4, executed=4/seen - tuning.returns/expert, shortfall, 8/",
    ],
)
def test_what_was_tried_differs_by_less_than_two_standard_errors(difference: str) -> None:
    assert abs(_in_errors(difference)) < 2


def _in_errors(difference: str) -> float:
    shown, error = number(f"tuning.{difference}").strip(")").split(" (")
    return float(shown) / float(error)


def test_the_hand_comes_near_the_goal_of_reach_and_leaves_it_and_copying_does_reach() -> None:
    near, end = (source("tuning.reach").values(when, "distance") for when in ("nearest", "after 150 steps"))
    assert sum(distance < 0.04 for distance in near.values()) == 7
    assert len(near) == 8
    assert all(0.03 <= distance <= 0.15 for distance in end.values())
    copied = [
        cell
        for cell in source("hidden-goals").results.cells
        if (cell.variant, cell.task) == ("copy", "reach")
    ]
    assert copied
    assert all(all(cell.successes) for cell in copied)


def all_played(training: dict[str, Any]) -> list[float]:
    groups = (training[group] for group in ("seen", "unseen") if group in training)
    return [share for group in groups for told in group.values() for share in told.values()]


@pytest.mark.parametrize("part", ["few-demonstrations", "mixed-quality", "one-task", "images"])
def test_no_candidate_for_a_preset_beats_the_defaults_by_twice_the_error(part: str) -> None:
    played: dict[str, list[float]] = {}
    for training in json.loads((RESULTS / "presets.json").read_text(encoding="utf-8"))[part]:
        played.setdefault(training["setting"], []).extend(all_played(training))
    the_defaults = np.array(played.pop("the defaults"))
    for shares in played.values():
        gains = np.array(shares) - the_defaults
        assert gains.mean() <= 2 * gains.std(ddof=1) / len(gains) ** 0.5


# How it was measured ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part", [name for name, part in TUNING.items() if name not in ("what", "draws", "reach", "places")]
)
def test_what_was_tried_saw_no_unseen_task_of_ml45(part: str) -> None:
    told = {task for task, info in TASKS.items() if info.goal_needs_telling}
    for run in TUNING[part]:
        measured = run.get("errors", run)
        seen, unseen = (set(measured.get(group, ())) for group in ("seen", "unseen"))
        assert seen.isdisjoint(unseen)
        assert (seen | unseen).isdisjoint(tasks_of_split("ml45")[1])
        if part == "folds":
            assert seen | unseen == told - HELD_OUT
        elif part == "alone":
            deal = int(run["split"].removeprefix("deal-"))
            assert unseen == {*sorted(tasks_of_split("ml45")[0])[deal::3]}
        elif "split" in run:
            train, held_out = tasks_of_split(run["split"])
            assert seen <= set(train)
            assert unseen <= set(held_out)


@pytest.mark.parametrize("setting", ["concat", "steps", "steps, other dropouts, fine differences"])
def test_over_the_thirds_each_task_of_training_was_unseen_once(setting: str) -> None:
    measured = source("tuning.visible").values(setting, "unseen")
    assert len(measured) == 45
    assert {task for _, _, _, task in measured} == {*tasks_of_split("ml45")[0]}


def test_no_further_sentence_that_was_tried_is_one_that_is_measured() -> None:
    further = json.loads((RESULTS / "phrasings.json").read_text(encoding="utf-8"))
    assert set(further) == set(TASKS)
    measured = {sentence.lower() for info in TASKS.values() for sentence in (*info.texts, *info.paraphrases)}
    assert measured.isdisjoint(sentence.lower() for sentences in further.values() for sentence in sentences)


# How pages are filled --------------------------------------------------------------------------------------


def test_a_page_is_filled_where_it_has_marks_and_stays_as_it_is_beside_them() -> None:
    key, what = "hidden-goals/full both/unseen", "hidden-goals | seen; unseen = not seen | copy copy = copied"
    empty = "before <!--n:{}-->{}<!--/n--> and\n<!-- table: {} -->\n{}<!-- end -->\nafter\n"
    rows = "|  | seen | not seen |\n| --- | --- | --- |\n| copied | 0.35 [0.33, 0.38] | 0.11 [0.07, 0.14] |\n"
    expected = empty.format(key, "0.37 [0.33, 0.43]", what, rows)
    assert filled(empty.format(key, "old", what, "old\n")) == expected
    assert filled(expected) == expected


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("ml45-mixed/full both/mean unseen", "0.48"),
        ("ml45-mixed/bc both/return unseen", "1233 [1154, 1310]"),
        ("ml45-mixed/full both/trainings unseen", "0.63, 0.24, 0.56"),
        ("ml45-examples/retrieve example/unseen:5", "0.83 [0.81, 0.86]"),
        ("ml45-returns/full example/share 100 unseen:25", "0.99 [0.92, 1.06]"),
        ("hidden-goals/full both/seen - full example", "0.05 [0.02, 0.08]"),
        ("hidden-goals/full example/seen - full both", "-0.05 [-0.08, -0.02]"),
        ("tuning.visible/steps/unseen example", "0.71"),
        ("tuning.weights/eta=0, weight=4/unseen return third-2", "995"),
        ("tuning.folds/as it is/seen example reach seed-0", "0.52"),
        ("tuning.returns/mixed, shortfall, 8/seen return - mixed, alike", "223 (42)"),
        ("tuning.visible/steps/unseen example - concat/unseen both", "0.36 (0.06)"),
        ("demo/seen wrong/success", "0.17 [0.11, 0.22]"),
    ],
)  # fmt: skip
def test_a_mark_names_a_number(key: str, shown: str) -> None:
    assert number(key) == shown


@pytest.mark.parametrize(
    "key",
    ["hidden-goals/full both/nowhere", "hidden-goals/fool both/seen", "tuning.visible/steps/unseen text"],
)
def test_a_mark_that_names_nothing_is_refused(key: str) -> None:
    with pytest.raises(MissingError, match=r"has (no|a row)"):
        number(key)
    with pytest.raises(MissingError):
        filled(f"a <!--n:{key}-->0.5<!--/n-->")


def test_a_column_that_no_row_has_is_refused() -> None:
    with pytest.raises(MissingError, match=r"no row of hidden-goals has \['nowhere'\]"):
        filled("<!-- table: hidden-goals | seen; nowhere -->\n<!-- end -->")


@pytest.mark.parametrize("start", ["", "  ", "- ", "1. ", "> "])
def test_a_number_that_begins_a_line_is_refused(start: str) -> None:
    with pytest.raises(ValueError, match="must not begin a line"):
        filled(f"text\n{start}<!--n:hidden-goals/full both/unseen-->0.37<!--/n--> more")


def test_a_difference_of_things_that_were_not_both_measured_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a difference needs both numbers, .* none of .*'coffee-push'"):
        number("tuning.hidden/steps/unseen - concat")
