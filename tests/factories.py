"""Small episodes, buffers and models that the tests share, and the comparison of their weights."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import Tensor, equal, nn

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.data.episodes import Episode, OfflineDataset
from sb3_llmdpd.data.npz import write_npz
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
    """Make a sound episode of four steps, with some arguments of `Episode` changed."""
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
    """Make random episodes of the tasks ``"task-0"``, ``"task-1"``, ..., task after task.

    :param n_tasks: number of tasks
    :param n_episodes: episodes of each task
    :param length: steps of an episode
    :param observation_dim: size of an observation, standard normal
    :param action_dim: size of an action, uniform in [-1, 1]
    :param seed: seed of all numbers
    :param texts: give each task two phrasings of its sentence
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


def write_episodes(path: Path, episodes: list[Episode]) -> Path:
    """Write episodes to an npz."""
    data = OfflineDataset.from_episodes(episodes)
    write_npz(path, data.episodes, data.observation_space, data.action_space)
    return path


def with_dicts(episodes: list[Episode]) -> list[Episode]:
    """Put the first two entries of observations under the key ``"a"``, and the others under ``"b"``."""
    return [
        replace(e, observations={"a": e.observations[:, :2], "b": e.observations[:, 2:]}) for e in episodes
    ]


def tiny_model(**kwargs: Any) -> LLMDPD:
    """Make a model that is built and trained in milliseconds on the CPU.

    :param kwargs: arguments of `LLMDPD` that differ; ``policy_kwargs`` are merged into the tiny ones.
        Without ``dataset`` and ``env`` the model learns from `make_episodes`.
    """
    policy_kwargs = {**TINY_POLICY, **kwargs.pop("policy_kwargs", {})}
    defaults = dict(batch_size=24, prompts_per_batch=3, text_encoder="hashing", seed=0, device="cpu")
    if "dataset" not in kwargs and "env" not in kwargs:
        kwargs["dataset"] = make_episodes()
    return LLMDPD(kwargs.pop("policy", "MlpPolicy"), policy_kwargs=policy_kwargs, **{**defaults, **kwargs})


TASK, EPISODE, STEP = 0, 1, 2
"""Columns of a traced observation."""


def traced(task: int, number: int, length: int, **kwargs: Any) -> Episode:
    """Make an episode whose numbers tell their task, episode and step.

    Observation t is (task, number, t), action t is (number, t) / 128 and reward t is number + t / 256: binary
    fractions, so that comparisons are exact.

    :param task: number of the task
    :param number: number of the episode, distinct in the data
    :param length: steps of the episode
    :param kwargs: other arguments of `Episode`
    """
    steps = np.arange(length + 1)
    rows = np.stack(np.broadcast_arrays(task, number, steps), axis=1)
    name = f"task-{task}"
    return Episode(
        rows.astype(np.float32),
        rows[:-1, EPISODE:] / 128.0,
        number + steps[:-1] / 256.0,
        task=name,
        source=f"{name}, episode {number}",
        **kwargs,
    )


def make_buffer(episodes: list[Episode], **kwargs: Any) -> PromptReplayBuffer:
    """Make a buffer on the CPU with four prompts a batch, windows of three steps, and raw rewards.

    :param episodes: episodes of the buffer
    :param kwargs: arguments of `PromptReplayBuffer` that differ
    """
    defaults: dict[str, Any] = dict(prompts_per_batch=4, prompt_window=3, seed=0, reward_scale="none")
    dataset = OfflineDataset.from_episodes(episodes)
    return PromptReplayBuffer(dataset, "cpu", **{**defaults, **kwargs})


def recorded(
    env: gym.Env[Any, Any] | VecEnv | str, n_episodes: int = 2, length: int = 12, seed: int = 0
) -> OfflineDataset:
    """Record random actions in an environment, as data of one task in the environment's own spaces.

    :param env: an environment, its id, or vectorised ones, of which the first is recorded
    :param n_episodes: number of episodes
    :param length: largest number of steps
    :param seed: seed of environment, observations and actions
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
    if isinstance(observations[0], dict):
        rows = {key: np.stack([row[key] for row in observations]) for key in observations[0]}
    else:
        rows = np.stack(observations)
    return Episode(
        rows,
        np.stack(actions),
        np.array(rewards),
        task_texts=("do what the environment rewards",),
        terminated=done and not info["TimeLimit.truncated"],
        source=source,
    )


def _first(observations: Any) -> Any:
    if isinstance(observations, dict):
        return {key: rows[0] for key, rows in observations.items()}
    return observations[0]


def model_of(env: gym.Env[Any, Any] | VecEnv | str, **kwargs: Any) -> LLMDPD:
    """Make a tiny model of one task, which needs no prompt, with random data recorded in an environment.

    :param env: environment as in `recorded`
    :param kwargs: arguments of `LLMDPD` that differ
    """
    defaults = dict(dataset=recorded(env), prompts_per_batch=1, batch_size=8)
    return tiny_model(env=env, **{**defaults, **kwargs})


class At(BaseCallback):
    """Calls a function of the model after one step of a training."""

    def __init__(self, step: int, function: Callable[[Any], object]) -> None:
        super().__init__()
        self.step, self.function = step, function

    def _on_step(self) -> bool:
        if self.num_timesteps == self.step:
            self.function(self.model)
        return True


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Copy the weights and buffers of a module."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def differing(one: nn.Module | Mapping[str, Tensor], other: nn.Module | Mapping[str, Tensor]) -> set[str]:
    """Names of the tensors that differ between two modules or snapshots."""
    first, second = (each.state_dict() if isinstance(each, nn.Module) else each for each in (one, other))
    return {name for name in first if not equal(first[name].cpu(), second[name].cpu())}
