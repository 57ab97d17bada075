"""Reports what was measured on held-out episodes: tables, and validation.json with validation.md."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.evaluation.report import GROUPS, Table
from sb3_llmdpd.evaluation.results import VALIDATION, write_envelope
from sb3_llmdpd.evaluation.statistics import Estimate, mean_over_tasks, with_interval
from sb3_llmdpd.validation.errors import PHASES, EpisodeError, HeldOutErrors

JSON, MARKDOWN = "validation.json", "validation.md"


def summary(errors: HeldOutErrors, seen: bool | None, prompt: str) -> dict[str, Estimate]:
    """Estimate the means over the tasks of a group under a prompt, with 95% bootstrap intervals.

    :param errors: the measurement.
    :param seen: the group.
    :param prompt: the prompt.
    :return: ``error``, ``denoising_loss``, ``error_begin`` and so on, ``error_of_0`` and so on, over
        episodes; ``q_rank``, over tasks, where a critic was asked. Empty where nothing was measured.
    """
    by_task = list(errors.of(seen, prompt).values())
    if not by_task:
        return {}

    def over_tasks(number: Any) -> Estimate:
        return mean_over_tasks([[number(episode) for episode in episodes] for episodes in by_task])

    found = {
        "error": over_tasks(lambda one: one.relative),
        "denoising_loss": over_tasks(lambda one: one.denoising_loss),
    }
    for number, phase in enumerate(PHASES):
        found[f"error_{phase}"] = over_tasks(lambda one, number=number: one.phases[number])
    for entry in range(len(by_task[0][0].entries)):
        found[f"error_of_{entry}"] = over_tasks(lambda one, entry=entry: one.entries[entry])
    ranks = [one.correlation for one in errors.values if one.seen is seen and one.prompt == prompt]
    if known := [rank for rank in ranks if rank is not None]:
        found["q_rank"] = mean_over_tasks([known])
    return found


def tables(errors: HeldOutErrors) -> list[Table]:
    """Make the tables: prompts, entries of the action, single tasks, and the critic where there is one.

    :param errors: the measurement.
    """
    found = {
        (seen, prompt): one
        for seen in errors.groups
        for prompt in errors.prompts
        if (one := summary(errors, seen, prompt))
    }
    critic = [_critic_table(errors)] if errors.values else []
    return [_prompt_table(errors, found), _entry_table(errors, found), _task_table(errors), *critic]


_Summaries = Mapping[tuple[bool | None, str], Mapping[str, Estimate]]


def _prompt_table(errors: HeldOutErrors, found: _Summaries) -> Table:
    rows = tuple(
        (
            _group(errors, seen),
            prompt,
            with_interval(one["error"]),
            *(f"{one[f'error_{phase}'].value:.2f}" for phase in PHASES),
            with_interval(one["denoising_loss"]),
            with_interval(one.get("q_rank")),
        )
        for (seen, prompt), one in found.items()
    )
    header = ("tasks", "prompt", "error", *PHASES, "denoising loss", "rank of Q")
    title = "Error of held-out actions, relative to their spread in the data [95% bootstrap interval]"
    return Table(title, header, rows)


def _critic_table(errors: HeldOutErrors) -> Table:
    rows = []
    for seen in errors.groups:
        for prompt in errors.prompts:
            of = [each for each in errors.values if each.seen is seen and each.prompt == prompt]
            numbers = [[each.correlation, each.value, each.earned, each.prefers] for each in of]
            columns = [
                [number for number in column if number is not None] for column in zip(*numbers, strict=True)
            ]
            means = [f"{np.mean(column):.2f}" if column else "" for column in columns]
            rows += [(_group(errors, seen), prompt, *means)] if of else []
    header = ("tasks", "prompt", "rank of Q", "Q", "earned", "prefers the logged action")
    return Table("The critic on held-out episodes, means over tasks, in scaled rewards", header, tuple(rows))


def _entry_table(errors: HeldOutErrors, found: _Summaries) -> Table:
    rows = tuple(
        (
            _group(errors, seen),
            prompt,
            *(f"{estimate.value:.3g}" for name, estimate in one.items() if name.startswith("error_of_")),
        )
        for (seen, prompt), one in found.items()
    )
    n_entries = len(rows[0]) - 2
    header = ("tasks", "prompt", *(f"entry {number}" for number in range(n_entries)))
    return Table("Error of each entry of the action, in its own units", header, rows)


def _task_table(errors: HeldOutErrors) -> Table:
    """Make a row for each task; the tasks that are done worst come first."""
    seen_of = {episode.task: episode.seen for episode in errors.episodes}
    means = {
        (task, prompt): _mean(episodes)
        for seen in errors.groups
        for prompt in errors.prompts
        for task, episodes in errors.of(seen, prompt).items()
    }
    order = errors.groups
    worst = errors.chosen_by[1]
    tasks = sorted(seen_of, key=lambda task: (order.index(seen_of[task]), -means.get((task, worst), 0.0)))
    rows = tuple(
        (
            task,
            GROUPS[seen_of[task]] if seen_of[task] is not None else "",
            *(f"{means[task, prompt]:.2f}" if (task, prompt) in means else "" for prompt in errors.prompts),
        )
        for task in tasks
    )
    return Table("Error by task, the worst first", ("task", "", *errors.prompts), rows)


def _mean(episodes: Sequence[EpisodeError]) -> float:
    return float(np.mean([episode.relative for episode in episodes]))


def _group(errors: HeldOutErrors, seen: bool | None) -> str:
    tasks = {episode.task for episode in errors.episodes if episode.seen is seen}
    return f"{GROUPS[seen]} ({len(tasks)})"


READING = (
    "An error of 0 is perfect; whoever always plays the mean action gets about 1.",
    "The error is that of the deterministic action, in states of held-out episodes up to shortly after their"
    " first success. Errors of single steps add up when a policy acts: compare models by it, and do not read"
    " it as a success rate.",
    "The denoising loss stands in for a likelihood: 0 is perfect, and predicting no noise gets 1.",
    "The rank of Q is Spearman's correlation, within a task, of the critic's value of logged actions with"
    " what was earned afterwards. The last reward of an episode that was cut off goes on for ever.",
    "A critic that has learned values logged actions at what was earned, and above those of another episode;"
    " at a share of 1/2 it cannot tell them apart, and the Q term has nothing to say.",
)
"""Sentences that one has to know to read the tables."""


def write_report(
    folder: Path, errors: HeldOutErrors, settings: Mapping[str, Any], sentences: Sequence[str] = ()
) -> None:
    """Write ``validation.json`` and ``validation.md``.

    :param folder: folder of the files, which is made where it is missing.
    :param errors: the measurement.
    :param settings: JSON values; all that is needed to do it again.
    :param sentences: further sentences about the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    head = {
        "settings": settings,
        "step": errors.step,
        "error": errors.error,
        "chosen_by": dict(zip(("seen", "prompt"), errors.chosen_by, strict=True)),
        "notes": list(sentences),
        "groups": [
            {"seen": seen, "prompt": prompt, **{name: asdict(one) for name, one in found.items()}}
            for seen in errors.groups
            for prompt in errors.prompts
            if (found := summary(errors, seen, prompt))
        ],
        "values": [asdict(value) for value in errors.values],
    }
    write_envelope(folder / JSON, VALIDATION, head, map(asdict, errors.episodes))
    lines = [f"# Validation at step {errors.step:,}\n"]
    lines += [table.markdown() for table in tables(errors)]
    lines.append("".join(f"- {sentence}\n" for sentence in (*sentences, *READING)))
    with whole_file(folder / MARKDOWN) as temporary:
        temporary.write_text("\n".join(lines))
