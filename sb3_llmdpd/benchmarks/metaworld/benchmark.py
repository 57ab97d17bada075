"""The experiment on Meta-World's unseen tasks: one data set, many variants of the method, several seeds."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from sb3_llmdpd.baselines.prompt_dt import PromptDT
from sb3_llmdpd.benchmarks.common.grid import (
    RESULTS,
    GridBar,
    GridCell,
    StepsOnBar,
    begin_or_go_on,
    cell_folder,
    open_grid,
    refuse_others,
    run_grid,
    says_how_to_go_on,
)
from sb3_llmdpd.benchmarks.common.run_folder import RunFolder
from sb3_llmdpd.benchmarks.common.runs import example_episodes
from sb3_llmdpd.benchmarks.common.variants import (
    CONTROL,
    PROMPT_DT,
    TEXT,
    VARIANTS,
    Variant,
    make_variant,
    merged,
)
from sb3_llmdpd.benchmarks.metaworld.report import write_report
from sb3_llmdpd.benchmarks.metaworld.results import GridResults, gather, read_grid, write_grid
from sb3_llmdpd.benchmarks.metaworld.settings import DATA, EPISODES_PER_GOAL, MetaworldSettings
from sb3_llmdpd.checkpoint.values import to_json
from sb3_llmdpd.common.processes import n_cores
from sb3_llmdpd.common.schedules import CosineSchedule
from sb3_llmdpd.data.episodes import Episode, OfflineDataset
from sb3_llmdpd.data.metaworld.collection import collect
from sb3_llmdpd.data.metaworld.envs import MetaWorldEnv
from sb3_llmdpd.data.minari import load_minari
from sb3_llmdpd.evaluation.conditions import Cell, make_cells, shared_scene_cells
from sb3_llmdpd.evaluation.players import CopyPlayer, Player
from sb3_llmdpd.evaluation.report import write_results
from sb3_llmdpd.evaluation.tasks import evaluate_tasks
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD

_EPISODE_WORK = 4
"""Gradient steps that take as long as an evaluated episode does a single process; only the time that the bar says is left
depends on it."""

_DATASETS = "metaworld-{goal}-{data}-{n}-seed-{seed}/{{task}}-v0"
_EXAMPLES = "metaworld-examples-{goal}-{n}-seed-{seed}/{{task}}-v0"

_PROMPTING = ("text_encoder", "text_dropout", "trajectory_dropout", "pair_dropout")
"""Arguments of the shared model that Prompt-DT has, too; all others are its own."""


class MetaworldBenchmark:
    """The cells of a grid on Meta-World, and what happens in one.

    :param out: folder of the grid.
    :param settings: what the cells share.
    :param variants: the rows.
    :param seeds: of each row.
    :param root: folder of the data sets, which other grids may share; by default ``data`` under ``out``.
    :param n_processes: for collecting and evaluating; as many as there are CPU cores by default.
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
            {"benchmark": "metaworld", **asdict(settings), "goal_known_tasks": settings.goal_known_tasks}
        )
        self._ids: list[str] = []
        self._examples: dict[str, list[Episode]] = {}

    def run(self) -> GridResults:
        """Collect, train and evaluate what is not done yet, and write ``results.json``, ``report.md`` and ``report.html``.

        :return: the results.
        :raises ValueError: when the folder has a grid of other settings.
        :raises RunStopped: on Ctrl-C, or on SIGTERM while a model trains; says how to go on.
        """
        cells = self.cells()
        open_grid(self.out, self._shared)
        if (self.out / RESULTS).is_file():  # before hours are spent
            refuse_others(read_grid(self.out / RESULTS).settings, self._shared, self.out / RESULTS)
        left = [cell for cell in cells if not cell.is_finished(self.out)]
        if left:
            with says_how_to_go_on(self.out, "the collection of data"):
                self._collect()
            run_grid(self.out, cells, self._run_cell, after_cell=lambda: self._report(cells))
        return self._report(cells)

    def cells(self) -> list[GridCell]:
        """Every row with its first seed, then with its second, so that a table is there early."""
        return [
            GridCell(name, seed, self._settings_of(variant, seed), self._work(variant))
            for seed in self.seeds
            for name, variant in self.variants.items()
        ]

    # What a cell is -------------------------------------------------------------------------------------------------------

    def _settings_of(self, variant: Variant, seed: int) -> dict[str, Any]:
        row = {**asdict(variant)}
        del row["sentence"]  # words may become better ones
        return {**self._shared, "variant": to_json(row), "seed": seed}

    def _work(self, variant: Variant) -> int:
        episodes = sum(cell.n_episodes or 0 for cell in self._evaluated(variant, seed=0))
        return (self.settings.n_steps if self._trains(variant) else 0) + self._episode_work * episodes

    def _trains(self, variant: Variant) -> bool:
        """Whether its cells train a model, or find it trained by another cell of the grid."""
        return variant.method != CONTROL and variant.trained_as not in self.variants

    def _evaluated(self, variant: Variant, seed: int) -> list[Cell]:
        settings, unseen = self.settings, self.settings.unseen_tasks
        same_goal = not settings.goal_visible
        tasks = (*unseen, *settings.seen_tasks)
        cells = make_cells(tasks, variant.conditions, unseen=unseen, same_goal=same_goal, seed=seed)
        of_others = settings.n_unseen_episodes
        cells = [
            replace(
                cell, n_episodes=settings.n_seen_episodes_under(cell.condition) if cell.seen else of_others
            )
            for cell in cells
        ]
        if TEXT in variant.conditions:  # whoever is measured by its sentence alone can be held to it
            shared = shared_scene_cells(
                settings.train_tasks, goal_visible=settings.goal_visible, unseen=unseen
            )
            cells += [replace(cell, n_episodes=of_others) for cell in shared]
        return cells

    # What happens in it ---------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        settings = self.settings
        shared: dict[str, Any] = {
            "seed": settings.data_seed,
            "n_processes": self.n_processes,
            "root": self.root,
        }
        shared["goal_visible"] = settings.goal_visible
        named = {"goal": settings.goal, "seed": settings.data_seed}
        self._ids = collect(
            settings.train_tasks,
            n_episodes=settings.n_episodes,
            noise=DATA[settings.data],
            episodes_per_goal=1 if settings.goal_visible else EPISODES_PER_GOAL,
            id_format=_DATASETS.format(data=settings.data, n=settings.n_episodes, **named),
            **shared,
        )
        for tasks, n_episodes in (
            (settings.unseen_tasks, settings.n_unseen_episodes),
            (settings.seen_tasks, settings.n_seen_episodes),
        ):
            n_examples = settings.n_examples_of(n_episodes)
            id_format = _EXAMPLES.format(n=n_examples, **named)
            self._examples |= example_episodes(tasks, n_examples, id_format=id_format, **shared)

    def _run_cell(self, cell: GridCell, folder: Path, bar: GridBar) -> None:
        variant = self.variants[cell.variant]
        results = evaluate_tasks(
            self._player(variant, cell, bar),
            self._evaluated(variant, cell.seed),
            examples=self._examples,
            make_env=partial(MetaWorldEnv, goal_visible=self.settings.goal_visible),
            n_envs=max(
                self.settings.n_unseen_episodes, self.settings.n_seen_episodes
            ),  # a call for all costs little more
            max_episode_steps=self.settings.max_episode_steps,
            seed=cell.seed,
            stop_at_success=self.settings.stop_at_success,
            phases=True,
            n_processes=self.n_processes,
            progress_bar=False,
            on_episodes=lambda n: bar.advance(n * self._episode_work),
        )
        write_results(folder / RESULTS, results, cell.settings)

    def _player(self, variant: Variant, cell: GridCell, bar: GridBar) -> LLMDPD | Player:
        if variant.method == CONTROL:
            return CopyPlayer()  # the expert is the environment's own
        if variant.method == PROMPT_DT:
            return self._train_prompt_dt(variant, cell, bar)
        if variant.trained_as is None:
            return self._train(variant, cell, bar)
        model = self._train(make_variant(variant.trained_as), cell, bar)
        for name, value in variant.model.items():
            setattr(model, name, value)
        return model

    def _train(self, variant: Variant, cell: GridCell, bar: GridBar) -> LLMDPD:
        """The model of a row with the cell's seed, trained as far as it is not yet."""
        run, settings = self._run_folder(variant, cell), self.settings
        if run.has_model:
            model = LLMDPD.load(run.model_path, dataset=self.data, device="cpu")
        else:
            model = self._new_model(variant, cell.seed)
        if self._trains(self.variants[cell.variant]):
            bar.skip(model.num_timesteps)
        run.train(model, settings.n_steps, settings.log_interval, progress=StepsOnBar(bar))
        return model

    def _train_prompt_dt(self, variant: Variant, cell: GridCell, bar: GridBar) -> PromptDT:
        """The same for Prompt-DT, which is saved when it is trained and not before."""
        run, settings = self._run_folder(variant, cell), self.settings
        if run.has_model:
            bar.skip(settings.n_steps)
            return PromptDT.load(run.model_path, device="cpu")
        prompting = {name: value for name, value in settings.model.items() if name in _PROMPTING}
        arguments = {"same_goal": not settings.goal_visible, **prompting, **variant.model}
        model = PromptDT(self.data, seed=cell.seed, device="cpu", **arguments)
        model.learn(settings.n_steps, on_step=lambda loss: bar.advance(1))
        model.save(run.model_path)
        return model

    def _run_folder(self, variant: Variant, cell: GridCell) -> RunFolder:
        """The folder of a training, begun or gone on with."""
        run = RunFolder(cell_folder(self.out, variant.name, cell.seed))
        arguments = {
            "command": "benchmark",
            "steps": self.settings.n_steps,
            **self._settings_of(variant, cell.seed),
        }
        del arguments["variant"]["conditions"]  # nothing to the training
        begin_or_go_on(run, arguments)
        return run

    @cached_property
    def data(self) -> OfflineDataset:
        """What all models learn from."""
        return load_minari(self._ids, root=self.root)

    def _new_model(self, variant: Variant, seed: int) -> LLMDPD:
        settings = self.settings
        base = {
            "learning_rate": settings.learning_rate,
            "same_goal": not settings.goal_visible,
            **settings.model,
        }
        arguments = merged(base, variant.model)
        arguments["learning_rate"] = CosineSchedule(arguments["learning_rate"])
        return LLMDPD("MlpPolicy", dataset=self.data, seed=seed, device="cpu", **arguments)

    # What it leaves -------------------------------------------------------------------------------------------------------

    def _report(self, cells: Sequence[GridCell]) -> GridResults:
        rows = {name: to_json(asdict(variant)) for name, variant in self.variants.items()}
        results = gather(self.out, self._shared, rows, cells)
        path = self.out / RESULTS
        if path.is_file():
            results = results.merged(read_grid(path))
        order = [*VARIANTS, *results.variants]
        results = replace(
            results, variants=dict(sorted(results.variants.items(), key=lambda row: order.index(row[0])))
        )
        write_grid(path, results)
        write_report(self.out, results)
        return results
