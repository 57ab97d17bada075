"""Leaves an evaluation in a folder: results in JSON, tables in Markdown, and a chart."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sb3_llmdpd.benchmarks.common.report import Report
from sb3_llmdpd.evaluation.charts import draw_or_say_why, success_chart
from sb3_llmdpd.evaluation.conditions import Cell
from sb3_llmdpd.evaluation.report import says_success, tables
from sb3_llmdpd.evaluation.results import RESULTS, write_results
from sb3_llmdpd.evaluation.tasks import CellResult, evaluate_tasks
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD


def evaluate_into(
    folder: Path, model: LLMDPD | Path, cells: Sequence[Cell], settings: Mapping[str, Any], **arguments: Any
) -> list[CellResult]:
    """Evaluate, and write ``results.json``, ``results.md`` and the chart, see `evaluation_report`.

    :param folder: folder of the files.
    :param model: a model, or a model file.
    :param cells: cells to play.
    :param settings: settings that are written beside the results.
    :param arguments: further arguments of `evaluate_tasks`.
    """
    results = evaluate_tasks(model, cells, **arguments)
    write_results(folder / RESULTS, results, settings)
    file = model.last_saved if isinstance(model, LLMDPD) else model
    evaluation_report(results, "" if file is None else str(file)).write(folder)
    return results


def evaluation_report(results: Sequence[CellResult], model: str = "") -> Report:
    """Make the report of an evaluation, ``results.md`` and ``success.png``, or ``returns.png`` where nobody
    says success. The chart names the model.
    """
    chart = "success.png" if says_success(results) else "returns.png"
    draw = partial(draw_or_say_why, partial(success_chart, model=model), results)
    return Report(tables(results), chart, draw, name="results.md")
