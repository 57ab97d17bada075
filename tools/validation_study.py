"""Measures how well held-out errors predict success: many small models on Meta-World's thirds.

`python -m tools.validation_study --out runs/study` trains three settings on each third of ML45's training
tasks, and measures every checkpoint twice on the fifteen tasks that it has not seen: by the error of its
actions on logged episodes, and by its success in the simulator. What is done is kept: the same command goes
on. `--summary` computes the figures of what there is, and writes them into docs/results/validation.json.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.benchmarks.common.variants import merged
from sb3_llmdpd.benchmarks.metaworld.examples import example_episodes
from sb3_llmdpd.benchmarks.metaworld.settings import DATA
from sb3_llmdpd.benchmarks.metaworld.splits import tasks_of_split
from sb3_llmdpd.benchmarks.quickstart import QuickstartSettings
from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.data.episodes import Episode, OfflineDataset
from sb3_llmdpd.data.metaworld.collection import collect
from sb3_llmdpd.data.minari import load_minari
from sb3_llmdpd.evaluation.conditions import make_cells
from sb3_llmdpd.evaluation.statistics import N_RESAMPLES
from sb3_llmdpd.evaluation.tasks import evaluate_tasks
from sb3_llmdpd.validation.errors import action_spread, measure
from sb3_llmdpd.validation.held_out import HeldOut, hold_out
from sb3_llmdpd.validation.probes import make_probes
from tools.result_files import RESULTS

THIRDS = ("third-0", "third-1", "third-2")
LENGTHS = (100, 300, 800, 2_000)
"""Gradient steps of the checkpoints."""
PLAYED = {"both": "text+trajectory", "sentence": "text", "example": "trajectory", "none": "none"}
"""Conditions of the simulator by the names of prompts."""
SETTINGS: Mapping[str, tuple[int, Mapping[str, Any]]] = {
    "retrieval": (20, {}),
    "concat": (20, {"policy_kwargs": {"conditioning": "concat"}}),
    "few": (4, {"alignment": None}),
}
"""Episodes of a task, and arguments that differ from those of the demo."""

_IDS = "metaworld-visible-expert-20-seed-0/{task}-v0"
_EXAMPLE_IDS = "metaworld-25-examples-visible-seed-0/{task}-v0"
_N_COLLECTED, _N_EXAMPLES = 20, 25
"""Numbers of the benchmark, whose data sets serve here, too."""
_HELD_OUT, _ASKED = 0.05, 3
"""Share of a known task's episodes that is held out; episodes of an unseen task that are measured."""
_HORIZON = 200
_SMALL = {"batch_size": 120, "q_batch_size": 30, "prompts_per_batch": 30, "examples_per_prompt": (1, 1)}


