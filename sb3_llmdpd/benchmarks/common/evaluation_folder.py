"""Leaves an evaluation in a folder: results in JSON, tables in Markdown, and a chart."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sb3_llmdpd.benchmarks.common.report import Report
from sb3_llmdpd.checkpoint.values import to_json
from sb3_llmdpd.evaluation.charts import draw_or_say_why, success_chart
from sb3_llmdpd.evaluation.conditions import Cell, Condition
from sb3_llmdpd.evaluation.report import says_success, tables
from sb3_llmdpd.evaluation.results import RESULTS, read_results, write_results, write_unfinished
from sb3_llmdpd.evaluation.tasks import CellResult, evaluate_tasks
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD

UNFINISHED = "unfinished.json"
"""Name of the file that holds the finished cells of an evaluation until it ends."""


def evaluate_into(
    folder: Path,
    model: LLMDPD | Path,
    cells: Sequence[Cell],
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
    **arguments: Any,
) -> list[CellResult]:
    """Evaluate, and write ``results.json``, ``results.md`` and the chart, see `evaluation_report`.

    Until the end, ``unfinished.json`` holds the cells that are finished.

    :param folder: folder of the files.
    :param model: a model, or a model file.
    :param cells: cells to play.
    :param settings: settings that are written beside the results.
    :param resume: keep the cells that a stopped evaluation of the same settings has finished.
    :param arguments: further arguments of `evaluate_tasks`.
    :return: a result for each cell, in their order.
    :raises ValueError: when there is nothing to go on with, or of other settings; and as `evaluate_tasks`.
    """
    path = folder / UNFINISHED
    done = {_key(result): result for result in (_finished(path, settings) if resume else ())}

    def keep(result: CellResult) -> None:
        done[_key(result)] = result
        write_unfinished(path, list(done.values()), settings)

    left = [cell for cell in cells if _key(cell) not in done]
    if left or not cells:
        evaluate_tasks(model, left, on_result=keep, **arguments)
    results = [done[_key(cell)] for cell in cells]
    write_results(folder / RESULTS, results, settings)
    file = model.last_saved if isinstance(model, LLMDPD) else model
    evaluation_report(results, "" if file is None else str(file)).write(folder)
    path.unlink(missing_ok=True)
    return results


def _key(cell: Cell | CellResult) -> tuple[str, Condition]:
    return cell.task, cell.condition


def _finished(path: Path, settings: Mapping[str, Any]) -> list[CellResult]:
    """Read the finished cells of an evaluation that was stopped."""
    if not path.is_file():
        raise ValueError(f"{path.parent} holds no stopped evaluation: begin one, without --resume")
    results, of_before = read_results(path)
    now = json.loads(json.dumps(to_json(settings)))
    if differing := sorted(name for name in {*now, *of_before} if now.get(name) != of_before.get(name)):
        raise ValueError(
            f"the stopped evaluation in {path.parent} has other settings ({', '.join(differing)}): repeat its"
            " command with --resume, or begin anew without"
        )
    return results


def evaluation_report(results: Sequence[CellResult], model: str = "") -> Report:
    """Make the report of an evaluation, ``results.md`` and ``success.png``, or ``returns.png`` where nobody
    says success. The chart names the model.
    """
    chart = "success.png" if says_success(results) else "returns.png"
    draw = partial(draw_or_say_why, partial(success_chart, model=model), results)
    return Report(tables(results), chart, draw, name="results.md")
