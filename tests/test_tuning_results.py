"""What was tried on demonstrations, as its page in the docs has it, computed again from the raw results."""

import json
from collections.abc import Iterable
from statistics import mean
from typing import Any

import pytest
from result_tables import DOCS, results_of
from result_words import SHOWN, TOLD, TRIED, of_tuning, paired, rate, table_behind, tuning, words_of

from sb3_llmdpd.benchmarks.common.variants import BOTH, EXAMPLE, TEXT
from sb3_llmdpd.benchmarks.metaworld.splits import tasks_of_split
from sb3_llmdpd.data.metaworld.tasks import TASKS

CONDITIONS = {
    "visible": ("text+trajectory", "trajectory", "text", "none"),
    "hidden": ("text+trajectory", "trajectory", "wrong-trajectory", "copy"),
}


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
                rate(
                    cells[condition] for run in runs for cells in run["unseen"].values() if condition in cells
                )
                for condition in CONDITIONS[goal]
            ),
        ]
        for setting, runs in by_setting.items()
    ]


OF_FOLDS = [
    ("seen", BOTH),
    ("seen", EXAMPLE),
    ("seen", TEXT),
    ("unseen", BOTH),
    ("unseen", EXAMPLE),
    ("unseen", TEXT),
]
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
            *(
                rate(of_folds(setting, *column).values())
                for column in [*OF_FOLDS, ("unseen", "wrong-trajectory")]
            ),
        ]
        for setting in dict.fromkeys(settings)
    ]


def test_what_the_page_says_of_another_tasks_sentence_is_what_the_raw_results_give() -> None:
    unseen, seen = (
        paired(of_folds(SWAPPED, group, BOTH), of_folds("as it is", group, BOTH), 2)
        for group in ("unseen", "seen")
    )
    of_first = [
        mean(value for key, value in of_folds(setting, "unseen", BOTH).items() if key.endswith(" 0"))
        for setting in (SWAPPED, "as it is")
    ]
    text = words_of(TRIED)
    assert f"The first seed had {of_first[0] - of_first[1]:.2f} more on unseen tasks" in text
    assert (
        f"three seeds it is {unseen[0]} (standard error {unseen[1]}), and on seen tasks {seen[0]} ({seen[1]})"
        in text
    )
    visible = [rate(cells[BOTH] for cells in run["seen"].values()) for run in tuning("swaps")]
    assert f"With the goal visible, on third 0, it was {visible[0]} into {visible[1]} on seen tasks." in text
    said = "the sentence of an unseen task does {}, the example of another goal {}."
    assert (
        said.format(
            *(rate(of_folds("as it is", "unseen", told).values()) for told in (TEXT, "wrong-trajectory"))
        )
        in text
    )
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
    text = words_of(TRIED)
    assert sum(distance < 0.04 for distance in trace["nearest"]) == 7
    assert len(trace["nearest"]) == 8
    assert (
        "In eight episodes with the example alone (second row, first seed) the hand comes within 4 cm of the goal in seven"
        in text
    )
    at_the_end = [sum(entry**2 for entry in offset) ** 0.5 for offset in trace["end"]]
    assert (
        f"after 150 steps it is {100 * min(at_the_end):.0f} to {100 * max(at_the_end):.0f} cm away." in text
    )
    copied = [
        cell for cell in results_of("hidden-goals").cells if (cell.variant, cell.task) == ("copy", "reach")
    ]
    assert copied
    assert all(all(cell.successes) for cell in copied)
    assert "copying does all of it" in text


def test_the_folds_with_the_goal_hidden_have_no_task_of_the_hold_out() -> None:
    held_out = {"box-close", "pick-place", "push-back", "shelf-place"}
    told = {task for task, info in TASKS.items() if info.goal_needs_telling}
    for run in tuning("folds"):
        assert {*run["seen"], *run["unseen"]} == told - held_out
        assert set(run["seen"]).isdisjoint(run["unseen"])


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
    text = words_of(TRIED)
    assert (
        f"falls by {less[0]} told both and by {less[1]} told the sentence, over three thirds, and by {less[2]} on"
        in text
    )
    assert (
        f"where the sentence is all that is told: {before[1]:.2f} into {after[1]:.2f} on seen tasks" in text
    )
    assert (
        f"told both it is {before[0]:.2f} and {after[0]:.2f} there, {before[2]:.2f} and {after[2]:.2f} on unseen"
        in text
    )


def test_what_the_page_says_of_weights_among_demonstrations_is_what_the_raw_results_give() -> None:
    (alike, weighted), (success, of_weighted) = (
        [over_thirds(setting, values) for setting in (BY_SIGNAL, WEIGHTED)]
        for values in ("errors", "success")
    )
    text = words_of(TRIED)
    assert (
        f"the same on seen tasks ({alike[0]:.4f} and {weighted[0]:.4f}), and {weighted[2] / alike[2] - 1:.0%} larger"
        in text
    )
    assert f"whose success is {success[2]:.2f} and {of_weighted[2]:.2f}." in text
    of_hard = {
        (run["split"], run["setting"]): rate(cells[BOTH] for cells in run["seen"].values())
        for run in tuning("hard")
    }
    gains = [
        f"{of_hard[third, BY_SIGNAL]} into {of_hard[third, WEIGHTED]}"
        for third in ("third-0", "third-1", "third-2")
    ]
    assert f"told both {gains[0]}, {gains[1]} and {gains[2]} on the three thirds" in text