def main() -> None:
    """Train, measure and play what is missing, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("runs/validation_study"))
    parser.add_argument("--root", type=Path, help="folder of the Minari data sets; by default under --out")
    parser.add_argument("--episodes", type=int, default=2, help="played episodes of a task and prompt")
    parser.add_argument("--smoke", action="store_true", help="two tiny models, in seconds")
    parser.add_argument("--summary", action="store_true", help="compute the figures alone, and keep them")
    given = parser.parse_args()
    if not given.summary:
        study(given.out, given.root or given.out / "data", given.episodes, given.smoke)
    figures = summary(read(given.out))
    print(json.dumps(figures, indent=1))  # noqa: T201
    if given.summary:
        with whole_file(RESULTS / "validation.json") as temporary:
            temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def study(out: Path, root: Path, n_played: int, smoke: bool) -> None:
    """Make every model that is missing, one setting and third after the other."""
    thirds, lengths, settings = THIRDS, LENGTHS, SETTINGS
    if smoke:
        thirds, lengths, settings = THIRDS[:1], (2, 4), {"few": SETTINGS["few"]}
    for third in thirds:
        train, unseen = tasks_of_split(third)
        if smoke:
            train, unseen = train[:3], unseen[:2]
        data = _read(train, unseen, root)
        shown = example_episodes(
            unseen, _N_EXAMPLES, id_format=_EXAMPLE_IDS, noise=DATA["expert"], root=root, n_processes=1
        )
        for name, (n_episodes, arguments) in settings.items():
            parts = _parts(data, train, n_episodes)
            folder = out / f"{name}-{third}"
            for length in lengths:
                if not (folder / f"{length}.json").is_file():
                    start = time.monotonic()
                    model = _trained(folder, parts.training, arguments, length, lengths, smoke)
                    row = {"setting": name, "third": third, "step": length}
                    row |= _measured(model, parts) | _played(model, unseen, shown, n_played, smoke)
                    row["seconds"] = round(time.monotonic() - start)
                    with whole_file(folder / f"{length}.json") as temporary:
                        temporary.write_text(json.dumps(row))
                    print(folder.name, length, f"{row['seconds']} s", flush=True)  # noqa: T201


def _read(train: Sequence[str], unseen: Sequence[str], root: Path) -> OfflineDataset:
    how: dict[str, Any] = {"n_episodes": _N_COLLECTED, "noise": DATA["expert"], "id_format": _IDS, "seed": 0}
    return load_minari(collect((*train, *unseen), root=root, n_processes=1, **how), root=root)


def _parts(data: OfflineDataset, train: Sequence[str], n_episodes: int) -> HeldOut:
    """Hold out an episode of each known task, and all of the unseen ones."""
    counts: dict[str, int] = {}
    kept = set()
    for episode in data.episodes:
        counts[episode.task] = counts.get(episode.task, 0) + 1
        if counts[episode.task] <= n_episodes or episode.task not in train:
            kept.add(id(episode))
    known = hold_out(data.only(lambda e: e.task in train and id(e) in kept), _HELD_OUT)
    measured = {id(episode) for episode in known.validation.episodes}
    unseen = frozenset(data.tasks) - set(train)
    return HeldOut(known.training, data.only(lambda e: id(e) in measured or e.task in unseen), unseen)


def _trained(
    folder: Path,
    data: OfflineDataset,
    arguments: Mapping[str, Any],
    length: int,
    lengths: Sequence[int],
    smoke: bool,
) -> LLMDPD:
    """Load the checkpoint, or train to it from the one before."""
    before = [each for each in lengths if each <= length and (folder / f"{each}.zip").is_file()]
    if before:
        path = folder / f"{before[-1]}.zip"
        model = LLMDPD.load(path, dataset=data, device="cpu", trust_encoder=True)
    else:
        settings = merged(merged(dict(QuickstartSettings().model), _SMALL), arguments)
        if smoke:
            settings |= {"batch_size": 6, "q_batch_size": 3, "prompts_per_batch": 3}
        model = LLMDPD("MlpPolicy", dataset=data, seed=0, device="cpu", **settings)
    if model.num_timesteps < length:
        model.learn(length - model.num_timesteps, reset_num_timesteps=False)
        model.save(folder / f"{length}.zip")
    return model


def _measured(model: LLMDPD, parts: HeldOut) -> dict[str, Any]:
    """Measure held-out errors: the mean of each group under each prompt, and all episodes."""
    errors = measure(model, make_probes(parts, _ASKED), action_spread(parts.training))
    return {
        "errors": {prompt: errors.relative_error(False, prompt) for prompt in errors.prompts},
        "known_errors": {prompt: errors.relative_error(True, prompt) for prompt in errors.prompts},
        "episodes": [asdict(episode) for episode in errors.episodes],
        "values": [asdict(value) for value in errors.values],
    }


def _played(
    model: LLMDPD, unseen: Sequence[str], shown: Mapping[str, Sequence[Episode]], n: int, smoke: bool
) -> dict[str, Any]:
    """Play the unseen tasks: success rates by prompt and task."""
    results = evaluate_tasks(
        model,
        make_cells(unseen, tuple(PLAYED.values()), unseen=unseen),
        examples=shown,
        n_episodes=n,
        n_envs=n,
        max_episode_steps=5 if smoke else _HORIZON,
        stop_at_success=True,
        n_processes=1,
        progress_bar=False,
    )
    rates = {(result.condition.name, result.task): result.success_rate for result in results}
    return {
        "success": {
            prompt: {task: rates[condition, task] for task in unseen} for prompt, condition in PLAYED.items()
        }
    }


# The figures ----------------------------------------------------------------------------------------------


def read(out: Path) -> list[dict[str, Any]]:
    """Read the models that are done."""
    return [json.loads(path.read_text()) for path in sorted(out.glob("*-third-*/*.json"))]


def summary(models: Sequence[Mapping[str, Any]], n_resamples: int = N_RESAMPLES) -> dict[str, Any]:
    """Compute how held-out errors and success go together.

    :param models: results of `read`.
    :param n_resamples: resamples of each bootstrap.
    :return: rank correlations with 95% bootstrap intervals over models, pooled and by prompt; the same with
        the errors on known tasks; how often the prompt with the lowest error wins; and, of single tasks, how
        well the error separates those that work.
    """
    prompts = tuple(PLAYED)
    pairs_by_name: dict[str, PairsOf] = {
        "pooled": partial(_pairs, prompts=prompts, errors="errors"),
        "pooled, within prompts and thirds": partial(_within, prompts=prompts),
        **{prompt: partial(_pairs, prompts=(prompt,), errors="errors") for prompt in prompts},
        "both, by the error on known tasks": partial(_pairs, prompts=("both",), errors="known_errors"),
    }
    return {
        "n_models": len(models),
        "n_trainings": len({(model["setting"], model["third"]) for model in models}),
        "spearman": {
            name: _correlated(models, pairs_of, n_resamples) for name, pairs_of in pairs_by_name.items()
        },
        "prompt": _prompt_choice(models),
        "tasks": {prompt: _auc(models, prompt) for prompt in prompts},
        "success": {
            f"{setting}, {step} steps": {
                prompt: _mean_success(
                    [one for one in models if (one["setting"], one["step"]) == (setting, step)], prompt
                )
                for prompt in prompts
            }
            for setting, step in sorted({(one["setting"], one["step"]) for one in models})
        },
    }


Pairs = list[tuple[float, float]]
PairsOf = Callable[[Sequence[Mapping[str, Any]]], Pairs]


def _mean_success(models: Sequence[Mapping[str, Any]], prompt: str) -> float:
    return round(float(np.mean([list(model["success"][prompt].values()) for model in models])), 3)


def _pairs(models: Sequence[Mapping[str, Any]], prompts: Sequence[str], errors: str) -> Pairs:
    """Pair an error and a success of each model under each prompt."""
    return [
        (model[errors][prompt], float(np.mean(list(model["success"][prompt].values()))))
        for model in models
        for prompt in prompts
        if prompt in model[errors]
    ]


def _within(models: Sequence[Mapping[str, Any]], prompts: Sequence[str]) -> Pairs:
    """Pair ranks among the models of one third under one prompt, so that neither explains anything."""
    pairs: Pairs = []
    for third in sorted({model["third"] for model in models}):
        for prompt in prompts:
            of_third = [model for model in models if model["third"] == third]
            columns = zip(*_pairs(of_third, (prompt,), "errors"), strict=True)
            pairs += zip(*(_shares(column) for column in columns), strict=True)
    return pairs


def _shares(numbers: Sequence[float]) -> list[float]:
    ranks = scipy.stats.rankdata(numbers)
    return ((ranks - 0.5) / len(ranks)).tolist()  # type: ignore[no-any-return]


def _correlated(models: Sequence[Mapping[str, Any]], pairs_of: PairsOf, n_resamples: int) -> dict[str, float]:
    """Compute Spearman's correlation, with a bootstrap interval over models and one over trainings."""
    rng = np.random.default_rng(0)
    by_training: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for model in models:
        by_training.setdefault((model["setting"], model["third"]), []).append(model)
    trainings = list(by_training.values())
    over_models, over_trainings = [], []
    for _ in range(n_resamples):
        drawn = [models[number] for number in rng.integers(len(models), size=len(models))]
        over_models.append(_spearman(pairs_of(drawn)))
        groups = [trainings[number] for number in rng.integers(len(trainings), size=len(trainings))]
        over_trainings.append(_spearman(pairs_of([model for group in groups for model in group])))
    low, high = np.nanpercentile(over_models, [2.5, 97.5])
    low_of_trainings, high_of_trainings = np.nanpercentile(over_trainings, [2.5, 97.5])
    numbers = {
        "value": _spearman(pairs_of(models)),
        "low": low,
        "high": high,
        "low_over_trainings": low_of_trainings,
        "high_over_trainings": high_of_trainings,
    }
    return {name: round(float(number), 3) for name, number in numbers.items()}


