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
from sb3_llmdpd.validation.folds import nearness_of_left_out
from sb3_llmdpd.validation.held_out import HeldOut, hold_out
from sb3_llmdpd.validation.judgement import MARGIN, WORKS, advised_prompt, gain
from sb3_llmdpd.validation.nearness import Nearness
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

_ADVISED = "retrieval"
"""Setting of which `sb3-llmdpd advise` would ask how near a new task is: the default one."""
_NEARNESS = "nearness-{third}.json"

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
    figures = summary(read(given.out), read_nearness(given.out))
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
            if name == _ADVISED and not (place := out / _NEARNESS.format(third=third)).is_file():
                model = LLMDPD.load(folder / f"{lengths[-1]}.zip", device="cpu", trust_encoder=True)
                near = {task: asdict(one) for task, one in nearness_of_left_out(model, parts).items()}
                with whole_file(place) as temporary:
                    temporary.write_text(json.dumps(near))


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


def read_nearness(out: Path) -> dict[str, dict[str, Nearness]]:
    """Read the distances of the tasks that were not seen, by third and task."""
    return {
        third: {task: Nearness(**near) for task, near in json.loads(path.read_text()).items()}
        for third in THIRDS
        if (path := out / _NEARNESS.format(third=third)).is_file()
    }


def summary(
    models: Sequence[Mapping[str, Any]],
    nearness: Mapping[str, Mapping[str, Nearness]] | None = None,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, Any]:
    """Compute how held-out errors and success go together.

    :param models: results of `read`.
    :param nearness: results of `read_nearness`.
    :param n_resamples: resamples of each bootstrap.
    :return: rank correlations with 95% bootstrap intervals over models, pooled and by prompt; the same with
        the errors on known tasks; how often the advised prompt wins; and, of single tasks, how well the
        verdict separates those that work.
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
        "prompt": prompt_choices(models),
        "verdict": verdicts(models, nearness or {}, n_resamples),
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


# The advice ------------------------------------------------------------------------------------------------

Choice = tuple[str, dict[str, float], dict[str, float]]
"""Third, errors by prompt, and success rates by prompt, of a task that a model has not seen."""
Rule = Callable[[Mapping[str, float]], str]

_MARGINS = (0.0, 0.05, MARGIN, 0.2, 0.4)


def prompt_choices(models: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Count how often a rule's prompt wins, over all models, and over those that `advise` would ask."""
    groups = {"all models": models, _ADVISED: [one for one in models if one["setting"] == _ADVISED]}
    return {name: _prompt_choice(group) for name, group in groups.items() if group}


