"""Plays blocks of episodes, in this process or in several."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import as_completed
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch as th

from sb3_llmdpd.common.processes import worker_pool
from sb3_llmdpd.common.threads import one_thread
from sb3_llmdpd.evaluation.conditions import Condition
from sb3_llmdpd.evaluation.phases import PhaseWatch
from sb3_llmdpd.evaluation.players import CopyPlayer, ExpertPlayer, Player
from sb3_llmdpd.evaluation.rollouts import Rollout, run_episodes
from sb3_llmdpd.prompts.prompt import Prompt

EnvMaker = Callable[[str], gym.Env[Any, Any]]
"""Makes the environment of a task; picklable, as it travels to the processes."""


@dataclass(frozen=True)
class PlaySettings:
    """Settings that all blocks share, as in `evaluate_tasks`."""

    make_env: EnvMaker
    max_steps: int
    stop_at_success: bool
    deterministic: bool
    phases: bool


@dataclass(frozen=True)
class Block:
    """Episodes of one cell that run in lock step.

    :param task: task whose scenes are played.
    :param condition: decides who acts: the evaluated player or a control.
    :param seeds: seeds of the episodes.
    :param prompts: one for each episode.
    :param goals: goals of the scenes, one for each; None where the seed decides.
    :param noise_seed: seed of the player's noise.
    """

    task: str
    condition: Condition
    seeds: tuple[int, ...]
    prompts: tuple[Prompt, ...]
    goals: tuple[str | None, ...]
    noise_seed: int

    @property
    def is_control(self) -> bool:
        """True where somebody else acts than the evaluated player."""
        return self.condition.expert or self.condition.copy


def play_blocks(
    blocks: Sequence[Block], player: Player, settings: PlaySettings, n_processes: int
) -> Generator[tuple[int, list[Rollout]]]:
    """Play blocks in any order, and yield the number and the episodes of each as they come.

    Episodes do not depend on the number of processes; 1 plays in this one. The environments of the last task
    are kept, so that the blocks of a task should stand side by side.
    """
    if n_processes == 1:
        # So that the order of sums does not vary, either.
        with one_thread(), closing(_BlockRunner(player, settings)) as runner:
            for number, block in enumerate(blocks):
                yield number, runner.play(block)
        return
    with worker_pool(n_processes, _make_runner, player, settings) as pool:
        futures = {pool.submit(_play, block): number for number, block in enumerate(blocks)}
        for future in as_completed(futures):
            yield futures[future], future.result()


class _BlockRunner:
    """Plays one block after the other, and keeps the environments of the last task."""

    def __init__(self, player: Player, settings: PlaySettings) -> None:
        self.player = player
        self.settings = settings
        self.task = ""
        self.envs: list[gym.Env[Any, Any]] = []

    def play(self, block: Block) -> list[Rollout]:
        if block.task != self.task:
            self.close()
            self.task = block.task
        settings, n_episodes = self.settings, len(block.seeds)
        self.envs += [settings.make_env(block.task) for _ in range(n_episodes - len(self.envs))]
        player = self._player(block.condition)
        return run_episodes(
            self.envs,
            player.make_act(block.prompts, noise_seed=block.noise_seed, deterministic=settings.deterministic),
            block.seeds,
            max_steps=settings.max_steps,
            stop_at_success=settings.stop_at_success,
            goals=block.goals,
            watch=PhaseWatch(n_episodes) if settings.phases else None,
        )

    def _player(self, condition: Condition) -> Player:
        if condition.expert:
            return ExpertPlayer(self.envs)
        return CopyPlayer() if condition.copy else self.player

    def close(self) -> None:
        for env in self.envs:
            env.close()
        self.envs = []


_runner: _BlockRunner
"""The runner of a worker process."""


def _make_runner(player: Player, settings: PlaySettings) -> None:
    global _runner
    th.set_num_threads(1)
    _runner = _BlockRunner(player, settings)


def _play(block: Block) -> list[Rollout]:
    return _runner.play(block)
