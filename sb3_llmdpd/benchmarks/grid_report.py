"""The report of a grid: what was measured and how, its tables in Markdown, and the same as a page with charts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from sb3_llmdpd.benchmarks.grid_page import Panel, page
from sb3_llmdpd.benchmarks.grid_results import GridResults, PlayedCell
from sb3_llmdpd.benchmarks.variants import BOTH
from sb3_llmdpd.evaluation.phases import PHASES
from sb3_llmdpd.evaluation.statistics import Estimate, mean_over_seeds
from sb3_llmdpd.files import whole_file
from sb3_llmdpd.report import Table

REPORT, PAGE = "report.md", "report.html"
METHOD = ("full", BOTH)
"""Variant and condition of the row that all others are held against."""

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


@dataclass(frozen=True)
class Row:
    """What one variant did under one condition.

    :param variant: its name.
    :param condition: name of what it was told.
    :param cells: what it played.
    """

    variant: str
    condition: str
    cells: tuple[PlayedCell, ...]

    @property
    def n_seeds(self) -> int:
        """How many trainings there are."""
        return len({cell.seed for cell in self.cells})

    def estimate(self, of: Callable[[PlayedCell], bool], values: str) -> Estimate | None:
        """Mean over seeds, and in each over tasks.

        :param of: which cells count.
        :param values: ``"successes"`` or ``"returns"``.
        :return: with its interval; None where nothing was played.
        """
        return _over_seeds((cell.seed, getattr(cell, values)) for cell in self.cells if of(cell))

    def above(self, other: "Row", of: Callable[[PlayedCell], bool], values: str) -> Estimate | None:
        """What this row has above another, scene by scene: rows of a seed play the same ones.

        :param other: another row.
        :param of: which cells count.
        :param values: ``"successes"`` or ``"returns"``.
        :return: mean of the differences with its interval; None where the two played nothing in common.
        """
        theirs = {(cell.seed, cell.task): getattr(cell, values) for cell in other.cells if of(cell)}
        return _over_seeds(
            (cell.seed, [own - their for own, their in zip(getattr(cell, values), theirs[key], strict=False)])
            for cell in self.cells
            for key in [(cell.seed, cell.task)]
            if of(cell) and key in theirs  # of which a control plays fewer episodes
        )


def _over_seeds(of_tasks: Iterable[tuple[int, Sequence[float]]]) -> Estimate | None:
    """Mean over seeds, and in each over tasks, of a task's values with a seed; None without any."""
    by_seed: dict[int, list[Sequence[float]]] = {}
    for seed, values in of_tasks:
        by_seed.setdefault(seed, []).append(values)
    return mean_over_seeds(list(by_seed.values())) if by_seed else None


def rows_of(results: GridResults) -> list[Row]:
    """The rows of the tables, but for the scenes that two tasks share.

    :param results: of a grid.
    :return: variants in their order, conditions in the order in which they were played.
    """
    found: dict[tuple[str, str], list[PlayedCell]] = {}
    for cell in results.cells:
        if cell.told is None:
            found.setdefault((cell.variant, cell.condition), []).append(cell)
    order = list(results.variants)
    return [Row(*key, tuple(cells)) for key, cells in sorted(found.items(), key=lambda item: order.index(item[0][0]))]


def tables(results: GridResults) -> list[Table]:
    """Success and return of every row: on seen tasks, on unseen ones, and on each of these; and scenes that two tasks share.

    :param results: of a grid.
    :return: success, returns, what the method has above other rows in both, shared scenes, how far the method and the experts
        came on unseen tasks, and what the rows are; those of them that have rows. No returns where episodes end at success.
    """
    variants = [(name, str(variant["sentence"])) for name, variant in results.variants.items()]
    # Where episodes end at success, the shortest ones, which are the best, have the least return.
    has_returns = not results.settings["stop_at_success"]
    made = [
        *_tables_of("Success at any step", results, "successes", digits=2),
        *(_tables_of("Return", results, "returns", digits=0) if has_returns else []),
        *_told_tables(results),
        _phase_table(results),
        Table("The rows", ("row", "what it is"), tuple(variants)),
    ]
    return [table for table in made if table.rows]


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
    fewer_controls = " (under the controls a fifth as many)" if settings["goal"] == "visible" else ""
    ends = "; it ends there, so that returns say little, and are left out" if settings["stop_at_success"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items() if version is not None)
    return [
        f"Split {settings['split']}: trained on {len(settings['train_tasks'])} tasks; unseen are"
        f" {', '.join(settings['unseen_tasks'])}.",
        f"The goal is {settings['goal']} in the observations. Data: {settings['data']},"
        f" {settings['n_episodes']} episodes a task; {settings['n_steps']:,} gradient steps.{goal_known}",
        f"Seeds: {most}{f' (but {fewer})' if fewer else ''}. Each plays {settings['n_unseen_episodes']} episodes of an unseen"
        f" task and {settings['n_seen_episodes']} of a seen one{fewer_controls}, of"
        f" {settings['max_episode_steps']} steps at most. An episode"
        f" counts as a success when any of its steps is one{ends}.",
        "The intervals hold 95% of a bootstrap over seeds and, within each, over the episodes of each task; where a row has a"
        " single seed, over its episodes only. Where all episodes agree, a bootstrap knows of no doubt.",
        f"Hardware: {results.hardware['cores']} cores, {results.hardware['machine']}. Versions: {versions}.",
    ]


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
    seen, unseen, *_ = _groups(results)
    panels = []
    for title, group in (("Unseen tasks", unseen), ("Seen tasks", seen)):
        found = ((row, row.estimate(group.has, "successes")) for row in rows_of(results))
        panels.append(Panel(title, {f"{row.variant}, told {row.condition}": rate for row, rate in found if rate is not None}))
    return [panel for panel in panels if panel.estimates]


