"""Finds numbers in docs/results by the names of their rows and columns, for the marks of `make_tables`."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from sb3_llmdpd.benchmarks.common.variants import BOTH, EXAMPLE, TEXT
from sb3_llmdpd.benchmarks.metaworld.report import facts
from sb3_llmdpd.benchmarks.metaworld.results import read_grid
from sb3_llmdpd.benchmarks.metaworld.tables import tables
from sb3_llmdpd.evaluation import report as evaluation
from sb3_llmdpd.evaluation.conditions import split_number
from sb3_llmdpd.evaluation.report import Table
from sb3_llmdpd.evaluation.results import read_results

RESULTS = Path(__file__).parents[1] / "docs" / "results"

TOLD = {"both": BOTH, "sentence": TEXT, "example": EXAMPLE}
"""Words of the docs for what a policy is told; the other conditions keep the names that results have.

A number of examples stands behind them, as in `example:5`."""
FORMATS = {
    "success": ".2f",
    "return": ".0f",
    "error": ".4f",
    "preferred": ".2f",
    "rank": ".2f",
    "value": ".0f",
    "earned": ".0f",
    "drift": ".0%",
    "gap": ".0%",
    "failures": ".1%",
    "episodes": ".1f",
    "distance": ".2f",
}
"""Quantities in tuning.json, and how they are written."""

STUDY = "validation"
"""Name of the results of `tools.validation_study`."""

ESTIMATE = re.compile(r"(-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]")


class MissingError(ValueError):
    """The results have no such row or column."""


def estimate(shown: str) -> tuple[float, float, float]:
    """Value, lower end and upper end of an estimate as a table shows it."""
    found = ESTIMATE.fullmatch(shown)
    if found is None:
        raise ValueError(f"expected 'value [low, high]', got {shown!r}")
    value, low, high = map(float, found.groups())
    return value, low, high


class Grid:
    """Results of `sb3-llmdpd benchmark metaworld`.

    A row is a variant and what it was told (`full both`), or a variant alone for scenes that two tasks share.
    A column is `seen`, `unseen`, a task, or a column of those scenes' table. Before it, `return` asks for
    returns, `mean` for the number without its interval, `trainings` for the success of each training, and
    `share` for the return between that of random actions (0) and of the expert (1), as in `share 100 unseen`
    over the first 100 steps. A number of examples stands behind what was told, or behind the column:
    `unseen:5` of `full both` is `unseen` of `full both:5`. A column names what was told itself by `told`, as
    `told paraphrase seen` does; the row is then a variant alone.
    """

    def __init__(self, path: Path) -> None:
        self.results = read_grid(path)

    @cached_property
    def tables(self) -> list[Table]:
        """All tables of its report; each interval is a bootstrap, which takes seconds in all."""
        return tables(self.results)

    @property
    def rows(self) -> list[str]:
        """Every variant with everything that it was told."""
        return [" ".join(cells[:2]) for cells in self.tables[0].rows]

    def number(self, row: str, column: str) -> str:
        """An estimate with its interval."""
        if column.startswith("told "):
            _, told, group = column.split()
            return self.number(f"{row} {told}", group)
        column, n_examples = split_number(column)
        if column.startswith("share "):
            _, steps, group = column.split()
            title = (
                f"Return over {steps} steps, 0 random and 1 the expert, by the number of examples, {group} ("
            )
            return _entry(self.tables, title, row, str(n_examples))
        if n_examples > 1:
            return self.number(f"{row}:{n_examples}", column)
        how, _, rest = column.partition(" ")
        if how == "mean":
            return self.number(row, rest).partition(" ")[0]
        if how == "trainings":
            return self._of_each_training(row, rest)
        if how == "return":
            return _entry(self.tables, "Return [", row, rest)
        is_told = " " in row
        return _entry(
            self.tables, "Success at any step [" if is_told else "Scenes that two tasks share", row, column
        )

    def above(self, row: str, column: str, other: str) -> str:
        """Difference of two rows, scene by scene; one of them is `full both`."""
        if row != "full both":
            digits = ".0f" if column.startswith("return ") else ".2f"
            value, low, high = (0.0 - end for end in estimate(self.above(other, column, row)))
            return f"{value:{digits}} [{high:{digits}}, {low:{digits}}]"
        values = "returns" if column.startswith("return ") else "successes"
        return _entry(self.tables, f"full told {BOTH}: {values} above", other, column.removeprefix("return "))

    def report(self) -> str:
        """Facts for the reader of the tables, and the tables, in Markdown."""
        shown = [table.markdown() for table in self.tables if table.title != "The rows"]
        known = [textwrap.fill(f"- {fact}", 100, subsequent_indent="  ") for fact in facts(self.results)]
        return "\n".join([*known, "", *shown])

    def _of_each_training(self, row: str, column: str) -> str:
        played = {
            (cell.seed, cell.task): mean(cell.successes)
            for cell in self.results.cells
            if [cell.variant, cell.condition] == _words(row)
            and column in (cell.task, "seen" if cell.seen else "unseen")
        }
        seeds = sorted({seed for seed, _ in played})
        rates = [mean(rate for (own, _), rate in played.items() if own == seed) for seed in seeds]
        return ", ".join(f"{rate:.2f}" for rate in rates)


class Evaluation:
    """Results of one evaluation.

    A row is a group of tasks and a prompt (`unseen both`), or a scene and the task that was told in it.
    A column is one of the report.
    """

    rows: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self._tables = evaluation.tables(read_results(path)[0])

    def number(self, row: str, column: str) -> str:
        """A cell of its report."""
        return _entry(self._tables, "", row, column)


class Tuning:
    """A part of tuning.json. A row is a setting; a column is words that narrow what is averaged.

    The words are a group (`seen`), what was told (by default `both`), a quantity (by default `success`), a
    task, a third (`third-0`) or a seed (`seed-0`).

    :param trainings: each with its settings and with numbers by quantity, group, task, and what was told.
    """

    def __init__(self, trainings: list[dict[str, Any]]) -> None:
        self.trainings = [(_setting(training), str(training.get("split", ""))) for training in trainings]
        self._numbers = [
            (_setting(one), words, value) for one in trainings for words, value in _numbers_of(one)
        ]

    @property
    def rows(self) -> list[str]:
        """Every setting once."""
        return list(dict.fromkeys(setting for setting, _ in self.trainings))

    def values(self, row: str, column: str) -> dict[tuple[str, ...], float]:
        """The numbers of a row that the words are true of, by third, seed, group and task."""
        words = {*_words(column), quantity_of(column)}
        if not any("told" in _meaning(word) for word in words):
            words.add(BOTH)
        found = {
            tuple(of_number.get(kind, "") for kind in ("split", "seed", "group", "task")): value
            for setting, of_number, value in self._numbers
            if setting == row and words <= set(of_number.values())
        }
        if not found:
            raise MissingError(f"{row!r} has no {column!r}; there are the rows {self.rows}")
        return found

    def number(self, row: str, column: str) -> str:
        """The mean of the numbers; or how many `trainings` or `thirds` there are."""
        thirds = [third for setting, third in self.trainings if setting == row]
        if column in ("trainings", "thirds"):
            return str(len(thirds if column == "trainings" else set(thirds)))
        return format(mean(self.values(row, column).values()), FORMATS[quantity_of(column)])


class Study:
    """Results of `tools.validation_study`.

    A row is a part of the figures and an entry of it, and a column a number there: `spearman both/value`,
    `spearman both/trainings` (the interval over trainings alone), `verdict all/gain`,
    `success few, 300 steps/both`; and of the choice of a prompt, `prompt advised/all models`.
    `models/n` is how many models were measured.
    """

    rows: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self._figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))

    def number(self, row: str, column: str) -> str:
        """A number, with its interval where it has one."""
        part, _, name = row.partition(" ")
        try:
            if part == "models":
                return str(self._figures["n_models"])
            of_part = self._figures[part]
            numbers = of_part[column] if part == "prompt" else of_part[name]
            if column == "trainings":
                return f"[{numbers['low_over_trainings']:.2f}, {numbers['high_over_trainings']:.2f}]"
            return _with_its_interval(numbers, name if part == "prompt" else column)
        except KeyError as error:
            raise MissingError(f"the study has no {row!r} with {column!r}") from error


def _with_its_interval(numbers: Mapping[str, float], key: str) -> str:
    value, head = numbers[key], "" if key == "value" else f"{key}_"
    if isinstance(value, int):
        return str(value)
    low, high = numbers.get(f"{head}low"), numbers.get(f"{head}high")
    return f"{value:.2f}" if low is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def paired(ours: Mapping[Any, float], theirs: Mapping[Any, float], digits: str) -> str:
    """Mean of the differences and, in parentheses, its standard error.

    :raises ValueError: when something was measured in the first alone.
    """
    if alone := sorted(ours.keys() - theirs.keys()):
        raise ValueError(f"a difference needs both numbers, and the second has none of {alone}")
    differences = [value - theirs[key] for key, value in ours.items()]
    return f"{mean(differences):{digits}} ({stdev(differences) / len(differences) ** 0.5:{digits}})"


def quantity_of(column: str) -> str:
    """Key of `FORMATS` that a column is about."""
    return next((word for word in column.split() if word in FORMATS), "success")


@cache
def source(file: str) -> Grid | Evaluation | Tuning | Study:
    """The results of a folder of docs/results, of `tuning.PART`, or of `validation`.

    :raises FileNotFoundError: when there are none of this name.
    """
    name, _, part = file.partition(".")
    if part:
        return Tuning(_trainings(json.loads((RESULTS / f"{name}.json").read_text())[part]))
    if file == STUDY:
        return Study(RESULTS / f"{STUDY}.json")
    path = RESULTS / file / "results.json"
    return Evaluation(path) if file == "demo" else Grid(path)


def _words(names: str) -> list[str]:
    bases = [(name, *split_number(name)) for name in names.split()]
    return [name.replace(base, TOLD.get(base, base), 1) for name, base, _ in bases]


def _entry(made: list[Table], title: str, row: str, column: str) -> str:
    """A cell of a report, whose rows and columns are named with or without a count in parentheses."""
    words = _words(row)
    for table in made:
        if table.title.startswith(title):
            names = [_without_count(name) for name in table.header]
            found = [cells for cells in table.rows if [*map(_without_count, cells[: len(words)])] == words]
            if found and column in names:
                return found[0][names.index(column)]
    raise MissingError(f"no table {title!r} has a row {row!r} and a column {column!r}")


def _without_count(name: str) -> str:
    return re.sub(r" \(\d+\)$", "", name)


def _setting(training: Mapping[str, Any]) -> str:
    """Settings that tell a training from others: words as they are, numbers with their names."""
    told_apart = {
        name: entry
        for name, entry in training.items()
        if not isinstance(entry, dict) and name not in ("split", "seed", "told", *FORMATS)
    }
    return ", ".join(x if isinstance(x, str) else f"{name}={x:g}" for name, x in told_apart.items())


def _numbers_of(training: Mapping[str, Any]) -> Iterator[tuple[dict[str, str], float]]:
    """Every number of a training, with the words that say what it is."""
    start = {
        "quantity": "success",
        "told": training.get("told", BOTH),
        "split": training.get("split", ""),
        "seed": f"seed-{training.get('seed', 0)}",
    }

    def walk(name: str, node: Any, words: dict[str, str]) -> Iterator[tuple[dict[str, str], float]]:
        words = {**words, **_meaning(name)}
        if not isinstance(node, dict):
            yield words, float(node)
            return
        for inner, entry in node.items():
            yield from walk(inner, entry, words)

    for name, entry in training.items():
        if isinstance(entry, dict) or name in FORMATS:
            yield from walk(name, entry, start)


def _meaning(name: str) -> dict[str, str]:
    """Meaning of a key of tuning.json."""
    if name == "seen_sentence":
        return {"group": "seen", "told": TEXT}
    if name in ("seen", "unseen"):
        return {"group": name}
    if name in (*FORMATS, "errors"):
        return {"quantity": name.removesuffix("s") if name == "errors" else name}
    is_told = split_number(name)[0] in (*TOLD.values(), "none", "copy", "paraphrase", "wrong-trajectory")
    return {"told" if is_told else "task": name}


def _trainings(part: Any) -> list[dict[str, Any]]:
    """The trainings of a part; what weights draw and how near the hand came are no lists in the file."""
    if isinstance(part, list):
        return part
    if "nearest" not in part:
        return [
            {"data": data, "weights": weights, **drawn}
            for data, by_weights in part.items()
            for weights, drawn in by_weights.items()
        ]
    at_the_end = [sum(entry**2 for entry in offset) ** 0.5 for offset in part["end"]]
    return [
        {
            "when": when,
            "distance": {f"episode-{number}": metres for number, metres in enumerate(distances, 1)},
        }
        for when, distances in (("nearest", part["nearest"]), ("after 150 steps", at_the_end))
    ]
