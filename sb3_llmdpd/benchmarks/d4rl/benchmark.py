"""The experiment on D4RL's locomotion: one training for each data set, row and seed, evaluated again and again."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zlib import crc32

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from sb3_llmdpd.benchmarks.common.grid import (
    RESULTS,
    GridBar,
    GridCell,
    StepsOnBar,
    begin_or_go_on,
    open_grid,
    refuse_others,
    run_grid,
    says_how_to_go_on,
)
from sb3_llmdpd.benchmarks.common.run_folder import RunFolder
from sb3_llmdpd.benchmarks.common.variants import Variant, merged
from sb3_llmdpd.benchmarks.d4rl.data import DatasetInfo, best_episode, describe, make_env, read_data
from sb3_llmdpd.benchmarks.d4rl.report import write_d4rl_report
from sb3_llmdpd.benchmarks.d4rl.results import (
    BENCHMARK,
    D4RLCell,
    D4RLResults,
    Point,
    device_name,
    gather_d4rl,
    read_d4rl,
    write_d4rl,
)
from sb3_llmdpd.benchmarks.d4rl.settings import D4RLSettings, label_of, shows_a_prompt
from sb3_llmdpd.checkpoint.values import to_json
from sb3_llmdpd.data.episodes import OfflineDataset
from sb3_llmdpd.evaluation.players import ModelPlayer
from sb3_llmdpd.evaluation.rollouts import run_episodes
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.llmdpd.saving import OPTIMIZERS
from sb3_llmdpd.prompts.prompt import Prompt

BEST = "best.zip"
"""The model of the best evaluation so far, beside the latest one; without the state of its optimisers."""

_EVALUATION = crc32(b"d4rl evaluation")
"""Keeps the seeds of evaluation apart from all others."""

_HORIZON = 1_000
"""Steps of an evaluated episode in an environment that has no limit of its own."""


class D4RLBenchmark:
    """The trainings of the benchmark, and what happens in one.

    :param out: folder of everything that it makes.
    :param settings: what the trainings share.
    :param names: of the data sets' sources, see `sb3_llmdpd.data.loading.format_of`.
    :param rows: of `ROWS`.
    :param seeds: of each row on each data set.
    :param env_id: of the environment that evaluates; by default that of each data set's robot.
    :param root: folder of Minari data sets, by default Minari's own.
    :param device: of the models.
    :raises ValueError: without a data set, or when two would have the same label.
    """

    def __init__(
        self,
        out: Path,
        settings: D4RLSettings,
        names: Sequence[str],
        rows: Sequence[Variant],
        seeds: Sequence[int],
        env_id: str | None = None,
        root: Path | None = None,
        device: str = "auto",
    ) -> None:
        self.out = out
        self.settings = settings
        self.names = {label_of(name): name for name in names}
        if not names or len(self.names) < len(names):
            raise ValueError(
                f"data sets are told apart by the names of their files, of which there must be one at least and no two alike;"
                f" got {list(names)}: leave out what comes twice, or rename a file"
            )
        self.rows = {row.name: row for row in rows}
        self.seeds = tuple(seeds)
        self.env_id = env_id
        self.root = root
        self.device = device
        self.datasets: dict[str, DatasetInfo] = {}
        self._shared: dict[str, Any] = to_json({"benchmark": BENCHMARK, **asdict(settings)})
        self._loaded: tuple[str, OfflineDataset] | None = None

    def run(self) -> D4RLResults:
        """Train and evaluate what is not done yet, and write ``results.json``, ``report.md`` and ``learning.png``.

        :return: the results.
        :raises ValueError: when a data set is not there or does not fit, or the folder has a benchmark of other settings.
        :raises RunStopped: on Ctrl-C, or on SIGTERM while a model trains; says how to go on.
        """
        with says_how_to_go_on(self.out, "the reading of data"):
            self._describe()  # all of them: what is missing shall be known before hours are spent
        open_grid(self.out, self._shared)
        if (self.out / RESULTS).is_file():
            read = read_d4rl(self.out / RESULTS)
            refuse_others(read.settings, self._shared, self.out / RESULTS)
            self._gather([]).merged(
                read, self.out / RESULTS
            )  # refuses data sets that are others under the same label
        cells = self.cells()
        run_grid(self.out, cells, self._run_cell, after_cell=lambda: self._report(cells))
        return self._report(cells)

    def cells(self) -> list[D4RLCell]:
        """Every row on every data set with its first seed, then with its second, so that a table is there early.

        :return: the trainings, once the data sets are described.
        """
        return [
            D4RLCell(
                variant=f"{name} on {label}",
                seed=seed,
                settings=self._settings_of(label, row, seed),
                work=self.settings.n_steps,
                dataset=label,
                row=name,
            )
            for seed in self.seeds
            for label in self.datasets
            for name, row in self.rows.items()
        ]

    # What a training is ---------------------------------------------------------------------------------------------------

    def _describe(self) -> None:
        for label, name in self.names.items():
            self.datasets[label] = describe(name, self._data(label), self.env_id, self.root)

    def _data(self, label: str) -> OfflineDataset:
        """The episodes of a data set, of which only those read last are in memory."""
        if self._loaded is None or self._loaded[0] != label:
            self._loaded = None
            self._loaded = label, read_data(self.names[label], self.root)
        return self._loaded[1]

    def _settings_of(self, label: str, row: Variant, seed: int) -> dict[str, Any]:
        changes = {"name": row.name, "model": to_json(row.model), "prompt": shows_a_prompt(row)}
        return {
            **self._shared,
            "dataset": label,
            **self.datasets[label].deciding,
            "row": changes,
            "seed": seed,
        }

    def _model_arguments(self, label: str, row: Variant) -> dict[str, Any]:
        of_dataset = merged(self.settings.model, self.datasets[label].model)
        return merged(of_dataset, row.model)

    # What happens in it ---------------------------------------------------------------------------------------------------

    def _run_cell(self, cell: GridCell, folder: Path, bar: GridBar) -> None:
        assert isinstance(cell, D4RLCell)  # as `cells` makes them
        data, run = self._data(cell.dataset), self._run_folder(cell, folder)
        if run.has_model:
            model = LLMDPD.load(run.model_path, dataset=data, device=self.device)
        else:
            arguments = self._model_arguments(cell.dataset, self.rows[cell.row])
            model = LLMDPD("MlpPolicy", dataset=data, seed=cell.seed, device=self.device, **arguments)
        bar.skip(model.num_timesteps)
        envs = [make_env(self.datasets[cell.dataset].env_id) for _ in range(self.settings.n_eval_episodes)]
        try:
            evaluation = _Evaluation(self.out, cell, lambda acts: self._play(acts, cell, envs, data))
            progress = CallbackList([StepsOnBar(bar), evaluation])
            run.train(model, self.settings.n_steps, self.settings.log_interval, progress=progress)
        finally:
            for env in envs:
                env.close()
        cell.finish(self.out)

    def _run_folder(self, cell: D4RLCell, folder: Path) -> RunFolder:
        """The folder of a training, begun or gone on with."""
        run = RunFolder(folder)
        begin_or_go_on(run, {"command": "benchmark", "steps": self.settings.n_steps, **cell.settings})
        return run

    def _play(
        self, model: LLMDPD, cell: D4RLCell, envs: Sequence[gym.Env[Any, Any]], data: OfflineDataset
    ) -> tuple[float, ...]:
        """Returns of one evaluation: the averaged actor acts, with its noise, as Diffusion-QL's does in evaluation."""

        def draw(*entropy: int) -> int:
            return int(np.random.SeedSequence([_EVALUATION, cell.seed, *entropy]).generate_state(1)[0])

        prompt = Prompt()
        if shows_a_prompt(self.rows[cell.row]):
            prompt = Prompt(self.datasets[cell.dataset].sentence, best_episode(data))
        n = len(envs)
        spec = envs[0].spec
        limit = None if spec is None else spec.max_episode_steps
        act = ModelPlayer(model).make_act([prompt] * n, noise_seed=draw(0), deterministic=False)
        seeds = [draw(1, episode) for episode in range(n)]
        rollouts = run_episodes(
            envs, act, seeds, max_steps=self.settings.max_episode_steps or limit or _HORIZON
        )
        return tuple(rollout.total_reward for rollout in rollouts)

    # What it leaves -------------------------------------------------------------------------------------------------------

    def _gather(self, cells: Sequence[D4RLCell]) -> D4RLResults:
        sentences = {name: row.sentence for name, row in self.rows.items()}
        return gather_d4rl(self.out, self._shared, self.datasets, sentences, cells, device_name(self.device))

    def _report(self, cells: Sequence[D4RLCell]) -> D4RLResults:
        results, path = self._gather(cells), self.out / RESULTS
        if path.is_file():
            results = results.merged(read_d4rl(path), path)
        write_d4rl(path, results)
        write_d4rl_report(self.out, results)
        return results


class _Evaluation(BaseCallback):
    """Plays at every evaluation's step, and keeps what came of it, and the model of the best evaluation.

    It stands before whatever saves the latest model: where that has taken a step, the step has been evaluated.

    :param out: folder of the benchmark.
    :param cell: the training.
    :param play: from a model to the returns of its episodes.
    """

    def __init__(self, out: Path, cell: D4RLCell, play: Callable[[LLMDPD], tuple[float, ...]]) -> None:
        super().__init__()
        self.out, self.cell, self.play = out, cell, play

    def _on_step(self) -> bool:
        step, settings = self.num_timesteps, self.cell.settings
        if step % settings["eval_freq"] == 0 or step == settings["n_steps"]:
            assert isinstance(self.model, LLMDPD)  # as `_run_cell` makes it
            # Later ones are those of a training that was killed; their steps come again.
            earlier = [point for point in self.cell.points(self.out) if point.step < step]
            point = Point(self.cell.dataset, self.cell.row, self.cell.seed, step, self.play(self.model))
            if all(point.mean > other.mean for other in earlier):
                self.model.save(self.cell.folder(self.out) / BEST, exclude=OPTIMIZERS)
            self.cell.write_points(self.out, [*earlier, point])
        return True
