"""The report of D4RL's benchmark: what was measured and how, a table for each data set, and learning curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from sb3_llmdpd.benchmarks.common.runs import draw
from sb3_llmdpd.benchmarks.d4rl.results import D4RLResults, Point
from sb3_llmdpd.benchmarks.d4rl.settings import EPOCH
from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.common.optional_imports import require
from sb3_llmdpd.evaluation.charts import COLOURS
from sb3_llmdpd.evaluation.report import Table
from sb3_llmdpd.evaluation.statistics import Estimate, mean_over_seeds

REPORT, CHART = "report.md", "learning.png"
LAST, BEST = "last", "best"

DIFFERENCES = (
    "The averaged actor acts; the published code averages one for the critic's targets, and acts with the latest weights. It"
    " begins as a copy of the actor, and moves at every step by what the published one moves in a fifth of its update.",
    "One of the candidates is drawn by the softmax of their values, standardised over the candidates; the published code"
    " takes the softmax of the raw values, which are in the hundreds.",
    "Observations are standardised with statistics of the data; the published code takes them as they are.",
    "The learning rate is constant; the published schedule hardly moves within a run.",
    "In the rows with a prompt the critic reads the averaged actor's encoding of it.",
    "Episodes are played in today's Gymnasium and MuJoCo; D4RL's data and the published scores are of version 2 of the"
    " environments.",
)
"""Where the benchmark differs from Diffusion-QL's published code."""

NOT_SHOWN = (
    "The best checkpoint is chosen by the very episodes that it is measured on: its score is too high by what the luck of"
    " single evaluations is worth, and the more evaluations there are, the more. The last checkpoint has no such advantage.",
    "With one task, a prompt says nothing that the data do not: a difference between the rows full and no-prompt is none of"
    " generalisation.",
)
"""What no table of this kind shows."""


def checkpoint(of_seed: Sequence[Point], which: str) -> Point:
    """The evaluation that a training is measured by.

    :param of_seed: all of one training, at least one.
    :param which: `LAST`, or `BEST` for the largest mean return, the first of several: Diffusion-QL's "online" selection.
    :return: that evaluation.
    """
    return max(of_seed, key=lambda point: point.step if which == LAST else point.mean)


def mean_return(points: Sequence[Point]) -> Estimate:
    """Mean return over trainings and their episodes.

    :param points: one evaluation of each training.
    :return: with a bootstrap interval over seeds and, within each, episodes; over its episodes alone where there is one.
    """
    return mean_over_seeds([[point.returns] for point in points])


def d4rl_tables(results: D4RLResults) -> list[Table]:
    """A table for each data set.

    :param results: of the benchmark.
    :return: in the order of the data sets; none for one of which nothing is finished.
    """
    tables = [_table(results, label) for label in results.datasets]
    return [table for table in tables if table.rows]


def d4rl_facts(results: D4RLResults) -> list[str]:
    """What one has to know to read the tables.

    :param results: of the benchmark.
    :return: sentences.
    """
    settings = results.settings
    model = settings["model"]
    versions = ", ".join(
        f"{name} {version}" for name, version in results.versions.items() if version is not None
    )
    hardware = results.hardware
    seeds = sorted({point.seed for point in results.points})
    return [
        *(f"{name}: {sentence}." for name, sentence in results.rows.items()),
        *(_fact_of(results, label) for label in results.datasets),
        "A row that is prompted is told the sentence of the data set, and shown the episode of its largest return.",
        f"{settings['n_steps']:,} gradient steps ({settings['n_steps'] / EPOCH:g} epochs of {EPOCH:,}) of"
        f" {model['batch_size']} transitions, evaluated every {settings['eval_freq']:,} and at the last one, over"
        f" {settings['n_eval_episodes']} episodes that have the same seeds at each evaluation of a training. An action is one"
        f" of {model['n_candidates']} candidates; in the row bc, which has no critic, it is drawn alone.",
        f"Seeds: {', '.join(map(str, seeds)) or 'none yet'}. {LAST}: the model after all steps. {BEST}: of each seed, the"
        " evaluation with the largest mean return, which is how Diffusion-QL selected its published scores.",
        "The intervals hold 95% of a bootstrap over seeds and, within each, episodes; where a row has a single seed, over its"
        " episodes only, which says nothing of other trainings.",
        "D4RL's score is 0 for its random policy and 100 for its expert; Minari's the same with the returns that the data set"
        " itself has.",
        f"Hardware: {hardware['cores']} cores, {hardware['machine']}, device {hardware['device']}. Versions: {versions}.",
    ]


