"""The report of D4RL's benchmark: facts, a table for each data set, and learning curves."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from sb3_llmdpd.benchmarks.common.report import Report
from sb3_llmdpd.benchmarks.d4rl.results import D4RLResults, Point
from sb3_llmdpd.benchmarks.d4rl.settings import EPOCH
from sb3_llmdpd.evaluation.charts import COLOURS, draw_or_say_why, new_figure, save_figure, tidy
from sb3_llmdpd.evaluation.report import Table
from sb3_llmdpd.evaluation.statistics import mean_over_seeds, with_interval

CHART = "learning.png"
LAST, BEST = "last", "best"

DIFFERENCES = (
    "The averaged actor acts; the published code averages one for the critic's targets, and acts with the"
    " latest weights. It begins as a copy of the actor, and moves at every step by what the published one"
    " moves in a fifth of its update.",
    "One of the candidates is drawn by the softmax of their values, standardised over the candidates; the"
    " published code takes the softmax of the raw values, which are in the hundreds.",
    "Observations are standardised with statistics of the data; the published code takes them as they are.",
    "The learning rate is constant; the published schedule hardly moves within a run.",
    "In the rows with a prompt the critic reads the averaged actor's encoding of it.",
    "Episodes are played in today's Gymnasium and MuJoCo; D4RL's data and the published scores are of"
    " version 2 of the environments.",
)
"""Differences from Diffusion-QL's published code."""

NOT_SHOWN = (
    "The best checkpoint is chosen by the very episodes that it is measured on: its score is too high by"
    " what the luck of single evaluations is worth, and the more evaluations there are, the more. The last"
    " checkpoint has no such advantage.",
    "With one task, a prompt says nothing that the data do not: a difference between the rows full and"
    " no-prompt is none of generalisation.",
)
"""Sentences about what no table of this kind shows."""


def checkpoint(of_seed: Sequence[Point], which: str) -> Point:
    """Choose the evaluation that a training is measured by.

    :param of_seed: all evaluations of one training, at least one.
    :param which: `LAST`, or `BEST` for the first of the largest mean return, as Diffusion-QL selects.
    """
    return max(of_seed, key=lambda point: point.step if which == LAST else point.mean)


def d4rl_report(results: D4RLResults) -> Report:
    """Make the report on D4RL: ``report.md``, and with matplotlib and a first evaluation ``learning.png``."""

    def draw(path: Path) -> None:
        if results.points:
            draw_or_say_why(learning_chart, results, path)

    notes = {
        "Where this differs from Diffusion-QL's published code": DIFFERENCES,
        "What the numbers do not show": NOT_SHOWN,
    }
    return Report(d4rl_tables(results), CHART, draw, "D4RL locomotion", d4rl_facts(results), notes)


def d4rl_tables(results: D4RLResults) -> list[Table]:
    """Make a table for each data set in their order; none for one of which nothing is finished."""
    tables = [_table(results, label) for label in results.datasets]
    return [table for table in tables if table.rows]


def d4rl_facts(results: D4RLResults) -> list[str]:
    """Say in sentences what one has to know to read the tables."""
    settings = results.settings
    model = settings["model"]
    seeds = sorted({point.seed for point in results.points})
    return [
        *(f"{name}: {sentence}." for name, sentence in results.variants.items()),
        *(_fact_of(results, label) for label in results.datasets),
        "A row that is prompted is told the sentence of the data set, and shown the episode of its largest"
        " return.",
        f"{settings['n_steps']:,} gradient steps ({settings['n_steps'] / EPOCH:g} epochs of {EPOCH:,}) of"
        f" {model['batch_size']} transitions, evaluated every {settings['eval_freq']:,} and at the last one,"
        f" over {settings['n_eval_episodes']} episodes that have the same seeds at each evaluation of a"
        f" training. An action is one of {model['n_candidates']} candidates; in the row bc, which has no"
        " critic, it is drawn alone.",
        f"Seeds: {', '.join(map(str, seeds)) or 'none yet'}. {LAST}: the model after all steps. {BEST}: of"
        " each seed, the evaluation with the largest mean return, which is how Diffusion-QL selected its"
        " published scores.",
        "The intervals hold 95% of a bootstrap over seeds and, within each, episodes; where a row has a"
        " single seed, over its episodes only, which says nothing of other trainings.",
        "D4RL's score is 0 for its random policy and 100 for its expert; Minari's the same with the returns"
        " that the data set itself has.",
        results.made_with,
    ]


