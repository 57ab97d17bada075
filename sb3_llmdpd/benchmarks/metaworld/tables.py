"""The tables of a grid: success and return of every row, what the method has above each, and scenes that two tasks share."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from sb3_llmdpd.benchmarks.common.variants import BOTH
from sb3_llmdpd.benchmarks.metaworld.results import GridResults, PlayedCell
from sb3_llmdpd.evaluation.phases import PHASES
from sb3_llmdpd.evaluation.report import Table
from sb3_llmdpd.evaluation.statistics import Estimate, mean_over_seeds

METHOD = "full"
"""The row that all others are held against, told both prompts."""

MOST_COLUMNS = 15
"""Of single unseen tasks; more of them are the rows of a table of their own."""


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
        :param values: ``"successes"``, ``"soon"`` or ``"returns"``.
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
    return [
        Row(*key, tuple(cells))
        for key, cells in sorted(found.items(), key=lambda item: order.index(item[0][0]))
    ]


def method_of(results: GridResults) -> Row | None:
    """The row of `METHOD`.

    :param results: of a grid.
    :return: the row; None where the grid does without it.
    """
    return next((row for row in rows_of(results) if (row.variant, row.condition) == (METHOD, BOTH)), None)


def tables(results: GridResults) -> list[Table]:
    """Success and return of every row: on seen tasks, on unseen ones, and on each of these; and scenes that two tasks share.

    :param results: of a grid.
    :return: success, returns, what the method has above other rows in both, unseen tasks one by one where they are many,
        shared scenes, how far the method and the experts came on unseen tasks, and what the rows are; those of them that have
        rows. No returns where episodes end at success.
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

    :param title: stands above it.
    :param tasks: that it is about.
    :param seen: whether they were trained on.
    """

    title: str
    tasks: frozenset[str]
    seen: bool

    def has(self, cell: PlayedCell) -> bool:
        """Whether a cell is in it."""
        return cell.seen is self.seen and cell.task in self.tasks


def groups(results: GridResults) -> list[Group]:
    """The columns of the tables of rows.

    :param results: of a grid.
    :return: the means over seen tasks and over unseen ones, and then each unseen task where they are no more than
        `MOST_COLUMNS`.
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


def _table(title: str, results: GridResults, values: str, digits: int) -> Table:
    columns = groups(results)
    rows = tuple(
        (
            row.variant,
            row.condition,
            str(row.n_seeds),
            *(_shown(row.estimate(group.has, values), digits) for group in columns),
        )
        for row in rows_of(results)
    )
    return Table(title, ("row", "told", "seeds", *(group.title for group in columns)), rows)


def _tables_of(title: str, results: GridResults, values: str, digits: int) -> list[Table]:
    return [_table(f"{title} [95% interval]", results, values, digits), _above_table(results, values, digits)]


def _above_table(results: GridResults, values: str, digits: int) -> Table:
    """What the method with both prompts has above every other row; empty where there is no method."""
    method = method_of(results)
    if method is None:
        return Table("", (), ())
    means = _means(results)
    others = [
        (row, [method.above(row, group.has, values) for group in means])
        for row in rows_of(results)
        if row != method
    ]
    return Table(
        f"{method.variant} told {method.condition}: {values} above those of each row, scene by scene [95% interval]",
        ("row", "told", *(group.title for group in means)),
        tuple(
            (row.variant, row.condition, *(_shown(difference, digits) for difference in differences))
            for row, differences in others
            if any(differences)
        ),
    )


def _task_table(results: GridResults) -> Table:
    """Success on each unseen task where they are too many for columns; otherwise empty, since `groups` has them."""
    single, rows = _single_tasks(results), rows_of(results)
    lines = []
    for task in single if len(single) > MOST_COLUMNS else []:
        rates = (row.estimate(task.has, "successes") for row in rows)
        lines.append((task.title, *("" if rate is None else f"{rate.value:.2f}" for rate in rates)))
    return Table(
        "Success on each unseen task",
        ("unseen task", *(f"{row.variant}, {row.condition}" for row in rows)),
        tuple(lines),
    )


def _told_tables(results: GridResults) -> list[Table]:
    """Whether the scene's task is done when its sentence is told, and when that of the other task is, at all and soon."""
    means, single = [], []
    for variant in results.variants:
        row = Row(
            variant,
            "",
            tuple(cell for cell in results.cells if cell.variant == variant and cell.told is not None),
        )
        if not row.cells:
            continue
        own, other, soon = (
            _shown(row.estimate(of, values), 2)
            for of, values in (
                (_is_told_its_own, "successes"),
                (_is_told_the_other, "successes"),
                (_is_told_the_other, "soon"),
            )
        )
        means.append((variant, str(row.n_seeds), own, other, soon))
        for task, told in dict.fromkeys((cell.task, cell.told) for cell in row.cells):
            pair = replace(
                row, cells=tuple(cell for cell in row.cells if (cell.task, cell.told) == (task, told))
            )
            rates = (_shown(pair.estimate(lambda cell: True, values), 2) for values in ("successes", "soon"))
            single.append((variant, task, str(told), *rates))
    title = "Scenes that two tasks share [95% interval]"
    return [
        Table(
            title,
            ("row", "seeds", "does what it is told", "does the other", "does the other soon"),
            tuple(means),
        ),
        Table(
            f"{title}, one by one",
            ("row", "scenes of", "told the sentence of", "success", "soon"),
            tuple(single),
        ),
    ]


def _phase_table(results: GridResults) -> Table:
    """How far the method and the scripted experts came on each unseen task: an expert's row says which phases a task has."""
    method = method_of(results)
    shown = [row for row in rows_of(results) if row == method or row.variant == "expert"]
    rows = []
    for task in results.settings["unseen_tasks"]:
        for row in shown:
            passed = [
                cell.phases
                for cell in row.cells
                if cell.task == task and not cell.seen and cell.phases is not None
            ]
            if passed:
                rows.append(
                    (task, row.variant, *(f"{mean(rates):.2f}" for rates in zip(*passed, strict=True)))
                )
    return Table("Share of the episodes that came so far", ("unseen task", "row", *PHASES), tuple(rows))


def _is_told_its_own(cell: PlayedCell) -> bool:
    return cell.told == cell.task


def _is_told_the_other(cell: PlayedCell) -> bool:
    return cell.told != cell.task


def _shown(estimate: Estimate | None, digits: int) -> str:
    if estimate is None:
        return ""
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
