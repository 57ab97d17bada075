"""The page of an advice: printed, in Markdown, in HTML, and its numbers in JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.evaluation.html_page import page
from sb3_llmdpd.evaluation.report import Table
from sb3_llmdpd.evaluation.statistics import with_interval
from sb3_llmdpd.validation.advice import Advice, NewAdvice, TaskAdvice
from sb3_llmdpd.validation.judgement import ODD_TIMES, ODD_Z, WORKS

JSON, MARKDOWN, HTML = "advice.json", "advice.md", "advice.html"
FORMAT_VERSION = 1

TITLE = "What these data can teach"
_READING = "How to read this page"

READING = (
    "Every number is of tasks that a short training left out, and of its actions on logged episodes: an error"
    " of 0 is perfect, and whoever always plays the mean action gets about 1. Longer trainings on all tasks"
    " do better.",
    "What is learned of a task is the share of the error without a prompt that its prompt takes away; from"
    f" {WORKS:.0%} on it is expected to work. Nothing was played: the docs say how often that is right.",
    "An episode disagrees if its error stands out among those of its task when others of the task are shown"
    f" ({ODD_TIMES:g} times the median, and a robust z of {ODD_Z:g}, or more). That removing it lowers the"
    " error is a guess, unless a training without it is named here.",
    "Distances are root mean squares of standardised features of the example's steps to the nearest steps of"
    " a task, and of standardised sentence vectors.",
)
"""Sentences that one has to know to read the tables."""


def facts(advice: Advice) -> list[str]:
    """Say the most important in a few sentences."""
    plan, n = advice.plan, len(advice.tasks)
    working = sum(task.works for task in advice.tasks)
    known = "" if advice.known_error is None else f" On known tasks the error is {advice.known_error:.2f}."
    said = [
        f"{len(plan.folds)} trainings of {plan.steps:,} gradient steps, a budget of {plan.minutes:g} minutes;"
        f" each of {n} tasks was left out once.{known}",
        f"{working} of {n} tasks are learned well enough from the others to be expected to work.",
        f"Prompt with {_WORDS[advice.prompt]}: an error of {with_interval(advice.prompts[advice.prompt])} on"
        " tasks that were left out.",
    ]
    if advice.odd:
        said.append(f"Episodes that disagree with others of their task: {len(advice.odd)}.")
    if (removal := advice.removal) is not None:
        said.append(
            f"Without {', '.join(removal.sources)} the error on other held-out episodes of their tasks goes"
            f" from {removal.before:.2f} to {removal.after:.2f} (one training each)."
        )
    if advice.alike_left_out is not None:
        said.append(f"Sentences were compared by their letters alone: {advice.alike_left_out}.")
    said += [f"{new.name}: {new.verdict}" for new in advice.new]
    return said


_WORDS = {
    "both": "a sentence and an example",
    "example": "an example alone",
    "sentence": "a sentence alone",
    "none": "nothing, since no prompt helps",
}


def tables(advice: Advice) -> list[Table]:
    """Make the tables that have rows."""
    made = [
        _task_table(advice),
        _lack_table(advice.tasks),
        _prompt_table(advice),
        _odd_table(advice),
        _alike_table(advice),
        _new_table(advice.new),
        _error_table(advice.new),
    ]
    return [table for table in made if table.rows]


def _task_table(advice: Advice) -> Table:
    prompts = tuple(advice.prompts)
    rows = tuple(
        (
            task.task,
            f"{max(task.learned, 0.0):.0%}",
            task.prompt,
            *(_error(task.errors, prompt) for prompt in prompts),
            _distance(task.nearness.to_nearest("example")),
            _distance(task.nearness.to_nearest("sentence")),
        )
        for task in advice.tasks
    )
    header = ("task", "learned", "prompt", *prompts, "example to nearest", "sentence to nearest")
    return Table(
        "Tasks when they are left out, the worst first: errors by prompt, and distances", header, rows
    )


def _lack_table(tasks: Sequence[TaskAdvice]) -> Table:
    rows = tuple((task.task, sentence) for task in tasks for sentence in task.lacks)
    return Table("What their data lack", ("task", "what it lacks"), rows)


def _prompt_table(advice: Advice) -> Table:
    rows = tuple(
        (prompt, with_interval(estimate), str(sum(task.prompt == prompt for task in advice.tasks)))
        for prompt, estimate in advice.prompts.items()
    )
    title = "Prompts: error on tasks that were left out [95% bootstrap interval], and tasks to use them for"
    return Table(title, ("prompt", "error", "tasks"), rows)


def _odd_table(advice: Advice) -> Table:
    rows = tuple(
        (episode.source, episode.task, f"{episode.error:.2f}", f"{episode.times:.1f}", f"{episode.z:.1f}")
        for episode in advice.odd
    )
    header = ("episode", "task", "error", "times the median", "robust z")
    return Table("Episodes that disagree with their task", header, rows)


def _alike_table(advice: Advice) -> Table:
    rows = tuple(
        (" / ".join(alike.tasks), " / ".join(alike.texts), f"{alike.cosine:.3f}") for alike in advice.alike
    )
    return Table("Sentences that hardly tell tasks apart", ("tasks", "sentences", "cosine"), rows)


def _new_table(new: Sequence[NewAdvice]) -> Table:
    rows = tuple(
        (
            one.name,
            shown,
            ", ".join(f"{task} ({distance:.2f})" for task, distance in nearest),
            one.judgements[shown].verdict if shown in one.judgements else "",
        )
        for one in new
        for shown, nearest in one.nearest.items()
    )
    return Table("New tasks: the nearest known ones (distance)", ("new", "by", "nearest", "verdict"), rows)


def _error_table(new: Sequence[NewAdvice]) -> Table:
    measured = [one for one in new if one.errors]
    prompts = tuple(dict.fromkeys(prompt for one in measured for prompt in one.errors))
    rows = tuple(
        (one.name, str(one.n_episodes), *(_error(one.errors, prompt) for prompt in prompts))
        for one in measured
    )
    return Table("New tasks: errors on their own episodes", ("new", "episodes", *prompts), rows)


def _error(errors: Mapping[str, float], prompt: str) -> str:
    return f"{errors[prompt]:.2f}" if prompt in errors else ""


def _distance(distance: float | None) -> str:
    return "" if distance is None else f"{distance:.2f}"


def text(advice: Advice) -> str:
    """Write the page for a terminal."""
    parts = [
        TITLE,
        "\n".join(f"- {fact}" for fact in facts(advice)),
        *(table.text().strip("\n") for table in tables(advice)),
        f"{_READING}\n" + "\n".join(f"- {sentence}" for sentence in READING),
    ]
    return "\n".join(line.rstrip() for line in "\n\n".join(parts).splitlines())


def write_advice(folder: Path, advice: Advice) -> None:
    """Write ``advice.md``, ``advice.html`` and ``advice.json``.

    :param folder: folder of the files, which is made where it is missing.
    :param advice: the advice.
    """
    said, made = facts(advice), tables(advice)
    markdown = "\n".join(
        [
            f"# {TITLE}\n",
            *(f"- {fact}" for fact in said),
            "",
            *(table.markdown() for table in made),
            f"## {_READING}\n",
            *(f"- {sentence}" for sentence in READING),
            "",
        ]
    )
    html = page(TITLE, said, {}, made, _READING, READING)
    numbers = {"format_version": FORMAT_VERSION, **asdict(advice)}
    document = json.dumps(numbers, indent=1, allow_nan=False) + "\n"
    for name, content in ((MARKDOWN, markdown), (HTML, html), (JSON, document)):
        with whole_file(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
