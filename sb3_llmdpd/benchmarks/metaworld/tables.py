"""The tables on Meta-World: success and return of every row, differences to the method, shared scenes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import mean
from typing import Any

from sb3_llmdpd.benchmarks.common.variants import BOTH
from sb3_llmdpd.benchmarks.metaworld.results import GridResults, TrainingCell
from sb3_llmdpd.evaluation.conditions import split_number
from sb3_llmdpd.evaluation.phases import PHASES
from sb3_llmdpd.evaluation.report import Table
from sb3_llmdpd.evaluation.rollouts import EARLY_STEPS
from sb3_llmdpd.evaluation.statistics import Estimate, mean_over_seeds, rounded, with_interval

METHOD = "full"
"""Variant that all rows are held against, told both prompts."""

MOST_COLUMNS = 15
"""Most single unseen tasks that are columns; more of them are the rows of a table of their own."""


@dataclass(frozen=True)
class Row:
    """A line of the tables: what one variant did under one condition.

    :param variant: name of the variant.
    :param condition: name of the condition.
    :param cells: cells of all its trainings.
    """

    variant: str
    condition: str
    cells: tuple[TrainingCell, ...]

    @property
    def n_seeds(self) -> int:
        """Number of trainings."""
        return len({cell.seed for cell in self.cells})

    def estimate(self, of: Callable[[TrainingCell], bool], values: str) -> Estimate | None:
        """Take the mean over seeds, and in each over tasks.

        :param of: tells whether a cell counts.
        :param values: ``"successes"``, ``"soon"`` or ``"returns"``.
        :return: with its interval; None where nothing was played.
        """
        return _over_seeds((cell.seed, getattr(cell, values)) for cell in self.cells if of(cell))

    def above(self, other: "Row", of: Callable[[TrainingCell], bool], values: str) -> Estimate | None:
        """Take the differences to another row, scene by scene: all rows of a seed play the same scenes.

        :param other: another row.
        :param of: tells whether a cell counts.
        :param values: ``"successes"`` or ``"returns"``.
        :return: mean of the differences with its interval; None where the two played nothing in common.
        """
        others = {(cell.seed, cell.task): getattr(cell, values) for cell in other.cells if of(cell)}
        differences = []
        for cell in filter(of, self.cells):
            theirs = others.get((cell.seed, cell.task))
            if theirs is not None:
                # A control plays fewer episodes: the first ones, which are of the same scenes.
                pairs = zip(getattr(cell, values), theirs, strict=False)
                differences.append((cell.seed, [own - their for own, their in pairs]))
        return _over_seeds(differences)


def _over_seeds(of_tasks: Iterable[tuple[int, Sequence[float]]]) -> Estimate | None:
    """Take the mean over seeds, and in each over tasks, of a task's values with a seed; None without any."""
    by_seed: dict[int, list[Sequence[float]]] = {}
    for seed, values in of_tasks:
        by_seed.setdefault(seed, []).append(values)
    return mean_over_seeds(list(by_seed.values())) if by_seed else None


def rows_of(results: GridResults) -> list[Row]:
    """Group the cells into the rows of the tables; the scenes that two tasks share are left out.

    :return: variants in their order, conditions in the order in which they were played.
    """
    found: dict[tuple[str, str], list[TrainingCell]] = {}
    for cell in results.cells:
        if cell.told is None:
            found.setdefault((cell.variant, cell.condition), []).append(cell)
    order = list(results.variants)
    return [
        Row(*key, tuple(cells))
        for key, cells in sorted(found.items(), key=lambda item: order.index(item[0][0]))
    ]


def method_of(results: GridResults) -> Row | None:
    """Find the row of `METHOD` told both prompts; None where the benchmark does without it."""
    return next((row for row in rows_of(results) if (row.variant, row.condition) == (METHOD, BOTH)), None)


def tables(results: GridResults) -> list[Table]:
    """Make the tables of the report.

    :return: success and returns of every row on seen tasks, on unseen ones and on each of these, what the
        method has above the other rows in both, unseen tasks one by one where they are many, success and
        normalised return by the number of examples, shared scenes,
        how far the method and the experts came on unseen tasks, and what the variants are; those of them that
        have rows. No returns where episodes end at success.
    """
    variants = [(name, str(variant["sentence"])) for name, variant in results.variants.items()]
    # Where episodes end at success, the shortest ones, which are the best, have the least return.
    has_returns = not results.settings["stop_at_success"]
    made = [
        *_tables_of("Success at any step", results, "successes", digits=2),
        *(_tables_of("Return", results, "returns", digits=0) if has_returns else []),
        _task_table(results),
        *_number_tables(results, has_returns),
        *_told_tables(results),
        _phase_table(results),
        Table("The rows", ("row", "what it is"), tuple(variants)),
    ]
    return [table for table in made if table.rows]


