"""Plays blocks of episodes, in this process or in several."""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch as th

from sb3_llmdpd.common.processes import worker_pool
from sb3_llmdpd.evaluation.conditions import Condition
from sb3_llmdpd.evaluation.phases import PhaseWatch
from sb3_llmdpd.evaluation.players import CopyPlayer, ExpertPlayer, Player
from sb3_llmdpd.evaluation.rollouts import Rollout, run_episodes
from sb3_llmdpd.prompts.prompt import Prompt

EnvMaker = Callable[[str], gym.Env[Any, Any]]
"""Makes the environment of a task; picklable, as it travels to the processes."""


@dataclass(frozen=True)
class PlaySettings:
    """What all jobs share.

    :param make_env: makes a task's environment.
    :param max_steps: steps after which an episode ends.
    :param stop_at_success: whether it also ends at its first success.
    :param deterministic: whether the player acts without noise.
    :param phases: whether to watch how far each episode comes.
    """

    make_env: EnvMaker
    max_steps: int
    stop_at_success: bool
    deterministic: bool
    phases: bool


@dataclass(frozen=True)
class Job:
    """Episodes that run in lock step.

    :param task: whose scenes are played.
    :param condition: which says whether the evaluated player acts, or a control.
    :param seeds: of the episodes.
    :param prompts: one for each of them.
    :param goals: of the scenes, one for each; None where the seed decides.
    :param noise_seed: of the player's noise.
    """

    task: str
    condition: Condition
    seeds: tuple[int, ...]
    prompts: tuple[Prompt, ...]
    goals: tuple[str | None, ...]
    noise_seed: int

    @property
    def is_control(self) -> bool:
        """Whether somebody else acts than the evaluated player."""
        return self.condition.expert or self.condition.copy


def play_jobs(
    jobs: Sequence[Job], player: Player, settings: PlaySettings, n_processes: int
) -> Generator[tuple[int, list[Rollout]]]:
    """Play jobs, in no certain order. What comes out does not depend on how many processes play.

    :param jobs: those of one task should stand together: the environments of the last task are kept.
    :param player: who acts.
    :param settings: what the jobs share.
    :param n_processes: 1 plays in this process.
    :return: the number of a job and its episodes, as they come.
    """
    if n_processes == 1:
        with _one_thread(), closing(_Stage(player, settings)) as stage:
            for number, job in enumerate(jobs):
                yield number, stage.play(job)
        return
    with worker_pool(n_processes, _set_stage, player, settings) as pool:
        futures = {pool.submit(_play, job): number for number, job in enumerate(jobs)}
        for future in as_completed(futures):
            yield futures[future], future.result()


class _Stage:
    """Where one job is played after the other."""

    def __init__(self, player: Player, settings: PlaySettings) -> None:
        self.player = player
        self.settings = settings
        self.task = ""
        self.envs: list[gym.Env[Any, Any]] = []

    def play(self, job: Job) -> list[Rollout]:
        if job.task != self.task:
            self.close()
            self.task = job.task
        settings = self.settings
        self.envs += [settings.make_env(job.task) for _ in range(len(job.seeds) - len(self.envs))]
        player = self._player(job.condition)
        act = player.make_act(job.prompts, noise_seed=job.noise_seed, deterministic=settings.deterministic)
        return run_episodes(
            self.envs,
            act,
            job.seeds,
            max_steps=settings.max_steps,
            stop_at_success=settings.stop_at_success,
            goals=job.goals,
            watch=PhaseWatch(len(job.seeds)) if settings.phases else None,
        )

    def _player(self, condition: Condition) -> Player:
        if condition.expert:
            return ExpertPlayer(self.envs)
        return CopyPlayer() if condition.copy else self.player

    def close(self) -> None:
        for env in self.envs:
            env.close()
        self.envs = []


_stage: _Stage
"""Of a worker process."""


def _set_stage(player: Player, settings: PlaySettings) -> None:
    global _stage
    th.set_num_threads(1)
    _stage = _Stage(player, settings)


def _play(job: Job) -> list[Rollout]:
    return _stage.play(job)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Such small batches are slower on several, and the order of sums, which decides the last bits, must not vary."""
    before = th.get_num_threads()
    th.set_num_threads(1)
    try:
        yield
    finally:
        th.set_num_threads(before)