def _prompt_choice(models: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Count how often the prompt of a rule wins on a task, alone or beside others.

    The tasks on which prompts differ are counted apart. The margin of the advice was chosen on these very
    tasks; beside it stands what margins reach that were chosen on the other thirds.
    """
    choices: list[Choice] = []
    for model in models:
        errors = {prompt: _task_errors(model, prompt) for prompt in PLAYED}
        choices += [
            (
                model["third"],
                {prompt: errors[prompt][task] for prompt in PLAYED},
                {prompt: model["success"][prompt][task] for prompt in PLAYED},
            )
            for task in errors["both"]
        ]
    rules: dict[str, Rule] = {
        "advised": advised_prompt,
        "lowest error": lambda errors: min(PLAYED, key=lambda prompt: errors[prompt]),
        **{f"always {prompt}": lambda _, prompt=prompt: prompt for prompt in PLAYED},  # type: ignore[misc]
    }
    differing = [one for one in choices if min(one[2].values()) < max(one[2].values())]
    wins = {name: _win_share(choices, rule) for name, rule in rules.items()}
    if len({third for third, _, _ in choices}) > 1:
        wins["advised, margin of the other thirds"] = _with_margin_of_others(choices)
    wins["at random"] = _random_share(choices)
    if differing:
        wins |= {f"{name}, where prompts differ": _win_share(differing, rule) for name, rule in rules.items()}
        wins["at random, where prompts differ"] = _random_share(differing)
    return {name: round(share, 3) for name, share in wins.items()} | {
        "n": len(choices),
        "n where prompts differ": len(differing),
    }


def _win_share(choices: Sequence[Choice], rule: Rule) -> float:
    return float(np.mean([rates[rule(errors)] == max(rates.values()) for _, errors, rates in choices]))


def _random_share(choices: Sequence[Choice]) -> float:
    best = [sum(rate == max(rates.values()) for rate in rates.values()) for _, _, rates in choices]
    return float(np.mean(best)) / len(PLAYED)


def _with_margin_of_others(choices: Sequence[Choice]) -> float:
    """Choose the margin for each third on the others, and count."""
    wins = []
    for third in sorted({third for third, _, _ in choices}):
        others = [one for one in choices if one[0] != third]
        shares = [_win_share(others, partial(advised_prompt, margin=margin)) for margin in _MARGINS]
        rule = partial(advised_prompt, margin=_MARGINS[int(np.argmax(shares))])
        own = [one for one in choices if one[0] == third]
        wins += [_win_share([one], rule) for one in own]
    return float(np.mean(wins))


SHOWN = {"example": ("both", "example"), "sentence": ("sentence",)}
"""Prompts that show an example of a new task, or its sentence alone."""


def verdicts(
    models: Sequence[Mapping[str, Any]], nearness: Mapping[str, Mapping[str, Nearness]], n_resamples: int
) -> dict[str, dict[str, float]]:
    """Compute how well verdicts separate tasks that succeed at least half of the time.

    Of the longest trainings that `advise` would do. A verdict is on a task with an example, or with its
    sentence alone; the prompt with an example is the one with the lower error.

    :return: area under the curve with a 95% bootstrap interval over tasks: of the gain that a verdict on
        episodes goes by, of the error by itself, and of the distance that a verdict goes by without episodes;
        and for the limit `WORKS` the shares of tasks that were rightly told to work and not to work.
    """
    asked = [
        max((one for one in models if (one["setting"], one["third"]) == (_ADVISED, third)), key=_steps)
        for third in sorted({one["third"] for one in models if one["setting"] == _ADVISED})
    ]
    found = {}
    for name, shown in {"all": tuple(SHOWN), **{name: (name,) for name in SHOWN}}.items():
        rows = [row for model in asked for one in shown for row in _judged(model, one, nearness)]
        if rows:
            found[name] = _separated(rows, n_resamples)
    return found


def _steps(model: Mapping[str, Any]) -> int:
    return int(model["step"])


def _judged(
    model: Mapping[str, Any], shown: str, nearness: Mapping[str, Mapping[str, Nearness]]
) -> Iterator[dict[str, float]]:
    """Yield what a verdict on each task goes by, and whether the task works."""
    errors = {prompt: _task_errors(model, prompt) for prompt in PLAYED}
    near = nearness.get(model["third"], {})
    for task, alone in errors["none"].items():
        prompt = min(SHOWN[shown], key=lambda prompt: errors[prompt][task])
        distance = near[task].to_nearest(shown) if task in near else None
        yield {
            "works": float(model["success"][prompt][task] >= 0.5),
            "gain": gain(errors[prompt][task], alone),
            "error": -errors[prompt][task],
            "distance": float("nan") if distance is None else -distance,
        }


def _separated(rows: Sequence[Mapping[str, float]], n_resamples: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    works = np.array([row["works"] for row in rows]) == 1.0
    found: dict[str, float] = {"n": len(rows), "n that work": int(works.sum())}
    drawn = rng.integers(len(rows), size=(n_resamples, len(rows)))
    for name in ("gain", "error", "distance"):
        score = np.array([row[name] for row in rows])
        if np.isnan(score).any() or works.all() or not works.any():
            continue
        resampled = [_auc(score[some], works[some]) for some in drawn]
        low, high = np.nanpercentile(resampled, [2.5, 97.5])
        numbers = {name: _auc(score, works), f"{name}_low": low, f"{name}_high": high}
        found |= {key: round(float(number), 3) for key, number in numbers.items()}
    told = np.array([row["gain"] for row in rows]) >= WORKS
    for name, part in (
        ("told to work of those that do", works),
        ("told not to of those that do not", ~works),
    ):
        if part.any():
            found[name] = round(float((told == works)[part].mean()), 3)
    return found


def _auc(score: np.ndarray, works: np.ndarray) -> float:
    """Compute the chance that a task that works scores higher than one that does not."""
    if works.all() or not works.any():
        return float("nan")
    u = scipy.stats.mannwhitneyu(score[works], score[~works]).statistic
    return float(u) / (int(works.sum()) * int((~works).sum()))


if __name__ == "__main__":
    main()