@dataclass(frozen=True)
class _Group:
    """A column of a table.

    :param title: stands above it.
    :param tasks: that it is about.
    :param seen: whether they were trained on.
    """

    title: str
    tasks: frozenset[str]
    seen: bool

    def has(self, cell: PlayedCell) -> bool:
        return cell.seen is self.seen and cell.task in self.tasks


def _groups(results: GridResults) -> list[_Group]:
    """The means first, and then each unseen task."""
    goal_known = results.settings["goal_known_tasks"]
    seen = frozenset(cell.task for cell in results.cells if cell.seen and cell.told is None)
    unseen = frozenset(results.settings["unseen_tasks"]) - frozenset(goal_known)
    return [
        _Group(f"seen ({len(seen)})", seen, True),
        _Group(f"unseen ({len(unseen)})", unseen, False),
        *(
            _Group(f"{task}{'*' if task in goal_known else ''}", frozenset([task]), False)
            for task in results.settings["unseen_tasks"]
        ),
    ]


def _table(title: str, results: GridResults, values: str, digits: int) -> Table:
    groups = _groups(results)
    rows = tuple(
        (row.variant, row.condition, str(row.n_seeds), *(_shown(row.estimate(group.has, values), digits) for group in groups))
        for row in rows_of(results)
    )
    return Table(title, ("row", "told", "seeds", *(group.title for group in groups)), rows)


def _tables_of(title: str, results: GridResults, values: str, digits: int) -> list[Table]:
    return [_table(f"{title} [95% interval]", results, values, digits), _above_table(results, values, digits)]


def _above_table(results: GridResults, values: str, digits: int) -> Table:
    """What the method with both prompts has above every other row."""
    means = _groups(results)[:2]
    rows = rows_of(results)
    method = next((row for row in rows if (row.variant, row.condition) == METHOD), None)
    others = [] if method is None else [(row, [method.above(row, group.has, values) for group in means]) for row in rows]
    return Table(
        f"{' told '.join(METHOD)}: {values} above those of each row, scene by scene [95% interval]",
        ("row", "told", *(group.title for group in means)),
        tuple(
            (row.variant, row.condition, *(_shown(difference, digits) for difference in differences))
            for row, differences in others
            if row is not method and any(differences)
        ),
    )


def _told_tables(results: GridResults) -> list[Table]:
    """Whether the scene's task is done when its sentence is told, and when that of the other task is."""
    means, single = [], []
    for variant in results.variants:
        row = Row(variant, "", tuple(cell for cell in results.cells if cell.variant == variant and cell.told is not None))
        if not row.cells:
            continue
        own, other = (_shown(row.estimate(of, "successes"), 2) for of in (_is_told_its_own, _is_told_the_other))
        means.append((variant, str(row.n_seeds), own, other))
        for task, told in dict.fromkeys((cell.task, cell.told) for cell in row.cells):
            pair = replace(row, cells=tuple(cell for cell in row.cells if (cell.task, cell.told) == (task, told)))
            single.append((variant, task, str(told), _shown(pair.estimate(lambda cell: True, "successes"), 2)))
    title = "Scenes that two tasks share [95% interval]"
    return [
        Table(title, ("row", "seeds", "does what it is told", "does the other"), tuple(means)),
        Table(f"{title}, one by one", ("row", "scenes of", "told the sentence of", "success"), tuple(single)),
    ]


def _phase_table(results: GridResults) -> Table:
    """How far the method and the scripted experts came on each unseen task: an expert's row says which phases a task has."""
    rows = []
    for task in results.settings["unseen_tasks"]:
        for row in rows_of(results):
            passed = [cell.phases for cell in row.cells if cell.task == task and not cell.seen and cell.phases is not None]
            if passed and ((row.variant, row.condition) == METHOD or row.variant == "expert"):
                rows.append((task, row.variant, *(f"{mean(rates):.2f}" for rates in zip(*passed, strict=True))))
    return Table("Share of the episodes that came so far", ("unseen task", "row", *PHASES), tuple(rows))


def _is_told_its_own(cell: PlayedCell) -> bool:
    return cell.told == cell.task


def _is_told_the_other(cell: PlayedCell) -> bool:
    return cell.told != cell.task


def _shown(estimate: Estimate | None, digits: int) -> str:
    if estimate is None:
        return ""
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
