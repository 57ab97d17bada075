"""The report of a grid: what was measured and how, its tables in Markdown, and the same as a page with charts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb3_llmdpd.benchmarks.metaworld.html_page import Panel, page
from sb3_llmdpd.benchmarks.metaworld.results import GridResults
from sb3_llmdpd.benchmarks.metaworld.tables import groups, rows_of, tables
from sb3_llmdpd.common.files import whole_file

REPORT, PAGE = "report.md", "report.html"
NOT_SHOWN = (
    "The intervals are for these tasks; other unseen tasks may give other numbers. Few seeds are a small sample of the"
    " trainings that there could be, and all of them had the same data.",
    "Meta-World's scenes nearly give their tasks away. What a row without any prompt reaches is no generalisation from"
    " prompts, and only what another row has above it can be.",
    "The demonstrations and the examples come from scripted experts in simulation; those of people are less regular.",
)
"""What no table of this kind shows."""

GOAL_KNOWN = (
    "Each episode has the goal of its example, and another placement of the object. Where a task's goal is a part of its"
    " object, or is nearly the same in all scenes, it is known, hidden or not, and no example is needed: such tasks, marked *,"
    " are left out of the means. A wrong trajectory is the example of the task whose end lies farthest from that of the right"
    " one."
)
SHARED_SCENES = (
    "In the scenes that two tasks share, each is told both sentences. Nothing ends an episode in which the other task is done,"
    " and a policy that did what it was told and goes on may do the scene's own later: soon is within twice the steps that it"
    " takes the scripted expert."
)

POOLED = (
    "Each row was trained once for each split and seed. Each of these trainings is counted as a seed, with seen and unseen"
    " tasks of its own, so that the intervals say how hold-outs differ, too."
)


def facts(results: GridResults) -> list[str]:
    """What one has to know to read the tables.

    :param results: of a grid.
    :return: sentences.
    """
    settings = results.settings
    seeds = {row.variant: row.n_seeds for row in rows_of(results)}
    most = max(seeds.values(), default=0)
    fewer = ", ".join(f"{name} {n}" for name, n in seeds.items() if n < most)
    goal_known = "" if settings["goal"] == "visible" else f" {GOAL_KNOWN}"
    of_seen = {
        cell.condition: len(cell.successes) for cell in results.cells if cell.seen and cell.told is None
    }
    fewer_of = ", ".join(
        name for name, n_episodes in of_seen.items() if n_episodes < settings["n_seen_episodes"]
    )
    controls = f" (a fifth as many under {fewer_of})" if fewer_of else ""
    ends = (
        "; it ends there, so that returns say little, and are left out" if settings["stop_at_success"] else ""
    )
    versions = ", ".join(
        f"{name} {version}" for name, version in results.versions.items() if version is not None
    )
    shared = [SHARED_SCENES] if any(cell.told for cell in results.cells) else []
    return [
        *(_hold_out(of_grid) for of_grid in settings.get("pooled", [settings])),
        *([POOLED] if "pooled" in settings else []),
        f"The goal is {settings['goal']} in the observations. Data: {settings['data']},"
        f" {settings['n_episodes']} episodes a task; {settings['n_steps']:,} gradient steps.{goal_known}",
        f"Seeds: {most}{f' (but {fewer})' if fewer else ''}. Each plays {settings['n_unseen_episodes']} episodes of an unseen"
        f" task and {settings['n_seen_episodes']} of a seen one{controls}, of"
        f" {settings['max_episode_steps']} steps at most. An episode"
        f" counts as a success when any of its steps is one{ends}.",
        "The intervals hold 95% of a bootstrap over seeds and, within each, over the episodes of each task; where a row has a"
        " single seed, over its episodes only. Where all episodes agree, a bootstrap knows of no doubt.",
        *shared,
        f"Hardware: {results.hardware['cores']} cores, {results.hardware['machine']}. Versions: {versions}.",
    ]


def _hold_out(settings: Mapping[str, Any]) -> str:
    trained, unseen = len(settings["train_tasks"]), ", ".join(settings["unseen_tasks"])
    return f"Split {settings['split']}: trained on {trained} tasks; unseen are {unseen}."


def write_report(out: Path, results: GridResults) -> None:
    """Write ``report.md`` and ``report.html``, which needs no network.

    :param out: folder.
    :param results: of a grid.
    """
    title = f"Meta-World, split {results.settings['split']}, goal {results.settings['goal']}, {results.settings['data']} data"
    made = tables(results)
    parts = [
        f"# {title}\n",
        *(f"- {fact}" for fact in facts(results)),
        "",
        *(table.markdown() for table in made),
        "What the numbers do not show:\n",
        *(f"- {sentence}" for sentence in NOT_SHOWN),
    ]
    with whole_file(out / REPORT) as temporary:
        temporary.write_text("\n".join(parts) + "\n")
    with whole_file(out / PAGE) as temporary:
        temporary.write_text(page(title, facts(results), _panels(results), made, NOT_SHOWN))


def _panels(results: GridResults) -> list[Panel]:
    seen, unseen, *_ = groups(results)
    panels = []
    for title, group in (("Unseen tasks", unseen), ("Seen tasks", seen)):
        found = ((row, row.estimate(group.has, "successes")) for row in rows_of(results))
        panels.append(
            Panel(
                title,
                {f"{row.variant}, told {row.condition}": rate for row, rate in found if rate is not None},
            )
        )
    return [panel for panel in panels if panel.estimates]
