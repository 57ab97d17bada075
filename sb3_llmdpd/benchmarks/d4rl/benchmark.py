"""The experiment on D4RL's locomotion: a training for each data set, variant and seed, evaluated often."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zlib import crc32

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.utils import get_device

from sb3_llmdpd.benchmarks.common.ownership import owned
from sb3_llmdpd.benchmarks.common.results import hardware_here
from sb3_llmdpd.benchmarks.common.trainings import (
    StepsOnBar,
    TrainingsBar,
    open_folder,
    open_run,
    run_trainings,
    says_how_to_go_on,
)
from sb3_llmdpd.benchmarks.common.variants import Variant, merged
from sb3_llmdpd.benchmarks.d4rl.data import DatasetInfo, best_episode, describe, make_env, read_data
from sb3_llmdpd.benchmarks.d4rl.report import d4rl_report
from sb3_llmdpd.benchmarks.d4rl.results import D4RLResults, D4RLTraining, Point, read_d4rl, write_d4rl
from sb3_llmdpd.benchmarks.d4rl.settings import D4RLSettings, label_of, shows_a_prompt
from sb3_llmdpd.checkpoint.values import to_json
from sb3_llmdpd.data.episodes import OfflineDataset
from sb3_llmdpd.evaluation.players import ModelPlayer
from sb3_llmdpd.evaluation.results import D4RL, RESULTS, versions
from sb3_llmdpd.evaluation.rollouts import run_episodes
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.llmdpd.saving import OPTIMIZERS
from sb3_llmdpd.prompts.prompt import Prompt

BEST = "best.zip"
"""File of the model with the best evaluation so far, without the state of its optimisers."""

_EVALUATION = crc32(b"d4rl evaluation")
"""Keeps the seeds of evaluation apart from all others."""

_HORIZON = 1_000
"""Steps of an evaluated episode in an environment that has no limit of its own."""


class D4RLBenchmark:
    """The trainings of the benchmark, and what happens in one.

    :param out: folder of everything that it makes.
    :param settings: settings that the trainings share.
    :param names: names of the data sets' sources, see `sb3_llmdpd.data.loading.format_of`.
    :param variants: some of `D4RL_VARIANTS`.
    :param seeds: seeds of each variant on each data set.
    :param env_id: environment that evaluates; by default that of each data set's robot.
    :param root: folder of Minari data sets, by default Minari's own.
    :param device: device of the models.
    :raises ValueError: without a data set, or when two would have the same label.
    """

    def __init__(
        self,
        out: Path,
        settings: D4RLSettings,
        names: Sequence[str],
        variants: Sequence[Variant],
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
                "data sets are told apart by the names of their files, of which there must be one at least"
                f" and no two alike; got {list(names)}: leave out what comes twice, or rename a file"
            )
        self.variants = {variant.name: variant for variant in variants}
        self.seeds = tuple(seeds)
        self.env_id = env_id
        self.root = root
        self.device = device
        self.datasets: dict[str, DatasetInfo] = {}
        self._shared: dict[str, Any] = to_json({"benchmark": D4RL, **asdict(settings)})
        self._loaded: tuple[str, OfflineDataset] | None = None

    def run(self) -> D4RLResults:
        """Train and evaluate what is not done yet, and write the results and the report.

        :raises ValueError: when a data set is not there or does not fit, or the folder has other settings or
            another process works there.
        :raises RunStopped: on Ctrl-C, or on SIGTERM while a model trains; says how to go on.
        """
        with says_how_to_go_on(self.out, "the reading of data"):
            for label, name in self.names.items():  # what is missing shall be known before hours are spent
                self.datasets[label] = describe(name, self._data(label), self.env_id, self.root)
        with owned(self.out):
            open_folder(self.out, self._shared)
            self._gather([])  # refuses other data sets under the same labels
            trainings = self.trainings()
            run_trainings(self.out, trainings, self._run, after_each=lambda: self._report(trainings))
            return self._report(trainings)

    def trainings(self) -> list[D4RLTraining]:
        """List every variant on every described data set with its first seed, then with its second."""
        return [
            D4RLTraining(
                name, seed, self._settings_of(label, variant, seed), self.settings.n_steps, dataset=label
            )
            for seed in self.seeds
            for label in self.datasets
            for name, variant in self.variants.items()
        ]

    def _data(self, label: str) -> OfflineDataset:
        """Read the episodes of a data set; only those read last are in memory."""
        if self._loaded is None or self._loaded[0] != label:
            self._loaded = None
            self._loaded = label, read_data(self.names[label], self.root)
        return self._loaded[1]

    def _settings_of(self, label: str, variant: Variant, seed: int) -> dict[str, Any]:
        changes = {"name": variant.name, "model": to_json(variant.model), "prompt": shows_a_prompt(variant)}
        deciding = self.datasets[label].deciding
        return {**self._shared, "dataset": label, **deciding, "row": changes, "seed": seed}

    def _run(self, training: D4RLTraining, folder: Path, bar: TrainingsBar) -> None:
        data, info = self._data(training.dataset), self.datasets[training.dataset]
        run = open_run(folder, self.settings.n_steps, training.settings)
        if run.has_model:
            model = LLMDPD.load(run.model_path, dataset=data, device=self.device, trust_encoder=True)
        else:
            of_dataset = merged(self.settings.model, info.model)
            arguments = merged(of_dataset, self.variants[training.variant].model)
            model = LLMDPD("MlpPolicy", dataset=data, seed=training.seed, device=self.device, **arguments)
        bar.skip(model.num_timesteps)
        envs = [make_env(info.env_id) for _ in range(self.settings.n_eval_episodes)]
        try:
            evaluation = _Evaluation(self.out, training, lambda acts: self._play(acts, training, envs, data))
            progress = CallbackList([StepsOnBar(bar), evaluation])
            run.train(model, self.settings.n_steps, self.settings.log_interval, progress=progress)
        finally:
            for env in envs:
                env.close()
        training.finish(self.out)

    def _play(
        self, model: LLMDPD, training: D4RLTraining, envs: Sequence[gym.Env[Any, Any]], data: OfflineDataset
    ) -> tuple[float, ...]:
        """Measure returns; the averaged actor acts with its noise, as Diffusion-QL's does in evaluation."""

        def draw(*entropy: int) -> int:
            return int(np.random.SeedSequence([_EVALUATION, training.seed, *entropy]).generate_state(1)[0])

        prompt = Prompt()
        if shows_a_prompt(self.variants[training.variant]):
            prompt = Prompt(self.datasets[training.dataset].sentence, best_episode(data))
        n, spec = len(envs), envs[0].spec
        limit = None if spec is None else spec.max_episode_steps
        max_steps = self.settings.max_episode_steps or limit or _HORIZON
        act = ModelPlayer(model).make_act([prompt] * n, noise_seed=draw(0), deterministic=False)
        rollouts = run_episodes(envs, act, [draw(1, episode) for episode in range(n)], max_steps=max_steps)
        return tuple(rollout.total_reward for rollout in rollouts)

    def _gather(self, trainings: Sequence[D4RLTraining]) -> D4RLResults:
        """Read the results of the finished trainings, and keep those of an earlier call."""
        path, sentences = self.out / RESULTS, {name: each.sentence for name, each in self.variants.items()}
        hardware = {**hardware_here(), "device": _device_name(self.device)}
        finished = [training for training in trainings if training.is_finished(self.out)]
        points = tuple(point for training in finished for point in training.points(self.out))
        results = D4RLResults(self._shared, sentences, hardware, versions(), self.datasets, points)
        return results.merged(read_d4rl(path), path) if path.is_file() else results

    def _report(self, trainings: Sequence[D4RLTraining]) -> D4RLResults:
        results = self._gather(trainings)
        write_d4rl(self.out / RESULTS, results)
        d4rl_report(results).write(self.out)
        return results


