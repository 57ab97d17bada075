"""Steps that the command line and the benchmarks share; each leaves its files in one folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.metaworld.collection import collect
from sb3_llmdpd.data.minari import load_minari
from sb3_llmdpd.evaluation.charts import success_chart
from sb3_llmdpd.evaluation.conditions import Cell
from sb3_llmdpd.evaluation.report import tables, write_results
from sb3_llmdpd.evaluation.tasks import CellResult, evaluate_tasks
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD

EXAMPLE_IDS = "metaworld-examples/{task}-v0"
"""Minari ids of the data sets that are shown as examples, and never trained on."""

HIDDEN_GOAL_EXAMPLE_IDS = "metaworld-examples/{task}-hidden-v0"
"""Those of the examples whose observations do not show the goal."""

N_EXAMPLES = 5
"""How many of a task there are where nothing else is asked: the same data set then serves all commands."""

N_EPISODES = 50
"""How many an evaluation plays of a task where nothing else is asked: with the goal hidden, each has an example of its own."""

_EXAMPLE_SEED = 1_000_003
"""Keeps the scenes of examples apart from those of training, whatever seed both were given."""


def example_episodes(
    tasks: Sequence[str],
    n_episodes: int,
    *,
    noise: Sequence[float] = (0.1,),
    goal_visible: bool = True,
    seed: int = 0,
    n_processes: int | None = None,
    root: str | Path | None = None,
    id_format: str = EXAMPLE_IDS,
) -> dict[str, list[Episode]]:
    """Episodes of Meta-World's scripted experts to prompt with, in data sets of their own.

    :param tasks: names of tasks.
    :param n_episodes: a task.
    :param noise: see `collect`; that of the training data makes the examples resemble those of training.
    :param goal_visible: see `collect`.
    :param seed: of the scenes, which are others than those that training data of the same seed have.
    :param n_processes: see `collect`.
    :param root: folder of the data sets.
    :param id_format: see `collect`.
    :return: the episodes by task.
    """
    if not tasks:
        return {}
    ids = collect(
        tasks,
        n_episodes=n_episodes,
        noise=noise,
        goal_visible=goal_visible,
        seed=seed + _EXAMPLE_SEED,
        n_processes=n_processes,
        root=root,
        id_format=id_format,
    )
    examples: dict[str, list[Episode]] = {}
    for episode in load_minari(ids, root=root).episodes:
        examples.setdefault(episode.task, []).append(episode)
    return examples


def evaluate_into(
    folder: Path, model: LLMDPD | Path, cells: Sequence[Cell], settings: Mapping[str, Any], **arguments: Any
) -> list[CellResult]:
    """Evaluate, and write ``results.json``, ``results.md`` and ``success.png``.

    :param folder: where to.
    :param model: a model, or a model file.
    :param cells: what to play.
    :param settings: written beside the results.
    :param arguments: of `evaluate_tasks`.
    :return: the results.
    """
    results = evaluate_tasks(model, cells, **arguments)
    write_results(folder / "results.json", results, settings)
    with whole_file(folder / "results.md") as temporary:
        temporary.write_text("\n".join(table.markdown() for table in tables(results)))
    draw(success_chart, results, folder / "success.png")
    return results


def show_tables(results: Sequence[CellResult]) -> None:
    """Print the tables that end an evaluation.

    :param results: of `evaluate_tasks`.
    """
    for table in tables(results):
        typer.echo(f"\n{table.text()}", nl=False)


def draw(chart: Callable[[Any, Path], None], what: Any, path: Path) -> None:
    """Draw a chart, or say why it is left out.

    :param chart: of `charts`.
    :param what: to draw.
    :param path: of the png.
    """
    try:
        chart(what, path)
    except ImportError as error:
        typer.echo(f"{path.name} is left out: {error}")