def _spearman(pairs: Pairs) -> float:
    errors, successes = np.array(pairs).T
    if not np.ptp(errors) or not np.ptp(successes):
        return float("nan")
    # Of a low error and a high success, which go together: the sign says so.
    return float(scipy.stats.spearmanr(-errors, successes).statistic)


def _task_errors(model: Mapping[str, Any], prompt: str) -> dict[str, float]:
    by_task: dict[str, list[float]] = {}
    for episode in model["episodes"]:
        if episode["prompt"] == prompt and episode["seen"] is False:
            by_task.setdefault(episode["task"], []).append(episode["relative"])
    return {task: float(np.mean(errors)) for task, errors in by_task.items()}


def _prompt_choice(models: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Count how often the prompt with the lowest error on a task wins there, alone or beside others.

    Beside it, what a prompt drawn at random, and always ``both``, would do. The prompts differ in few tasks:
    those are counted apart.
    """
    counted: list[tuple[bool, float, bool, bool]] = []
    for model in models:
        errors = {prompt: _task_errors(model, prompt) for prompt in PLAYED}
        for task in errors["both"]:
            rates = {prompt: model["success"][prompt][task] for prompt in PLAYED}
            best = {prompt for prompt, rate in rates.items() if rate == max(rates.values())}
            chosen = min(PLAYED, key=lambda prompt: errors[prompt][task])
            counted.append((chosen in best, len(best) / len(PLAYED), "both" in best, len(best) < len(PLAYED)))
    table = np.array(counted, np.float64)
    differing = table[table[:, 3] == 1]
    names = ("lowest error", "at random", "always both")
    return {
        **{name: round(float(table[:, column].mean()), 3) for column, name in enumerate(names)},
        **{
            f"{name}, where prompts differ": round(float(differing[:, column].mean()), 3)
            for column, name in enumerate(names)
            if len(differing)
        },
        "n": len(table),
        "n where prompts differ": len(differing),
    }


def _auc(models: Sequence[Mapping[str, Any]], prompt: str) -> dict[str, float]:
    """Compute how well the error of single tasks separates those that succeed at least half of the time.

    :return: area under the curve, over all models' tasks, and of those of the longest trainings.
    """
    longest = max(model["step"] for model in models)
    return dict(_aucs(models, prompt, {"all": 0, "longest": longest}))


def _aucs(
    models: Sequence[Mapping[str, Any]], prompt: str, shortest: Mapping[str, int]
) -> Iterator[tuple[str, float]]:
    for name, step in shortest.items():
        of_tasks = [
            (error, model["success"][prompt][task] >= 0.5)
            for model in models
            if model["step"] >= step
            for task, error in _task_errors(model, prompt).items()
        ]
        works = [error for error, succeeded in of_tasks if succeeded]
        fails = [error for error, succeeded in of_tasks if not succeeded]
        if works and fails:
            u = scipy.stats.mannwhitneyu(fails, works).statistic
            yield name, round(float(u) / (len(works) * len(fails)), 3)


if __name__ == "__main__":
    main()