def learning_chart(results: D4RLResults, path: str | Path) -> None:
    """Draw the scores of all evaluations, a panel for each data set: their mean over seeds, and each seed.

    :param results: results of the benchmark, at least one evaluation.
    :param path: the png.
    :raises ImportError: without matplotlib.
    """
    labels = [label for label in results.datasets if any(point.dataset == label for point in results.points)]
    figure = new_figure((7.0, 3.2 * len(labels)))
    for number, label in enumerate(labels):
        axes = figure.add_subplot(len(labels), 1, number + 1)
        _draw_curves(axes, results, label)
    save_figure(figure, path)


def _fact_of(results: D4RLResults, label: str) -> str:
    info = results.datasets[label]
    settings = ", ".join(f"{name} {value:g}" for name, value in info.model.items())
    notes = "".join(f" {note}" for note in info.notes)
    return (
        f"{label}: {info.n_episodes:,} episodes, {info.n_steps:,} transitions, the best return"
        f" {info.best_return:.1f}; evaluated in {info.env_id}; told {info.sentence!r}; {settings}.{notes}"
    )


def _table(results: D4RLResults, label: str) -> Table:
    info = results.datasets[label]
    scales = {"D4RL": info.d4rl} if info.minari is None else {"D4RL": info.d4rl, "Minari": info.minari}
    rows: list[tuple[str, ...]] = []
    for variant in results.variants:
        by_seed = results.of(label, variant)
        for which in (LAST, BEST) if by_seed else ():
            points = [checkpoint(of_seed, which) for of_seed in by_seed.values()]
            total = mean_over_seeds([[point.returns] for point in points])
            scores = (references.scored(total) for references in scales.values())
            seeds = str(len(points)) if len(points) > 1 else "1 (interval over its episodes)"
            steps = " / ".join(dict.fromkeys(f"{point.step:,}" for point in points))
            shown = (with_interval(estimate, digits=1) for estimate in (total, *scores))
            rows.append((variant, which, steps, seeds, *shown))
    if rows and info.published is not None:
        scores_of_others = [f"{info.published} (published)", *([""] * (len(scales) - 1))]
        trained = f"{2_000 * EPOCH:,} trained"
        rows.append(("Diffusion-QL as published", BEST, trained, "", "", *scores_of_others))
    header = ("row", "checkpoint", "steps", "seeds", "return [95%]")
    return Table(label, (*header, *(f"{name} score [95%]" for name in scales)), tuple(rows))


def _draw_curves(axes: Any, results: D4RLResults, label: str) -> None:
    info = results.datasets[label]
    curves = {variant: results.of(label, variant) for variant in results.variants}
    for number, variant in enumerate(variant for variant, by_seed in curves.items() if by_seed):
        colour = COLOURS[number % len(COLOURS)]
        of_step: dict[int, list[float]] = {}
        for of_seed in curves[variant].values():
            curve = [(point.step, info.d4rl.score(point.mean)) for point in of_seed]
            axes.plot(*zip(*curve, strict=True), color=colour, linewidth=0.5, alpha=0.6)
            for step, score in curve:
                of_step.setdefault(step, []).append(score)
        means = [(step, fmean(scores)) for step, scores in sorted(of_step.items())]
        axes.plot(*zip(*means, strict=True), color=colour, marker=".", label=variant)
    axes.set_title(f"{label}, in {info.env_id}", loc="left")
    axes.set_xlabel("gradient steps")
    axes.set_ylabel("D4RL score")
    tidy(axes)
