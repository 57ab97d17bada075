"""The tables on Meta-World: success and return of every row, differences to the method, shared scenes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import mean

from sb3_llmdpd.benchmarks.common.variants import BOTH
from sb3_llmdpd.benchmarks.metaworld.results import GridResults, TrainingCell
from sb3_llmdpd.evaluation.phases import PHASES
from sb3_llmdpd.evaluation.report import Table
from sb3_llmdpd.evaluation.statistics import Estimate, mean_over_seeds, with_interval

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
        method has above the other rows in both, unseen tasks one by one where they are many, shared scenes,
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
        lines.append((task.title, *("" if rate is None else f"{rate.value:.2f}" for rate in rates)))
    header = ("unseen task", *(f"{row.variant}, {row.condition}" for row in rows))
    return Table("Success on each unseen task", header, tuple(lines))


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
            means = (f"{mean(rates):.2f}" for rates in zip(*passed, strict=True))
            rows.append((task, row.variant, *means))
    return Table("Share of the episodes that came so far", ("unseen task", "row", *PHASES), tuple(rows))