@dataclass(frozen=True)
class Group:
    """A column of a table.

    :param title: title above it.
    :param tasks: tasks that it is about.
    :param seen: whether they were trained on.
    """

    title: str
    tasks: frozenset[str]
    seen: bool

    def has(self, cell: TrainingCell) -> bool:
        """Tell whether a cell is in it."""
        return cell.seen is self.seen and cell.task in self.tasks


def groups(results: GridResults) -> list[Group]:
    """Choose the columns of the tables of rows.

    :return: means over seen and over unseen tasks, then each unseen task unless they exceed `MOST_COLUMNS`.
    """
    single = _single_tasks(results)
    return [*_means(results), *(single if len(single) <= MOST_COLUMNS else [])]


def _means(results: GridResults) -> list[Group]:
    goal_known = results.settings["goal_known_tasks"]
    seen = frozenset(cell.task for cell in results.cells if cell.seen and cell.told is None)
    unseen = frozenset(results.settings["unseen_tasks"]) - frozenset(goal_known)
    return [Group(f"seen ({len(seen)})", seen, True), Group(f"unseen ({len(unseen)})", unseen, False)]


def _single_tasks(results: GridResults) -> list[Group]:
    goal_known = results.settings["goal_known_tasks"]
    return [
        Group(f"{task}{'*' if task in goal_known else ''}", frozenset([task]), False)
        for task in results.settings["unseen_tasks"]
    ]


def _tables_of(title: str, results: GridResults, values: str, digits: int) -> list[Table]:
    columns = groups(results)
    rows = []
    for row in rows_of(results):
        estimates = (row.estimate(group.has, values) for group in columns)
        shown = (with_interval(estimate, digits) for estimate in estimates)
        rows.append((row.variant, row.condition, str(row.n_seeds), *shown))
    header = ("row", "told", "seeds", *(group.title for group in columns))
    absolute = Table(f"{title} [95% interval]", header, tuple(rows))
    return [absolute, _above_table(results, values, digits)]


def _above_table(results: GridResults, values: str, digits: int) -> Table:
    """Show what the method with both prompts has above every other row; empty where there is no method."""
    method, means, rows = method_of(results), _means(results), []
    if method is None:
        return Table("", (), ())
    for row in rows_of(results):
        differences = [method.above(row, group.has, values) for group in means] if row != method else []
        if any(differences):
            shown = (with_interval(difference, digits) for difference in differences)
            rows.append((row.variant, row.condition, *shown))
    title = f"{method.variant} told {method.condition}: {values} above those of each row, scene by scene"
    return Table(f"{title} [95% interval]", ("row", "told", *(group.title for group in means)), tuple(rows))


def _task_table(results: GridResults) -> Table:
    """Show success on each unseen task where they are too many for columns; otherwise empty."""
    single, rows = _single_tasks(results), rows_of(results)
    lines = []
    for task in single if len(single) > MOST_COLUMNS else []:
        rates = (row.estimate(task.has, "successes") for row in rows)
        lines.append((task.title, *("" if rate is None else rounded(rate.value) for rate in rates)))
    header = ("unseen task", *(f"{row.variant}, {row.condition}" for row in rows))
    return Table("Success on each unseen task", header, tuple(lines))


@dataclass(frozen=True)
class Curve:
    """A line of the tables by the number of examples: one variant under one condition.

    :param variant: name of the variant.
    :param condition: name of the condition with one example.
    :param rows: row of each number of examples.
    """

    variant: str
    condition: str
    rows: Mapping[int, Row]


def curves(results: GridResults) -> list[Curve]:
    """Find the variants and conditions that were played with several numbers of examples."""
    found: dict[tuple[str, str], dict[int, Row]] = {}
    for row in rows_of(results):
        condition, n_examples = split_number(row.condition)
        found.setdefault((row.variant, condition), {})[n_examples] = row
    return [Curve(*key, dict(sorted(rows.items()))) for key, rows in found.items() if len(rows) > 1]


