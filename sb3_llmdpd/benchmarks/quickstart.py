"""The whole way on Meta-World's ML45: collect, train, save, load, evaluate on tasks that were held out."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import typer

from sb3_llmdpd.benchmarks.common.evaluation_folder import evaluate_into
from sb3_llmdpd.benchmarks.common.ownership import owned
from sb3_llmdpd.benchmarks.common.report import show_tables
from sb3_llmdpd.benchmarks.common.run_folder import RunFolder
from sb3_llmdpd.benchmarks.metaworld.examples import example_episodes, example_seeds
from sb3_llmdpd.checkpoint.values import to_json
from sb3_llmdpd.common.schedules import CosineSchedule
from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.metaworld.collection import collect
from sb3_llmdpd.data.metaworld.tasks import SPLITS
from sb3_llmdpd.data.minari import load_minari
from sb3_llmdpd.evaluation.conditions import CONDITIONS, TOLD, Cell, Condition, make_cells
from sb3_llmdpd.evaluation.report import tables
from sb3_llmdpd.evaluation.results import RESULTS
from sb3_llmdpd.evaluation.tasks import CellResult, prompts_of
from sb3_llmdpd.evaluation.video import film_episodes
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD


@dataclass(frozen=True)
class QuickstartSettings:
    """All numbers of the quickstart; the README says how long it takes with the defaults.

    :param seed: seed of data, training and evaluation.
    :param train_tasks: tasks that the model learns from.
    :param unseen_tasks: tasks that it never sees but is evaluated on.
    :param seen_tasks: training tasks that it is evaluated on; every fifth by the alphabet, picked by nobody.
    :param shared_scenes: pairs of a task whose scenes are played, and a task whose sentence is told there.
    :param conditions: see `make_cells`.
    :param n_episodes: training episodes of each task.
    :param n_examples: episodes to prompt with, of each evaluated task, apart from the training episodes.
    :param noise: standard deviations of the action noise, see `collect`.
    :param n_steps: gradient steps.
    :param learning_rate: learning rate at the beginning; it falls to zero along half a cosine.
    :param model: further arguments of `LLMDPD`.
    :param log_interval: gradient steps between two points of the learning curve.
    :param n_unseen_episodes: episodes of an unseen task, and of shared scenes, under each condition.
    :param n_seen_episodes: episodes of a seen task under each condition.
    :param max_episode_steps: steps of an evaluated episode.
    """

    seed: int = 0
    train_tasks: tuple[str, ...] = SPLITS["ml45"][0]
    unseen_tasks: tuple[str, ...] = SPLITS["ml45"][1]
    seen_tasks: tuple[str, ...] = tuple(sorted(SPLITS["ml45"][0])[::5])
    shared_scenes: tuple[tuple[str, str], ...] = (("pick-place", "pick-place"), ("pick-place", "reach"))
    conditions: tuple[str, ...] = (*CONDITIONS[:3], "trajectory:5", *CONDITIONS[3:])
    n_episodes: int = 10
    n_examples: int = 5
    noise: tuple[float, ...] = (0.1,)
    n_steps: int = 6_000
    learning_rate: float = 2e-3
    model: Mapping[str, Any] = field(
        default_factory=lambda: {
            "batch_size": 45 * 16,
            "q_batch_size": 45 * 4,
            "prompts_per_batch": 45,
            "augmentation": "metaworld_turns",
            "alignment": "metaworld_scene",
            "policy_kwargs": {"features_extractor_class": "metaworld_relative"},
        }
    )
    log_interval: int = 100
    n_unseen_episodes: int = 20
    n_seen_episodes: int = 10
    max_episode_steps: int = 300

    @classmethod
    def smoke(cls, seed: int = 0) -> Self:
        """Make settings that walk the whole way in seconds and learn nothing."""
        small = {"batch_size": 8, "prompts_per_batch": 2, "text_encoder": "hashing:16"}
        return cls(
            seed=seed,
            train_tasks=("reach", "pick-place"),
            unseen_tasks=("door-close",),
            seen_tasks=("reach",),
            n_episodes=2,
            n_examples=1,
            conditions=CONDITIONS,
            n_steps=4,
            model={**small, "policy_kwargs": {"net_arch": [16]}},
            log_interval=2,
            n_unseen_episodes=2,
            n_seen_episodes=1,
            max_episode_steps=20,
        )


def quickstart(out: Path, settings: QuickstartSettings, n_processes: int | None = None) -> list[CellResult]:
    """Run it, and say what is being done.

    :param out: folder of ``run.json``, ``model.zip``, ``progress.csv``, ``curves.png``, ``results.json``,
        ``results.md``, ``success.png`` and a video; the data sets lie in ``data`` under it. Data sets that
        are there already are used again, and a training that was stopped goes on.
    :param settings: settings of the run.
    :param n_processes: processes that collect and evaluate; as many as there are CPU cores by default.
    :raises ValueError: when another process works in the folder, or it holds a model of other settings.
    """
    with owned(out):  # what cannot be written shall not be computed first
        run = RunFolder(out)
        run.refuse_to_replace("quickstart", overwrite=_is_of(run, settings))
        results = _run(run, settings, n_processes)
    files = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    typer.echo(f"\nEverything is in {out}: {', '.join(files)}")
    return results


def _run(run: RunFolder, settings: QuickstartSettings, n_processes: int | None) -> list[CellResult]:
    out = run.path
    seed, evaluated = settings.seed, (*settings.unseen_tasks, *settings.seen_tasks)
    shared: dict[str, Any] = {"noise": settings.noise, "n_processes": n_processes, "root": out / "data"}
    n_tasks = len(settings.train_tasks)
    with _stage(f"1/4 Collecting {settings.n_episodes} episodes of each of {n_tasks} tasks"):
        ids = collect(settings.train_tasks, n_episodes=settings.n_episodes, seed=seed, **shared)
        n_examples = settings.n_examples
        typer.echo(f"    and {n_examples} of each of {len(evaluated)} tasks, to be shown as examples")
        examples = example_episodes(evaluated, n_examples, seed=seed, **shared)
    with _stage(f"2/4 Training for {settings.n_steps:,} gradient steps"):
        model_path = _train(run, settings, ids)
    cells = make_cells(evaluated, settings.conditions, unseen=settings.unseen_tasks, seed=seed)
    cells = [replace(cell, n_episodes=settings.n_seen_episodes) if cell.seen else cell for cell in cells]
    cells += [
        Cell(scenes, Condition(f"{TOLD}{told}", text_of=told)) for scenes, told in settings.shared_scenes
    ]
    with _stage(f"3/4 Evaluating {model_path}: {len(evaluated)} tasks, beside the controls"):
        results = evaluate_into(
            out,
            LLMDPD.load(model_path, device="cpu", trust_encoder=True),
            cells,
            {"benchmark": "quickstart", **asdict(settings)},
            examples=examples,
            n_episodes=settings.n_unseen_episodes,
            n_envs=settings.n_unseen_episodes,
            max_episode_steps=settings.max_episode_steps,
            seed=seed,
            n_processes=n_processes,
        )
    with _stage("4/4 Filming an unseen task"):
        _film(out, model_path, results, examples, settings)
    show_tables(tables(results))
    return results


def remembered(settings: QuickstartSettings) -> dict[str, Any]:
    """Collect what a run remembers in ``run.json``, as JSON values."""
    return dict(to_json({"command": "quickstart", "steps": settings.n_steps, **asdict(settings)}))


def _is_of(run: RunFolder, settings: QuickstartSettings) -> bool:
    return run.is_begun and run.arguments() == remembered(settings)


def _train(run: RunFolder, settings: QuickstartSettings, ids: Sequence[str]) -> Path:
    """Train, or go on where a quickstart of the same settings was stopped before it had its results."""
    results, arguments = run.path / RESULTS, remembered(settings)
    is_same = _is_of(run, settings)
    goes_on = is_same and not results.is_file()
    if goes_on:
        run.go_on(arguments)
    else:
        results.unlink(missing_ok=True)
        run.begin(arguments, overwrite=is_same)  # which comes to the same model
    data = load_minari(ids, root=run.path / "data")
    if goes_on and run.has_model:
        model = LLMDPD.load(run.model_path, dataset=data, device="cpu", trust_encoder=True)
        typer.echo(f"    from step {model.num_timesteps:,} on, where the run before this one was stopped")
    else:
        learning_rate = CosineSchedule(settings.learning_rate)
        arguments = {"learning_rate": learning_rate, "seed": settings.seed, **settings.model}
        model = LLMDPD("MlpPolicy", dataset=data, device="cpu", **arguments)
    return run.train(model, settings.n_steps, settings.log_interval)


def _film(
    out: Path,
    model_path: Path,
    results: Sequence[CellResult],
    examples: Mapping[str, Sequence[Episode]],
    settings: QuickstartSettings,
) -> None:
    """Film the unseen task that the model does best, in a successful episode if there is one."""
    first = settings.conditions[0]
    candidates = (result for result in results if result.seen is False and result.condition.name == first)
    best = max(candidates, key=lambda result: result.success_rate)
    episode = best.successes.index(True) if any(best.successes) else 0
    prompt = prompts_of(best.condition, examples, {}, best.n_episodes)[episode]
    path = out / f"{best.task}.mp4"
    seeds = example_seeds(best.task, settings.n_examples, settings.seed)
    how: dict[str, Any] = {"max_episode_steps": settings.max_episode_steps, "trust_encoder": True}
    how["example_seeds"] = seeds
    try:
        film_episodes(path, model_path, best.task, [prompt], [best.seeds[episode]], **how)
    except (ImportError, RuntimeError) as error:
        typer.echo(f"    No video: {error}")
    else:
        typer.echo(f"    {path}")


@contextmanager
def _stage(title: str) -> Iterator[None]:
    typer.echo(title)
    start = time.monotonic()
    yield
    typer.echo(f"    took {time.monotonic() - start:.0f} s")
