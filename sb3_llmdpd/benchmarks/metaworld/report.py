"""The report on Meta-World: facts and tables in Markdown, and the same as a page with charts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb3_llmdpd.benchmarks.common.report import Report
from sb3_llmdpd.benchmarks.metaworld.results import GridResults
from sb3_llmdpd.benchmarks.metaworld.tables import groups, rows_of, tables
from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.evaluation.html_page import Dots, page
from sb3_llmdpd.evaluation.statistics import Estimate

PAGE = "report.html"
NOT_SHOWN_HEADING = "What the numbers do not show"
NOT_SHOWN = (
    "The intervals are for these tasks; other unseen tasks may give other numbers. Few seeds are a small"
    " sample of the trainings that there could be, and all of them had the same data.",
    "Meta-World's scenes nearly give their tasks away. What a row without any prompt reaches is no"
    " generalisation from prompts, and only what another row has above it can be.",
    "The demonstrations and the examples come from scripted experts in simulation; those of people are less"
    " regular.",
)
"""Sentences about what no table of this kind shows."""

GOAL_KNOWN = (
    "Each episode has the goal of its example, and another placement of the object. Where a task's goal is a"
    " part of its object, or is nearly the same in all scenes, it is known, hidden or not, and no example is"
    " needed: such tasks, marked *, are left out of the means. A wrong trajectory is the example of the task"
    " whose end lies farthest from that of the right one."
)
_GOALS = {
    "visible": "visible in the observations",
    "hidden": "hidden in the observations",
    "told": "told in words, and hidden in the observations",
}
GOAL_TOLD = (
    "Each task's goal lies at one place, which its sentence names and the scene does not show. Unseen are"
    " combinations of task and place; every word of theirs is in sentences of others. The antonym is the same"
    " task's sentence for another place. Of each paraphrase one part, the frame or a word of the place, was"
    " never read."
)
SHARED_SCENES = (
    "In the scenes that two tasks share, each is told both sentences. Nothing ends an episode in which the"
    " other task is done, and a policy that did what it was told and goes on may do the scene's own later:"
    " soon is within twice the steps that it takes the scripted expert."
)
POOLED = (
    "Each row was trained once for each split and seed. Each of these trainings is counted as a seed, with"
    " seen and unseen tasks of its own, so that the intervals say how hold-outs differ, too."
)
INTERVALS = (
    "The intervals hold 95% of a bootstrap over seeds and, within each, over the episodes of each task;"
    " where a row has a single seed, over its episodes only. Where all episodes agree, a bootstrap knows of"
    " no doubt."
)


def metaworld_report(results: GridResults) -> Report:
    """Make the report on Meta-World: ``report.md`` and ``report.html``, which needs no network."""
    settings, made, known = results.settings, tables(results), facts(results)
    title = f"Meta-World, split {settings['split']}, goal {settings['goal']}, {settings['data']} data"

    def write_page(path: Path) -> None:
        with whole_file(path) as temporary:
            temporary.write_text(page(title, known, _charts(results), made, NOT_SHOWN_HEADING, NOT_SHOWN))

    return Report(made, PAGE, write_page, title, known, {NOT_SHOWN_HEADING: NOT_SHOWN})


def facts(results: GridResults) -> list[str]:
    """Say in sentences what one has to know to read the tables."""
    settings = results.settings
    hold_outs = [_hold_out(of_split) for of_split in settings.get("pooled", [settings])]
    about_goal = {"visible": "", "hidden": f" {GOAL_KNOWN}", "told": f" {GOAL_TOLD}"}[settings["goal"]]
    return [
        *hold_outs,
        *([POOLED] if "pooled" in settings else []),
        f"The goal is {_GOALS[settings['goal']]}. Data: {settings['data']},"
        f" {settings['n_episodes']} episodes a task; {settings['n_steps']:,} gradient steps.{about_goal}",
        _budget(results),
        INTERVALS,
        *([SHARED_SCENES] if any(cell.told for cell in results.cells) else []),
        results.made_with,
    ]


def _hold_out(settings: Mapping[str, Any]) -> str:
    trained, unseen = len(settings["train_tasks"]), ", ".join(settings["unseen_tasks"])
    return f"Split {settings['split']}: trained on {trained} tasks; unseen are {unseen}."


def _budget(results: GridResults) -> str:
    """Name the numbers of seeds, episodes and steps, and the variants and conditions that have fewer."""
    settings = results.settings
    seeds = {row.variant: row.n_seeds for row in rows_of(results)}
    most = max(seeds.values(), default=0)
    fewer_seeds = ", ".join(f"{name} {n}" for name, n in seeds.items() if n < most)
    n_seen = settings["n_seen_episodes"]
    of_seen = {
        cell.condition: len(cell.successes) for cell in results.cells if cell.seen and cell.told is None
    }
    controls = ", ".join(condition for condition, n_episodes in of_seen.items() if n_episodes < n_seen)
    ends = (
        "; it ends there, so that returns say little, and are left out" if settings["stop_at_success"] else ""
    )
    return (
        f"Seeds: {most}{f' (but {fewer_seeds})' if fewer_seeds else ''}."
        f" Each plays {settings['n_unseen_episodes']} episodes of an unseen task and {n_seen} of a seen one"
        f"{f' (a fifth as many under {controls})' if controls else ''}, of"
        f" {settings['max_episode_steps']} steps at most."
        f" An episode counts as a success when any of its steps is one{ends}."
    )


def _charts(results: GridResults) -> dict[str, Dots]:
    seen, unseen, *_ = groups(results)
    charts: dict[str, dict[str, Estimate]] = {"Unseen tasks": {}, "Seen tasks": {}}
    for dots, group in zip(charts.values(), (unseen, seen), strict=True):
        for row in rows_of(results):
            rate = row.estimate(group.has, "successes")
            if rate is not None:
                dots[f"{row.variant}, told {row.condition}"] = rate
    return {title: dots for title, dots in charts.items() if dots}