def normalised(results: GridResults, row: Row, values: str) -> Row | None:
    """Put returns in units in which random actions have 0 and the scripted expert 1, task by task.

    :param results: results with the rows ``random`` and ``expert``.
    :param row: row to normalise.
    :param values: ``"returns"`` or ``"early_returns"``.
    :return: the same row with such values; None where it, or one of the two, has no such returns, and where
        the two are equal.
    """
    ends = [_mean_by_task(results, variant, values) for variant in ("random", "expert")]
    floor, ceiling = ends
    cells = []
    for cell in row.cells:
        returns, low, high = getattr(cell, values), floor.get(cell.task), ceiling.get(cell.task)
        if returns is None or low is None or high is None or low == high:
            return None
        shares = tuple((each - low) / (high - low) for each in returns)
        changed: dict[str, Any] = {values: shares}
        cells.append(replace(cell, **changed))
    return replace(row, cells=tuple(cells))


def _mean_by_task(results: GridResults, variant: str, values: str) -> dict[str, float]:
    by_task: dict[str, list[float]] = {}
    for cell in results.cells:
        if cell.variant == variant and getattr(cell, values) is not None:
            by_task.setdefault(cell.task, []).extend(getattr(cell, values))
    return {task: mean(returns) for task, returns in by_task.items()}


def _number_tables(results: GridResults, has_returns: bool) -> list[Table]:
    """Show success, and normalised returns, by the number of examples; empty where there was always one."""
    found = curves(results)
    numbers = sorted({n for curve in found for n in curve.rows})
    titles = {"successes": "Success by the number of examples"}
    if has_returns:
        steps = results.settings["max_episode_steps"]
        titles["returns"] = f"Return over {steps} steps, 0 random and 1 the expert, by the number of examples"
        titles["early_returns"] = titles["returns"].replace(str(steps), str(EARLY_STEPS), 1)
    made = []
    for group, (values, title) in product(_means(results), titles.items()):
        lines = []
        for curve in found:
            shown = [curve.rows.get(n) for n in numbers]
            if values != "successes":
                shown = [None if row is None else normalised(results, row, values) for row in shown]
            estimates = [None if row is None else row.estimate(group.has, values) for row in shown]
            if any(estimates):
                lines.append((curve.variant, curve.condition, *map(with_interval, estimates)))
        header = ("row", "told", *map(str, numbers))
        made.append(Table(f"{title}, {group.title} [95% interval]", header, tuple(lines)))
    return made


def _told_tables(results: GridResults) -> list[Table]:
    """Show how often the scene's task is done when told its own sentence, and when told the other task's."""
    means: list[tuple[str, ...]] = []
    single: list[tuple[str, ...]] = []
    for variant in results.variants:
        cells = tuple(cell for cell in results.cells if cell.variant == variant and cell.told is not None)
        if not cells:
            continue
        row = Row(variant, "", cells)
        counted = (
            row.estimate(lambda cell: cell.told == cell.task, "successes"),
            row.estimate(lambda cell: cell.told != cell.task, "successes"),
            row.estimate(lambda cell: cell.told != cell.task, "soon"),
        )
        means.append((variant, str(row.n_seeds), *map(with_interval, counted)))
        pairs: dict[tuple[str, str], list[TrainingCell]] = {}
        for cell in cells:
            pairs.setdefault((cell.task, str(cell.told)), []).append(cell)
        for pair, of_pair in pairs.items():
            told = Row(variant, "", tuple(of_pair))
            rates = (told.estimate(lambda cell: True, values) for values in ("successes", "soon"))
            single.append((variant, *pair, *map(with_interval, rates)))
    title = "Scenes that two tasks share [95% interval]"
    header = ("row", "seeds", "does what it is told", "does the other", "does the other soon")
    header_of_pairs = ("row", "scenes of", "told the sentence of", "success", "soon")
    return [Table(title, header, tuple(means)), Table(f"{title}, one by one", header_of_pairs, tuple(single))]


def _phase_table(results: GridResults) -> Table:
    """Show how far the method and the scripted experts came: an expert's row says which phases a task has."""
    method = method_of(results)
    shown = [row for row in rows_of(results) if row == method or row.variant == "expert"]
    rows = []
    for task, row in product(results.settings["unseen_tasks"], shown):
        cells = (cell for cell in row.cells if cell.task == task and not cell.seen)
        passed = [cell.phases for cell in cells if cell.phases is not None]
        if passed:
            means = (rounded(mean(rates)) for rates in zip(*passed, strict=True))
            rows.append((task, row.variant, *means))
    return Table("Share of the episodes that came so far", ("unseen task", "row", *PHASES), tuple(rows))