def write_d4rl_report(out: Path, results: D4RLResults) -> None:
    """Write ``report.md`` and, where matplotlib is there, ``learning.png``.

    :param out: folder.
    :param results: of the benchmark.
    """
    parts = [
        "# D4RL locomotion\n",
        *(f"- {fact}" for fact in d4rl_facts(results)),
        "",
        *(table.markdown() for table in d4rl_tables(results)),
        "Where this differs from Diffusion-QL's published code:\n",
        *(f"- {sentence}" for sentence in DIFFERENCES),
        "",
        "What the numbers do not show:\n",
        *(f"- {sentence}" for sentence in NOT_SHOWN),
    ]
    with whole_file(out / REPORT) as temporary:
        temporary.write_text("\n".join(parts) + "\n")
    if results.points:
        draw(learning_chart, results, out / CHART)


def learning_chart(results: D4RLResults, path: str | Path) -> None:
    """Draw the scores of all evaluations, a panel for each data set: the mean over seeds, and each seed thin behind it.

    :param results: of the benchmark, at least one evaluation.
    :param path: of the png.
    :raises ImportError: without matplotlib.
    """
    labels = [label for label in results.datasets if any(point.dataset == label for point in results.points)]
    figure = require("matplotlib.figure", "plots").Figure(
        figsize=(7.0, 3.2 * len(labels)), layout="constrained"
    )
    for number, label in enumerate(labels):
        axes = figure.add_subplot(len(labels), 1, number + 1)
        _draw_curves(axes, {row: results.of(label, row) for row in results.rows}, results, label)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _fact_of(results: D4RLResults, label: str) -> str:
    info = results.datasets[label]
    settings = ", ".join(f"{name} {value:g}" for name, value in info.model.items())
    notes = "".join(f" {note}" for note in info.notes)
    return (
        f"{label}: {info.n_episodes:,} episodes, {info.n_steps:,} transitions, the best return {info.best_return:.1f};"
        f" evaluated in {info.env_id}; told {info.sentence!r}; {settings}.{notes}"
    )


def _table(results: D4RLResults, label: str) -> Table:
    info = results.datasets[label]
    with_minari = info.minari is not None
    header = ("row", "checkpoint", "steps", "seeds", "return [95%]", "D4RL score [95%]")
    rows = []
    for name in results.rows:
        by_seed = results.of(label, name)
        for which in (LAST, BEST) if by_seed else ():
            points = [checkpoint(of_seed, which) for of_seed in by_seed.values()]
            total = mean_return(points)
            scores = [info.d4rl.scored(total), *([] if info.minari is None else [info.minari.scored(total)])]
            seeds = str(len(points)) if len(points) > 1 else "1 (interval over its episodes)"
            steps = " / ".join(dict.fromkeys(f"{point.step:,}" for point in points))
            rows.append((name, which, steps, seeds, *map(_with_interval, (total, *scores))))
    if rows and info.published is not None:
        of_ours = (f"{2_000 * EPOCH:,} trained", "", "", f"{info.published} (published)")
        rows.append(("Diffusion-QL as published", BEST, *of_ours, *([""] if with_minari else [])))
    return Table(label, (*header, *(["Minari score [95%]"] if with_minari else [])), tuple(rows))


def _draw_curves(
    axes: Any, rows: Mapping[str, Mapping[int, Sequence[Point]]], results: D4RLResults, label: str
) -> None:
    info = results.datasets[label]
    for number, (name, by_seed) in enumerate((name, by_seed) for name, by_seed in rows.items() if by_seed):
        colour = COLOURS[number % len(COLOURS)]
        of_step: dict[int, list[float]] = {}
        for of_seed in by_seed.values():
            curve = [(point.step, info.d4rl.score(point.mean)) for point in of_seed]
            axes.plot(*zip(*curve, strict=True), color=colour, linewidth=0.5, alpha=0.6)
            for step, score in curve:
                of_step.setdefault(step, []).append(score)
        means = [(step, fmean(scores)) for step, scores in sorted(of_step.items())]
        axes.plot(*zip(*means, strict=True), color=colour, marker=".", label=name)
    axes.set_title(f"{label}, in {info.env_id}", loc="left")
    axes.set_xlabel("gradient steps")
    axes.set_ylabel("D4RL score")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _with_interval(estimate: Estimate) -> str:
    return f"{estimate.value:z.1f} [{estimate.low:z.1f}, {estimate.high:z.1f}]"  # z: no minus before a rounded zero
