"""What was tried on mixed data, as its page in the docs has it, computed again from the raw results."""

from statistics import mean
from typing import Any

from result_tables import PAGE
from result_words import SHOWN, TOLD, TRIED, means, of_tuning, paired, rate, table_behind, tuning, words_of

from sb3_llmdpd.benchmarks.common.variants import BOTH, EXAMPLE


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
            *(
                entry
                for told in (BOTH, EXAMPLE)
                for entry in means([cells[told] for cells in run["unseen"].values()])
            ),
        ]
        for run in tuning("weights")
    ]


def by_data_and_weights(group: str, told: str, value: str) -> dict[tuple[str, str], dict[str, float]]:
    """A value by third and task, of cloning with weights of each kind; empty where it was not measured."""
    values: dict[tuple[str, str], dict[str, float]] = {}
    for run in tuning("returns"):
        of_run = {
            f"{run['split']} {task}": cells[told] for task, cells in run[group].items() if told in cells
        }
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
    text = words_of(TRIED)
    assert (
        f"seen tasks, {expert[0]} more, standard error {expert[1]}) and with 4 on mixed data ({mixed[0]} less, {mixed[1]})"
        in text
    )
    assert f"On mixed data 4 is too little (8 does {weaker[0]} more, {weaker[1]})" in text
    draws = of_tuning("draws")["expert"]
    short, standard = draws["shortfall, 8"], draws["standardised, 1"]
    assert (
        f"{short['failures']:.1%} of what it draws is of failed episodes, and {standard['failures']:.1%} with"
        in text
    )
    assert (
        f"weigh as much as {short['episodes']} that are drawn alike, and as {standard['episodes']}." in text
    )


def differences(
    one: str, other: str, digits: dict[str, int], shown: tuple[tuple[str, str], ...] = TOLD
) -> list[str]:
    """By how much weights of one kind do more than another on mixed data, with the standard error: column by column."""
    return [
        "{} ({})".format(*paired(of["mixed", one], of["mixed", other], digits[value]))
        for value in digits
        for of in (by_data_and_weights(*column, value) for column in shown)
    ]


DIGITS = {"success": 2, "return": 0}
BY_EPISODES = "shortfall, 4, by episodes"


def test_what_the_page_says_of_weights_beside_data_drawn_alike_is_what_the_raw_results_give() -> None:
    said = (
        "weights of 8 do {} more on seen tasks, {} more on unseen ones told both and {} more by the example;"
        " returns grow by {}, {} and {}."
    )
    shown = differences("shortfall, 8", "alike", DIGITS)
    assert said.format(*shown) in words_of(TRIED)
    both, example = shown[1].replace("(", "(standard error "), shown[2]
    assert f"each unseen once, it gains {both} told both and {example} by the example where an" in words_of(
        PAGE
    )


def test_what_the_page_says_of_weights_by_episodes_is_what_the_raw_results_give() -> None:
    said = (
        "does {} more than 8 by transitions on seen tasks, {} on unseen ones told both and {} by the example, and returns"
        " are {}, {} and {} higher; above data drawn alike it is {} and {} on unseen tasks."
    )
    of_eight = differences(BY_EPISODES, "shortfall, 8", DIGITS)
    of_alike = differences(BY_EPISODES, "alike", {"success": 2}, TOLD[1:])
    assert said.format(*of_eight, *of_alike) in words_of(TRIED)


def test_what_the_page_says_of_examples_drawn_by_weight_is_what_the_raw_results_give() -> None:
    success, example, *returns = differences(
        "shortfall, 8, of examples, too", "shortfall, 8", DIGITS, TOLD[1:]
    )
    text = words_of(TRIED)
    assert f"give {success} more on unseen tasks told both and {example} by the example, and returns" in text
    assert "and returns that are {} and {} higher.".format(*returns) in text


def told_means(run: dict[str, Any]) -> list[str]:
    """Success rate and return of a training in each of the columns `TOLD`."""
    return [entry for group, told in TOLD for entry in means([cells[told] for cells in run[group].values()])]


def test_the_table_of_episodes_recorded_whole_is_what_the_raw_results_give() -> None:
    assert table_behind("tuning whole") == [[run["recorded"], *told_means(run)] for run in tuning("whole")]


def test_what_the_page_says_of_episodes_recorded_whole_is_what_the_raw_results_give() -> None:
    short, whole = tuning("whole")
    success, returns = (
        [
            paired(
                *({task: cells[told][value] for task, cells in run[group].items()} for run in (whole, short)),
                digits,
            )
            for group, told in TOLD
        ]
        for value, digits in (("success", 2), ("return", 0))
    )
    text = words_of(TRIED)
    assert (
        f"seen tasks are done less often, by {success[0][0].strip('-')} (standard error {success[0][1]})"
        in text
    )
    assert (
        "in {} ({}) more of the episodes told both and in {} ({}) more by".format(*success[1], *success[2])
        in text
    )
    said = "by {} ({}) on seen tasks, by {} ({}) on unseen ones told both and by {} ({}) by the example."
    assert said.format(*(entry for pair in returns for entry in pair)) in text


