"""Runs a scripted expert of Meta-World for one episode, exactly as a recipe says."""

from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any
from zlib import crc32

import numpy as np

from sb3_llmdpd.data.episodes import STEPS_AFTER_SUCCESS
from sb3_llmdpd.data.metaworld.envs import HORIZON, MetaWorldEnv, goal_id
from sb3_llmdpd.data.metaworld.tasks import TaskInfo, task_info


@dataclass(frozen=True)
class Recipe:
    """All that decides what a collected data set holds: the same recipe collects the same episodes.

    :param task: name of the task.
    :param n_episodes: episodes, failed ones included.
    :param noise: standard deviations of the Gaussian noise on the expert's actions, in the actions' own units. What is
        executed and recorded is clip(expert + noise, -1, 1). Episode i has ``noise[i % len(noise)]``.
    :param episodes_per_goal: consecutive episodes that share their goal, where the task's goal is separate from its object.
        Else every episode has a scene of its own: the same one twice could be solved by copying.
    :param goal_visible: whether the observations hold the goal.
    :param seed: of all random numbers.
    :param steps_after_success: how many steps of an episode follow its first success; 500 or more record every episode to
        its end.
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
        if self.n_episodes < 1 or self.episodes_per_goal < 1:
            raise ValueError(
                f"`n_episodes` and `episodes_per_goal` must be at least 1, got {self.n_episodes} and {self.episodes_per_goal}"
            )
        if self.n_episodes % self.episodes_per_goal:
            raise ValueError(
                "`n_episodes` must be a multiple of `episodes_per_goal`, so that every goal gets as many,"
                f" got {self.n_episodes} and {self.episodes_per_goal}"
            )
        if not self.noise or not all(np.isfinite(std) and std >= 0 for std in self.noise):
            raise ValueError(
                f"`noise` must be one or several standard deviations of at least 0, got {self.noise}"
            )
        for name in ("seed", "steps_after_success"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)}")

    @property
    def info(self) -> TaskInfo:
        """The task it collects."""
        return task_info(self.task)

    def as_json(self) -> dict[str, Any]:
        """What is written beside the data, and compared when it is collected again."""
        return {
            **asdict(self),
            "noise": list(self.noise),
            "task_texts": list(self.info.texts),
            "metaworld_version": version("metaworld"),
            "mujoco_version": version("mujoco"),
        }

    def episode_seed(self, episode: int) -> int:
        """Seed of one episode, whatever else is collected and by however many processes."""
        return int(
            np.random.SeedSequence([self.seed, crc32(self.task.encode()), episode]).generate_state(1)[0]
        )


@dataclass(frozen=True, eq=False)
class RecordedEpisode:
    """One episode on its way from a collecting process to the writing one.

    :param observations: (T + 1, 39), float32.
    :param actions: (T, 4), float32, in [-1, 1].
    :param rewards: (T,), raw.
    :param successes: (T + 1,), success as the simulator reported it; 0 at the reset.
    :param seed: of the environment and the noise.
    :param noise: standard deviation of the action noise.
    :param goal_id: shared by the episodes of the same goal, see `envs.goal_id`.
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
    """Run the expert once, until as long after its first success as the recipe says, or the step limit.

    :param env: environment of the recipe's task.
    :param recipe: what to collect.
    :param episode: index of the episode in its data set; it decides seed, noise and goal.
    :return: what happened.
    """
    seed, goal_seed = (
        recipe.episode_seed(index) for index in (episode, episode - episode % recipe.episodes_per_goal)
    )
    goal = goal_id(recipe.task, goal_seed)
    observation, _ = env.reset(seed=seed, options=None if seed == goal_seed else {"goal_of": goal})
    std = recipe.noise[episode % len(recipe.noise)]
    rng = np.random.default_rng([seed, 1])  # another stream than the one that the placement came from
    observations, successes = [observation], [0.0]
    actions: list[np.ndarray] = []
    rewards: list[float] = []
    end = HORIZON
    while len(actions) < end:
        action = np.clip(env.expert_action(observation) + std * rng.standard_normal(4), -1.0, 1.0).astype(
            np.float32
        )
        observation, reward, _, _, info = env.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(reward)
        successes.append(info["success"])
        if info["success"] and end == HORIZON:
            end = min(HORIZON, len(actions) + recipe.steps_after_success)
    return RecordedEpisode(
        observations=np.stack(observations),
        actions=np.stack(actions),
        rewards=np.array(rewards, np.float32),
        successes=np.array(successes, np.float32),
        seed=seed,
        noise=std,
        goal_id=goal,
    )
