"""Small episodes and models that the tests share."""

from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.data.episodes import Episode, OfflineDataset
from sb3_llmdpd.replay.buffer import PromptReplayBuffer

TINY_POLICY = dict(
    net_arch=[16],
    text_embedding_dim=8,
    trajectory_embedding_dim=8,
    token_dim=8,
    n_encoder_layers=1,
    n_heads=2,
    prompt_window=4,
)
"""Policy arguments of a model that takes a gradient step in milliseconds."""

T, OBSERVATION, ACTION = 4, 3, 2
"""Steps, and sizes of an observation and an action, of `make_episode`."""


def make_episode(**changes: Any) -> Episode:
    """A sound episode of four steps, but for the changes.

    :param changes: arguments of `Episode`.
    :return: the episode.
    """
    sound = dict(
        observations=np.zeros((T + 1, OBSERVATION)),
        actions=np.zeros((T, ACTION)),
        rewards=np.zeros(T),
        source="logs, episode 7",
    )
    return Episode(**{**sound, **changes})


def make_episodes(
    n_tasks: int = 3,
    n_episodes: int = 4,
    length: int = 20,
    observation_dim: int = 5,
    action_dim: int = 2,
    seed: int = 0,
    texts: bool = True,
) -> list[Episode]:
    """Random episodes of the tasks ``"task-0"``, ``"task-1"``, ..., each with two phrasings of its sentence.

    :param n_tasks: how many tasks.
    :param n_episodes: episodes of each task.
    :param length: steps of an episode.
    :param observation_dim: size of an observation, standard normal.
    :param action_dim: size of an action, uniform in [-1, 1].
    :param seed: of all of it.
    :param texts: whether the tasks have sentences.
    :return: the episodes, task after task.
    """
    rng = np.random.default_rng(seed)
    return [
        Episode(
            rng.standard_normal((length + 1, observation_dim)),
            rng.uniform(-1.0, 1.0, (length, action_dim)),
            rng.standard_normal(length),
            task=f"task-{task}",
            task_texts=(f"do task number {task}", f"please carry out task {task}") if texts else (),
            source=f"task-{task}, episode {episode}",
        )
        for task in range(n_tasks)
        for episode in range(n_episodes)
    ]


def tiny_model(**kwargs: Any) -> LLMDPD:
    """A model that is built and trained in milliseconds.

    :param kwargs: arguments of `LLMDPD` that differ; ``policy_kwargs`` are merged into the tiny ones.
    :return: the model, on the CPU, over `make_episodes` where no other ``dataset`` or ``env`` is given.
    """
    policy_kwargs = {**TINY_POLICY, **kwargs.pop("policy_kwargs", {})}
    defaults = dict(batch_size=24, prompts_per_batch=3, text_encoder="hashing", seed=0, device="cpu")
    if "dataset" not in kwargs and "env" not in kwargs:
        kwargs["dataset"] = make_episodes()
    return LLMDPD(kwargs.pop("policy", "MlpPolicy"), policy_kwargs=policy_kwargs, **{**defaults, **kwargs})


TASK, EPISODE, STEP = 0, 1, 2
"""Columns of a traced observation."""


def traced(task: int, number: int, length: int, **kwargs: Any) -> Episode:
    """An episode whose observation t is (task, number, t), whose action t is (number, t) / 128 and reward number + t / 256.

    Binary fractions, so that comparisons are exact.

    :param task: its task.
    :param number: of the episode, distinct in the data.
    :param length: its steps.
    :param kwargs: the rest of `Episode`.
    :return: the episode.
    """
    steps = np.arange(length + 1)
    observations = np.stack([np.full(length + 1, task), np.full(length + 1, number), steps], axis=1).astype(
        np.float32
    )
    actions = np.stack([np.full(length, number), steps[:-1]], axis=1) / 128.0
    return Episode(
        observations,
        actions,
        number + steps[:-1] / 256.0,
        task=f"task-{task}",
        source=f"task-{task}, episode {number}",
        **kwargs,
    )


def make_buffer(episodes: list[Episode], **kwargs: Any) -> PromptReplayBuffer:
    """A buffer on the CPU with four prompts a batch, windows of three steps, and raw rewards.

    :param episodes: what it holds.
    :param kwargs: arguments of `PromptReplayBuffer` that differ.
    :return: the buffer.
    """
    defaults: dict[str, Any] = dict(prompts_per_batch=4, prompt_window=3, seed=0, reward_scale="none")
    dataset = OfflineDataset.from_episodes(episodes)
    return PromptReplayBuffer(dataset, "cpu", **{**defaults, **kwargs})


def recorded(
    env: gym.Env[Any, Any] | VecEnv | str, n_episodes: int = 2, length: int = 12, seed: int = 0
) -> OfflineDataset:
    """What random actions do in an environment, as data of one task in the environment's own spaces.

    :param env: an environment, its id, or vectorised ones, of which the first is recorded.
    :param n_episodes: how many.
    :param length: steps of each at most.
    :param seed: of environment, observations and actions.
    :return: the data set.
    """
    made = gym.make(env) if isinstance(env, str) else env
    vec_env = made if isinstance(made, VecEnv) else DummyVecEnv([lambda: made])
    vec_env.seed(seed)
    vec_env.action_space.seed(seed)
    vec_env.observation_space.seed(seed)
    episodes = tuple(_record_one(vec_env, length, f"episode {number}") for number in range(n_episodes))
    assert isinstance(vec_env.action_space, gym.spaces.Box)
    return OfflineDataset(episodes, vec_env.observation_space, vec_env.action_space)


def _record_one(env: VecEnv, length: int, source: str) -> Episode:
    observations, actions, rewards = [_first(env.reset())], [], []
    done, info = False, {}
    while len(actions) < length and not done:
        actions.append(env.action_space.sample())
        everyones = np.stack([actions[-1], *(env.action_space.sample() for _ in range(env.num_envs - 1))])
        observation, reward, dones, infos = env.step(everyones)
        done, info = bool(dones[0]), infos[0]
        observations.append(info["terminal_observation"] if done else _first(observation))
        rewards.append(reward[0])
    first = observations[0]
    return Episode(
        {key: np.stack([row[key] for row in observations]) for key in first}
        if isinstance(first, dict)
        else np.stack(observations),
        np.stack(actions),
        np.array(rewards),
        task_texts=("do what the environment rewards",),
        terminated=done and not info["TimeLimit.truncated"],
        source=source,
    )


def _first(observations: Any) -> Any:
    """The first row of vectorised observations."""
    return (
        {key: rows[0] for key, rows in observations.items()}
        if isinstance(observations, dict)
        else observations[0]
    )


def model_of(env: gym.Env[Any, Any] | VecEnv | str, **kwargs: Any) -> LLMDPD:
    """A tiny model of one task, which needs no prompt, with an environment and random data recorded in it.

    :param env: as in `recorded`.
    :param kwargs: arguments of `LLMDPD` that differ.
    :return: the model.
    """
    return tiny_model(
        env=env, **{"dataset": recorded(env), "prompts_per_batch": 1, "batch_size": 8, **kwargs}
    )
