"""The experiment on Meta-World's unseen tasks: one data set, many variants of the method, several seeds."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sb3_llmdpd.baselines.align_and_replay import AlignAndReplay
from sb3_llmdpd.baselines.prompt_dt import PromptDT
from sb3_llmdpd.baselines.retrieve_and_play import RetrieveAndPlay
from sb3_llmdpd.benchmarks.common.ownership import owned
from sb3_llmdpd.benchmarks.common.results import hardware_here, in_order
from sb3_llmdpd.benchmarks.common.run_folder import RunFolder
from sb3_llmdpd.benchmarks.common.trainings import (
    StepsOnBar,
    Training,
    TrainingsBar,
    open_folder,
    open_run,
    run_trainings,
    says_how_to_go_on,
    training_folder,
)
from sb3_llmdpd.benchmarks.common.variants import (
    CONTROL,
    PROMPT_DT,
    TEXT,
    VARIANTS,
    Variant,
    make_variant,
    merged,
)
from sb3_llmdpd.benchmarks.metaworld.examples import example_episodes
from sb3_llmdpd.benchmarks.metaworld.report import metaworld_report
from sb3_llmdpd.benchmarks.metaworld.results import GridResults, gather, read_grid, write_grid
from sb3_llmdpd.benchmarks.metaworld.settings import (
    DATA,
    EPISODES_PER_GOAL,
    EXAMPLES_PER_GOAL,
    MetaworldSettings,
)
from sb3_llmdpd.checkpoint.values import to_json
from sb3_llmdpd.common.processes import n_cores
from sb3_llmdpd.common.schedules import CosineSchedule
from sb3_llmdpd.data.episodes import Episode, OfflineDataset
from sb3_llmdpd.data.metaworld.collection import collect
from sb3_llmdpd.data.minari import load_minari
from sb3_llmdpd.evaluation.conditions import Cell, make_cells, shared_scene_cells
from sb3_llmdpd.evaluation.metaworld_suite import MetaWorldSuite
from sb3_llmdpd.evaluation.players import CopyPlayer, Player, RandomPlayer
from sb3_llmdpd.evaluation.results import METAWORLD, RESULTS, versions, write_results
from sb3_llmdpd.evaluation.tasks import evaluate_tasks
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD

_EPISODE_WORK = 4
"""Gradient steps that take one process as long as an evaluated episode, for the time left on the bar."""

_DATASETS = "metaworld-{goal}-{data}-{n}-seed-{seed}/{{task}}-v0"
_EXAMPLES = "metaworld-{n}-examples-{goal}-seed-{seed}/{{task}}-v0"

_FEATURES = ("features_extractor_class", "features_extractor_kwargs")
_PROMPTING = ("text_encoder", "text_dropout", "trajectory_dropout", "pair_dropout")
"""Arguments of the shared model that Prompt-DT has as well; all others are its own."""


class MetaworldBenchmark:
    """The trainings on Meta-World, and what happens in one.

    :param out: folder of everything that it makes.
    :param settings: settings that the trainings share.
    :param variants: variants to train or to act.
    :param seeds: seeds of each variant.
    :param root: folder of the data sets, which other benchmarks may share; by default ``data`` under ``out``.
    :param n_processes: processes that collect and evaluate; as many as there are CPU cores by default.
    """

    def __init__(
        self,
        out: Path,
        settings: MetaworldSettings,
        variants: Sequence[Variant],
        seeds: Sequence[int],
        root: Path | None = None,
        n_processes: int | None = None,
    ) -> None:
        self.out = out
        self.settings = settings
        # First those that are trained, then those that act with the models of others.
        ordered = sorted(variants, key=lambda variant: variant.trained_as is not None)
        self.variants = {variant.name: variant for variant in ordered}
        self.seeds = tuple(seeds)
        self.root = out / "data" if root is None else root
        self.n_processes = n_processes
        self._episode_work = max(1, _EPISODE_WORK // (n_processes or n_cores()))
        self._shared: dict[str, Any] = to_json(
            {"benchmark": METAWORLD, **asdict(settings), "goal_known_tasks": settings.goal_known_tasks}
        )
        self._ids: list[str] = []
        self._examples: dict[str, list[Episode]] = {}

    def run(self) -> GridResults:
        """Collect, train and evaluate what is not done yet, and write the results and the report.

        :raises ValueError: when the folder has a benchmark of other settings, or another process works there.
        :raises RunStopped: on Ctrl-C, or on SIGTERM while a model trains; says how to go on.
        """
        trainings = self.trainings()
        with owned(self.out):
            open_folder(self.out, self._shared)
            if not all(training.is_finished(self.out) for training in trainings):
                with says_how_to_go_on(self.out, "the collection of data"):
                    self._collect()
                run_trainings(self.out, trainings, self._run, after_each=lambda: self._report(trainings))
            return self._report(trainings)

    def trainings(self) -> list[Training]:
        """List every variant with its first seed, then with its second, so that a table is there early."""
        return [
            Training(name, seed, self._settings_of(variant, seed), self._work(variant))
            for seed in self.seeds
            for name, variant in self.variants.items()
        ]

    def _settings_of(self, variant: Variant, seed: int) -> dict[str, Any]:
        deciding = asdict(variant)
        del deciding["sentence"]  # words may become better ones
        return {**self._shared, "variant": to_json(deciding), "seed": seed}

    def _work(self, variant: Variant) -> int:
        episodes = sum(cell.n_episodes or 0 for cell in self._cells(variant, seed=0))
        return (self.settings.n_steps if self._trains(variant) else 0) + self._episode_work * episodes

    def _trains(self, variant: Variant) -> bool:
        """Tell whether a variant trains a model, or finds it trained by another variant of the benchmark."""
        return variant.method != CONTROL and variant.trained_as not in self.variants

    def _cells(self, variant: Variant, seed: int) -> list[Cell]:
        """List the cells that a training of the variant is evaluated in."""
        settings, unseen = self.settings, self.settings.unseen_tasks
        tasks = (*unseen, *settings.seen_tasks)
        conditions = tuple(filter(settings.can_show, variant.conditions))
        cells = make_cells(tasks, conditions, unseen=unseen, same_goal=settings.goals_differ, seed=seed)
        numbers = (
            settings.n_seen_episodes_under(cell.condition) if cell.seen else settings.n_unseen_episodes
            for cell in cells
        )
        cells = [replace(cell, n_episodes=n) for cell, n in zip(cells, numbers, strict=True)]
        if TEXT in variant.conditions:  # whoever is measured by its sentence alone can be held to it
            shared = shared_scene_cells(
                settings.train_tasks, goal_visible=settings.goal_visible, unseen=unseen
            )
            cells += [replace(cell, n_episodes=settings.n_unseen_episodes) for cell in shared]
        return cells

    def _collect(self) -> None:
        settings = self.settings
        shared: dict[str, Any] = {"seed": settings.data_seed, "goal_visible": settings.goal_visible}
        shared |= {"n_processes": self.n_processes, "root": self.root}
        named = {"goal": settings.goal, "seed": settings.data_seed}
        self._ids = collect(
            settings.train_tasks,
            n_episodes=settings.n_episodes,
            noise=DATA[settings.data],
            episodes_per_goal=EPISODES_PER_GOAL if settings.goals_differ else 1,
            id_format=_DATASETS.format(data=settings.data, n=settings.n_episodes, **named),
            **shared,
        )
        unseen, seen = settings.unseen_tasks, settings.seen_tasks
        for tasks, n_episodes in ((unseen, settings.n_unseen_episodes), (seen, settings.n_seen_episodes)):
            n_examples = settings.n_examples_of(n_episodes)
            id_format = _EXAMPLES.format(n=n_examples, **named)
            per_goal = EXAMPLES_PER_GOAL if settings.goals_differ else 1
            self._examples |= example_episodes(
                tasks, n_examples, n_per_goal=per_goal, id_format=id_format, **shared
            )

    def _run(self, training: Training, folder: Path, bar: TrainingsBar) -> None:
        variant, settings = self.variants[training.variant], self.settings
        results = evaluate_tasks(
            self._player(variant, training, bar),
            self._cells(variant, training.seed),
            examples=self._examples,
            suite=MetaWorldSuite(settings.goal_visible),
            # All episodes of a cell at once: a call of the model for all of them costs little more.
            n_envs=max(settings.n_unseen_episodes, settings.n_seen_episodes),
            max_episode_steps=settings.max_episode_steps,
            seed=training.seed,
            stop_at_success=settings.stop_at_success,
            phases=True,
            n_processes=self.n_processes,
            progress_bar=False,
            on_episodes=lambda n: bar.advance(n * self._episode_work),
        )
        write_results(folder / RESULTS, results, training.settings)

    def _player(self, variant: Variant, training: Training, bar: TrainingsBar) -> LLMDPD | Player:
        if variant.method == CONTROL:
            return self._control(variant.name)
        if variant.method == PROMPT_DT:
            return self._train_prompt_dt(variant, training, bar)
        if variant.trained_as is None:
            return self._train(variant, training, bar)
        model = self._train(make_variant(variant.trained_as), training, bar)
        for name, value in variant.model.items():
            setattr(model, name, value)
        return model

    def _control(self, name: str) -> Player:
        """Make the player that learns nothing, with the features that the models read."""
        data = self.data
        if name in ("retrieve", "retrieve-aligned"):
            model = self.settings.model
            policy = model.get("policy_kwargs", {})
            features = {key: policy[key] for key in _FEATURES if key in policy}
            alignment = model.get("alignment") if name == "retrieve-aligned" else None
            return RetrieveAndPlay(data.observation_space, data.action_space, alignment=alignment, **features)
        if name == "align":
            return AlignAndReplay()
        if name == "random":
            return RandomPlayer(data.action_space)
        return CopyPlayer()  # also for the expert, which is the environment's own

    def _train(self, variant: Variant, training: Training, bar: TrainingsBar) -> LLMDPD:
        """Train the model of a variant with the training's seed, as far as it is not trained yet."""
        run, settings = self._open_run(variant, training.seed), self.settings
        if run.has_model:
            model = LLMDPD.load(run.model_path, dataset=self.data, device="cpu", trust_encoder=True)
        else:
            model = self._new_model(variant, training.seed)
        if self._trains(self.variants[training.variant]):
            bar.skip(model.num_timesteps)
        run.train(model, settings.n_steps, settings.log_interval, progress=StepsOnBar(bar))
        return model

    def _train_prompt_dt(self, variant: Variant, training: Training, bar: TrainingsBar) -> PromptDT:
        """Train Prompt-DT, which is saved when it is trained and not before."""
        run, settings = self._open_run(variant, training.seed), self.settings
        if run.has_model:
            bar.skip(settings.n_steps)
            return PromptDT.load(run.model_path, device="cpu", trust_encoder=True)
        prompting = {name: value for name, value in settings.model.items() if name in _PROMPTING}
        arguments = {"same_goal": settings.goals_differ, **prompting, **variant.model}
        model = PromptDT(self.data, seed=training.seed, device="cpu", **arguments)
        model.learn(settings.n_steps, on_step=lambda loss: bar.advance(1))
        model.save(run.model_path)
        return model

    def _open_run(self, variant: Variant, seed: int) -> RunFolder:
        deciding = self._settings_of(variant, seed)
        del deciding["variant"]["conditions"]  # nothing to the training
        return open_run(training_folder(self.out, variant.name, seed), self.settings.n_steps, deciding)

    @cached_property
    def data(self) -> OfflineDataset:
        """Data that all models learn from."""
        return load_minari(self._ids, root=self.root)

    def _new_model(self, variant: Variant, seed: int) -> LLMDPD:
        settings, same_goal = self.settings, self.settings.goals_differ
        base = {"learning_rate": settings.learning_rate, "same_goal": same_goal, **settings.model}
        arguments = merged(base, variant.model)
        arguments["learning_rate"] = CosineSchedule(arguments["learning_rate"])
        return LLMDPD("MlpPolicy", dataset=self.data, seed=seed, device="cpu", **arguments)

    def _report(self, trainings: Sequence[Training]) -> GridResults:
        variants = {name: to_json(asdict(variant)) for name, variant in self.variants.items()}
        path, cells = self.out / RESULTS, gather(self.out, trainings)
        results = GridResults(self._shared, variants, hardware_here(), versions(), cells)
        if path.is_file():
            results = results.merged(read_grid(path))
        results = replace(results, variants=in_order(results.variants, VARIANTS))
        write_grid(path, results)
        metaworld_report(results).write(self.out)
        return results
