"""What was tried on mixed data, as its page in the docs has it, computed again from the raw results."""

from statistics import mean

from result_words import SHOWN, TOLD, TRIED, means, of_tuning, paired, rate, table_behind, tuning, words_of

from sb3_llmdpd.benchmarks.variants import BOTH, EXAMPLE


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
    text = words_of(TRIED)
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
    text = words_of(TRIED)
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
    text = words_of(TRIED)
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
    without, two, four = ([of_the_three_thirds(w, *group, "success") for group in TOLD] for w in (0.0, 2.0, 4.0))
    seen, both, example = (f"{rate(old.values())} into {rate(new.values())}" for old, new in zip(without, four, strict=True))
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
    assert f"{seen[0.0]} without it, {seen[0.1]} with `eta=0.1`, and {seen[1.0]} with `eta=1`" in words_of(TRIED)


def test_what_the_page_says_of_critics_on_mixed_data_is_what_the_raw_results_give() -> None:
    td, advantage, many_steps = (list(run["seen"].values()) for run in tuning("ranking"))
    preferred = [mean(cell["preferred"] for cell in cells) for cells in (td, advantage, many_steps)]
    gaps = [mean(cell["gap"] for cell in cells) for cells in (td, many_steps)]
    text = words_of(TRIED)
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
    text = words_of(TRIED)
    assert f"Cloning the successful episodes alone does {alone:.2f} more on seen tasks" in text
    said = "({:.2f} and {:.2f} on seen tasks, {:.2f} and {:.2f} on unseen ones"
    assert said.format(*weighted) in text