def test_what_the_page_says_of_several_windows_is_what_the_raw_results_give() -> None:
    one, one_example, four, four_example = (mean(run["seen"].values()) for run in tuning("windows"))
    said = f"{four:.2f} instead of {one:.2f} with both prompts, {four_example:.2f} instead of {one_example:.2f} with the example"
    assert said in words_of(TRIED)


def test_what_was_tried_was_measured_on_the_tasks_of_the_thirds() -> None:
    of_trainings = [{"split": run["split"], **run["errors"]} for run in tuning("training")]
    others = (
        "visible",
        "hidden",
        "mixed",
        "weights",
        "returns",
        "guidance",
        "swaps",
        "whole",
        "reference",
        "phrasings",
        "chunks",
    )
    for run in [*of_trainings, *(run for name in others for run in tuning(name))]:
        train, unseen = tasks_of_split(run["split"])
        assert set(run["unseen"]) <= set(unseen)
        assert set(run["seen"]) <= set(train)


FINE = "steps, other dropouts, fine differences"


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (
            ("steps", "text+trajectory"),
            ("concat", "text+trajectory"),
            "Alone they gain {0} (standard error {1})",
        ),
        (
            (f"{FINE}, no sentence beside an example", "trajectory"),
            (FINE, "text+trajectory"),
            "reads no sentence beside an example does {0} better (standard error {1}) than one that is told both",
        ),
        (
            (f"{FINE}, pair dropout", "trajectory"),
            (FINE, "trajectory"),
            "{0} more from the example alone ({1})",
        ),
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
    assert said.format(*paired(*rates, digits=2)) in words_of(TRIED)


PARAPHRASE = "paraphrase"
OF_PHRASINGS = (
    ("seen", TEXT),
    ("seen", PARAPHRASE),
    ("unseen", BOTH),
    ("unseen", TEXT),
    ("unseen", PARAPHRASE),
)
"""Columns of the table of phrasings."""


def with_sentences(n: int, group: str, told: str) -> dict[str, float]:
    """Success rates by third and task, learned with so many sentences a task at most."""
    runs = [run for run in tuning("phrasings") if run["sentences"] == n]
    return {f"{run['split']} {task}": cells[told] for run in runs for task, cells in run[group].items()}


def test_the_table_of_phrasings_is_what_the_raw_results_give() -> None:
    assert table_behind("tuning phrasings") == [
        [f"{n} at most", *(rate(with_sentences(n, *column).values()) for column in OF_PHRASINGS)]
        for n in (4, 10)
    ]


def test_what_the_page_says_of_more_sentences_is_what_the_raw_results_give() -> None:
    known, paraphrased, unseen = (
        paired(with_sentences(10, *column), with_sentences(4, *column), 2)
        for column in (("seen", TEXT), ("seen", PARAPHRASE), ("unseen", PARAPHRASE))
    )
    text = words_of(TRIED)
    assert f"better understood, by {paraphrased[0]} (standard error {paraphrased[1]}), and" in text
    assert f"and take {known[0].strip('-')} ({known[1]}) from the known ones." in text
    assert f"A task that was never seen gains nothing by them ({unseen[0]}, {unseen[1]})." in text


def test_no_further_sentence_that_was_tried_is_one_that_is_measured() -> None:
    further = json.loads((DOCS / "results" / "phrasings.json").read_text(encoding="utf-8"))
    assert set(further) == set(TASKS)
    measured = {sentence.lower() for info in TASKS.values() for sentence in (*info.texts, *info.paraphrases)}
    assert not [
        sentence for sentences in further.values() for sentence in sentences if sentence.lower() in measured
    ]


def test_what_the_page_says_of_several_actions_at_once_is_what_the_raw_results_give() -> None:
    kind = ("expert", "shortfall, 8", "third-0")
    (one_by_one,) = (run for run in tuning("returns") if (run["data"], run["weights"], run["split"]) == kind)
    four, first_of_four = (
        [
            "{} ({})".format(
                *paired(rates, {task: one_by_one[group][task][told]["success"] for task in rates}, 2)
            )
            for group, told in TOLD
            for rates in [{task: cells[told] for task, cells in run[group].items()}]
        ]
        for run in tuning("chunks")
    )
    text = words_of(TRIED)
    said = (
        "on third 0: {} on seen tasks beside one by one, {} on unseen ones told both and {} by the example."
    )
    assert said.format(*four) in text
    assert "Only the first of the four executed: {}, {} and {}. Left out.".format(*first_of_four) in text