class _Evaluation(BaseCallback):
    """Plays at every evaluation's step, and keeps the returns, and the model of the best evaluation.

    It stands before the callback that saves the latest model: a step that was saved has been evaluated.
    """

    def __init__(
        self, out: Path, training: D4RLTraining, play: Callable[[LLMDPD], tuple[float, ...]]
    ) -> None:
        super().__init__()
        self.out, self.training, self.play = out, training, play

    def _on_step(self) -> bool:
        step, training = self.num_timesteps, self.training
        if step % training.settings["eval_freq"] == 0 or step == training.settings["n_steps"]:
            assert isinstance(self.model, LLMDPD)  # as `_run` makes it
            # Later ones are those of a training that was killed; their steps come again.
            earlier = [point for point in training.points(self.out) if point.step < step]
            point = Point(training.dataset, training.variant, training.seed, step, self.play(self.model))
            if all(point.mean > other.mean for other in earlier):
                self.model.save(training.folder(self.out) / BEST, exclude=OPTIMIZERS)
            training.write_points(self.out, [*earlier, point])
        return True


def _device_name(device: str) -> str:
    """Name the GPU that torch means by a device or ``"auto"``; ``"cpu"`` where there is none."""
    found = get_device(device)
    return th.cuda.get_device_name(found) if found.type == "cuda" else str(found)
