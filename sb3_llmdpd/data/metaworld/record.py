"""Runs a scripted expert of Meta-World for one episode as a recipe says."""

from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any
from zlib import crc32

import numpy as np

from sb3_llmdpd.data.episodes import STEPS_AFTER_SUCCESS
from sb3_llmdpd.data.metaworld.envs import HORIZON, MetaWorldEnv, goal_id
from sb3_llmdpd.data.metaworld.tasks import task_info


@dataclass(frozen=True)
class Recipe:
    """Full description of a data set to collect: the same recipe collects the same episodes.

    :param task: name of the task.
    :param n_episodes: number of episodes, failed ones included.
    :param noise: standard deviations of the Gaussian noise on the expert's actions, in the actions' own
        units. The executed and recorded action is clip(expert + noise, -1, 1). Episode i has ``noise[i %
        len(noise)]``.
    :param episodes_per_goal: number of consecutive episodes that share a goal, where the task's goal is
        separate from its object. Else every episode has a scene of its own: copying would solve a repeated
        one.
    :param goal_visible: show the goal in the observations.
    :param seed: seed of all random numbers.
    :param steps_after_success: steps of an episode after its first success; 500 or more record all of it.
    :raises ValueError: on numbers that make no data set.
    """

    task: str
    n_episodes: int
    noise: tuple[float, ...]
    episodes_per_goal: int
    goal_visible: bool
    seed: int
    steps_after_success: int = STEPS_AFTER_SUCCESS

    def __post_init__(self) -> None:
        numbers = f"got {self.n_episodes} and {self.episodes_per_goal}"
        if self.n_episodes < 1 or self.episodes_per_goal < 1:
            raise ValueError(f"`n_episodes` and `episodes_per_goal` must be at least 1, {numbers}")
        if self.n_episodes % self.episodes_per_goal:
            reason = "so that every goal gets as many"
            raise ValueError(f"`n_episodes` must be a multiple of `episodes_per_goal`, {reason}, {numbers}")
        if not self.noise or not all(np.isfinite(std) and std >= 0 for std in self.noise):
            stds = "one or several standard deviations of at least 0"
            raise ValueError(f"`noise` must be {stds}, got {self.noise}")
        for name in ("seed", "steps_after_success"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)}")

    def as_json(self) -> dict[str, Any]:
        """Recipe and software as JSON, to write into a data set and to compare with it later."""
        return {
            **asdict(self),
            "noise": list(self.noise),
            "task_texts": list(task_info(self.task).texts),
            "metaworld_version": version("metaworld"),
            "mujoco_version": version("mujoco"),
        }

    def episode_seed(self, episode: int) -> int:
        """Seed of one episode, which depends on nothing else that is collected."""
        entropy = [self.seed, crc32(self.task.encode()), episode]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])


@dataclass(frozen=True, eq=False)
class RecordedEpisode:
    """One episode on its way from a collecting process to the writing one.

    :param observations: (T + 1, 39), float32.
    :param actions: (T, 4), float32, in [-1, 1].
    :param rewards: (T,), raw.
    :param successes: (T + 1,), success as the simulator reported it; 0 at the reset.
    :param seed: seed of the environment and the noise.
    :param noise: standard deviation of the action noise.
    :param goal_id: name of the goal, see `envs.goal_id`.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    successes: np.ndarray
    seed: int
    noise: float
    goal_id: str

    @property
    def first_success(self) -> int:
        """Index of the first action that led to success, -1 when none did."""
        return int(self.successes.argmax()) - 1


def record_episode(env: MetaWorldEnv, recipe: Recipe, episode: int) -> RecordedEpisode:
    """Run the expert once, to as many steps after its first success as the recipe says, or the step limit.

    :param env: environment of the recipe's task.
    :param episode: index of the episode in its data set, which decides seed, noise and goal.
    """
    seed = recipe.episode_seed(episode)
    goal_seed = recipe.episode_seed(episode - episode % recipe.episodes_per_goal)
    goal = goal_id(recipe.task, goal_seed)
    observation, _ = env.reset(seed=seed, options=None if seed == goal_seed else {"goal_of": goal})
    std = recipe.noise[episode % len(recipe.noise)]
    rng = np.random.default_rng([seed, 1])  # another stream than that of the placement
    observations, successes = [observation], [0.0]
    actions: list[np.ndarray] = []
    rewards: list[float] = []
    end = HORIZON
    while len(actions) < end:
        noisy = env.expert_action(observation) + std * rng.standard_normal(4)
        action = np.clip(noisy, -1.0, 1.0).astype(np.float32)
        observation, reward, _, _, info = env.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(reward)
        successes.append(info["success"])
        if info["success"] and end == HORIZON:
            end = min(HORIZON, len(actions) + recipe.steps_after_success)
    return RecordedEpisode(
        np.stack(observations),
        np.stack(actions),
        np.array(rewards, np.float32),
        np.array(successes, np.float32),
        seed,
        noise=std,
        goal_id=goal,
    )
