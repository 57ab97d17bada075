"""Plays blocks of episodes with a model, in this process or in several."""

import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th

from sb3_llmdpd.evaluation.rollouts import Act, Rollout, run_episodes
from sb3_llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.processes import worker_pool
from sb3_llmdpd.prompts.prompt import Prompt
from sb3_llmdpd.saving import OPTIMIZERS

EnvMaker = Callable[[str], gym.Env[Any, Any]]
"""Makes the environment of a task; picklable, as it travels to the processes."""


@dataclass(frozen=True)
class PlaySettings:
    """What all jobs share.

    :param make_env: makes a task's environment.
    :param max_steps: steps after which an episode ends.
    :param stop_at_success: whether it also ends at its first success.
    :param deterministic: whether the policy acts without noise.
    """

    make_env: EnvMaker
    max_steps: int
    stop_at_success: bool
    deterministic: bool


@dataclass(frozen=True)
class Job:
    """Episodes that run in lock step.

    :param task: whose scenes are played.
    :param seeds: of the episodes.
    :param prompts: one for each of them; None lets the environment's expert act.
    :param noise_seed: of the policy's noise.
    """

    task: str
    seeds: tuple[int, ...]
    prompts: tuple[Prompt, ...] | None
    noise_seed: int


def play_jobs(
    jobs: Sequence[Job], model: LLMDPD, settings: PlaySettings, n_processes: int
) -> Generator[tuple[int, list[Rollout]]]:
    """Play jobs, in no certain order. What comes out does not depend on how many processes play.

    :param jobs: those of one task should stand together: the environments of the last task are kept.
    :param model: which acts; on the CPU where there are several processes.
    :param settings: what the jobs share.
    :param n_processes: 1 plays in this process.
    :return: the number of a job and its episodes, as they come.
    """
    if n_processes == 1:
        with _one_thread(), _same_noise_afterwards(model):
            player = _Player(model, settings)
            try:
                for number, job in enumerate(jobs):
                    yield number, player.play(job)
            finally:
                player.close()
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.zip")
        model.save(path, exclude=OPTIMIZERS)
        with worker_pool(n_processes, _start_player, path, settings) as pool:
            futures = {pool.submit(_play, job): number for number, job in enumerate(jobs)}
            for future in as_completed(futures):
                yield futures[future], future.result()


class _Player:
    """Plays one job after the other."""

    def __init__(self, model: LLMDPD, settings: PlaySettings) -> None:
        self.model = model
        self.settings = settings
        self.task = ""
        self.envs: list[gym.Env[Any, Any]] = []

    def play(self, job: Job) -> list[Rollout]:
        if job.task != self.task:
            self.close()
            self.task = job.task
        self.envs += [self.settings.make_env(job.task) for _ in range(len(job.seeds) - len(self.envs))]
        act = self._expert if job.prompts is None else self._policy(job.prompts, job.noise_seed)
        return run_episodes(
            self.envs, act, job.seeds, max_steps=self.settings.max_steps, stop_at_success=self.settings.stop_at_success
        )

    def close(self) -> None:
        for env in self.envs:
            env.close()
        self.envs = []

    def _policy(self, prompts: Sequence[Prompt], noise_seed: int) -> Act:
        self.model.action_generator.manual_seed(noise_seed)

        def act(observations: Any, rows: Sequence[int]) -> np.ndarray:
            shown = [prompts[row] for row in rows]
            return self.model.predict(observations, deterministic=self.settings.deterministic, prompt=shown)[0]

        return act

    def _expert(self, observations: Any, rows: Sequence[int]) -> np.ndarray:
        experts = [self.envs[row].get_wrapper_attr("expert_action") for row in rows]
        return np.stack([expert(observation) for expert, observation in zip(experts, observations, strict=True)])


_player: _Player
"""Of a worker process."""


def _start_player(path: Path, settings: PlaySettings) -> None:
    global _player
    th.set_num_threads(1)
    _player = _Player(LLMDPD.load(path, device="cpu"), settings)


def _play(job: Job) -> list[Rollout]:
    return _player.play(job)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Such small batches are slower on several, and the order of sums, which decides the last bits, must not vary."""
    before = th.get_num_threads()
    th.set_num_threads(1)
    try:
        yield
    finally:
        th.set_num_threads(before)


@contextmanager
def _same_noise_afterwards(model: LLMDPD) -> Iterator[None]:
    before = model.action_generator.get_state()
    try:
        yield
    finally:
        model.action_generator.set_state(before)