def of_reference(
    setting: str, steps: int, column: tuple[str, str], value: str = "success"
) -> dict[str, float]:
    """A value by task, of a training measured at the reference budget."""
    (run,) = (run for run in tuning("reference") if (run["setting"], run["steps"]) == (setting, steps))
    group, told = column
    return {task: cells[told][value] for task, cells in run[group].items()}


def test_the_table_of_the_reference_budget_is_what_the_raw_results_give() -> None:
    assert table_behind("tuning reference") == [
        [run["setting"], f"{run['steps']:,}", *told_means(run)] for run in tuning("reference")
    ]


def test_what_the_page_says_of_the_reference_budget_is_what_the_raw_results_give() -> None:
    def above(
        one: tuple[str, int], other: tuple[str, int], column: tuple[str, str], value: str = "success"
    ) -> str:
        rates = (of_reference(*training, column, value) for training in (one, other))
        return "{} ({})".format(*paired(*rates, DIGITS[value]))

    full, alike, weighted = ("full", 10_000), ("alike", 10_000), (BY_EPISODES, 10_000)
    seen, both, example = (tuple(above(full, alike, column, value) for value in DIGITS) for column in TOLD)
    text = words_of(TRIED)
    gain, its_return = seen
    assert f"by {gain.replace('(', '(standard error ')} in success and {its_return} in return." in text
    assert "it is not: {} and {} told both, {} and {} by the example.".format(*both, *example) in text
    assert "the Q term: {} and {}.".format(*(above(weighted, alike, column) for column in TOLD[1:])) in text
    longer = [
        above((name, 10_000), (name, 5_000), column) for name in ("alike", BY_EPISODES) for column in TOLD[1:]
    ]
    said = "data drawn alike do {} more told both and {} by the example, and weights {} and {}."
    assert said.format(*longer) in text
    within_250 = [
        [cells[BOTH]["success"] for cells in run["unseen"].values()]
        for kind in (BY_EPISODES, "alike")
        for run in tuning("returns")
        if (run["data"], run["weights"], run["split"]) == ("mixed", kind, "third-0")
    ]
    within_500 = (of_reference(kind, 5_000, TOLD[1]).values() for kind in (BY_EPISODES, "alike"))
    said = "{} and {} told both, and here {} and {}: cloning alike is slower"
    assert said.format(*map(rate, within_250), *map(rate, within_500)) in text


def test_what_the_page_says_of_guidance_is_what_the_raw_results_give() -> None:
    seen, both, example = (
        f"{rate(by_data_and_weights(group, told, 'success')['expert', 'shortfall, 8'].values())}"
        f" into {rate(cells[told]['success'] for run in tuning('guidance') for cells in run[group].values())}"
        for group, told in TOLD
    )
    said = f"told both {seen} on seen tasks and {both} on unseen ones, with the example alone {example}. Left out"
    assert said in words_of(TRIED)


def of_the_three_thirds(weight: float, group: str, told: str, value: str) -> dict[str, float]:
    """A value by third and task, of cloning with a weight."""
    return {
        f"{run['split']} {task}": (cells[told] if group == "unseen" else cells)[value]
        for run in tuning("weights")
        if (run["weight"], run["eta"]) == (weight, 0.0)
        for task, cells in run[group].items()
    }


def test_what_the_page_says_of_the_strength_of_weights_is_what_the_raw_results_give() -> None:
    without, two, four = (
        [of_the_three_thirds(w, *group, "success") for group in TOLD] for w in (0.0, 2.0, 4.0)
    )
    seen, both, example = (
        f"{rate(old.values())} into {rate(new.values())}" for old, new in zip(without, four, strict=True)
    )
    text = words_of(TRIED)
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
    assert f"{seen[0.0]} without it, {seen[0.1]} with `eta=0.1`, and {seen[1.0]} with `eta=1`" in words_of(
        TRIED
    )


def test_what_the_page_says_of_critics_on_mixed_data_is_what_the_raw_results_give() -> None:
    td, advantage, many_steps = (list(run["seen"].values()) for run in tuning("ranking"))
    preferred = [mean(cell["preferred"] for cell in cells) for cells in (td, advantage, many_steps)]
    gaps = [mean(cell["gap"] for cell in cells) for cells in (td, many_steps)]
    text = words_of(TRIED)
    assert f"to a random one in {preferred[0]:.2f} of the cases, and values it by {gaps[0]:.0%} more" in text
    assert (
        f"prefers it in {preferred[1]:.2f}, and one of 50-step returns in {preferred[2]:.2f}, by {gaps[1]:.0%}."
        in text
    )


def test_what_the_page_says_of_return_weights_is_what_the_raw_results_give() -> None:
    of = {
        (run["setting"], group): mean(cell["success"] for cell in run[group].values())
        for run in tuning("mixed")
        if run["candidates"] == 1
        for group in ("seen", "unseen")
    }
    alone = of["cloning of the successful episodes alone", "seen"] - of["cloning alone", "seen"]
    weighted = [
        of[f"{row}, standardised returns, 2", group]
        for group in ("seen", "unseen")
        for row in ("eta=1", "cloning")
    ]
    text = words_of(TRIED)
    assert f"Cloning the successful episodes alone does {alone:.2f} more on seen tasks" in text
    said = "({:.2f} and {:.2f} on seen tasks, {:.2f} and {:.2f} on unseen ones"
    assert said.format(*weighted) in text
