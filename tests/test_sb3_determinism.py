"""Stable-Baselines3's tests that a seed decides everything, asked of LLMDPD; each says which one it answers."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from factories import model_of
from numpy.testing import assert_array_equal
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_llmdpd import LLMDPD


def rollout(model: LLMDPD, n_steps: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """(n_steps, 1, 1) actions with noise, and (n_steps, 1) rewards, from the model's own environment."""
    env = model.get_env()
    observation, steps = env.reset(), []
    for _ in range(n_steps):
        action, _ = model.predict(observation, deterministic=False)
        observation, reward, _, _ = env.step(action)
        steps.append((action, reward))
    actions, rewards = zip(*steps, strict=True)
    return np.array(actions), np.array(rewards)


@pytest.mark.parametrize(
    "arguments", [{}, dict(eta=0.0), dict(n_candidates=3, candidate_temperature=1.0)], ids=str
)
def test_the_same_seed_gives_the_same_training_and_the_same_rollout(arguments: dict[str, Any]) -> None:
    """Answers `test_deterministic.py::test_deterministic_training_common`; we ask for equality of each step, not of sums."""
    seeds = (5, 5, 6)
    models = [model_of(gym.make("Pendulum-v1"), seed=seed, **arguments) for seed in seeds]
    for model, seed in zip(models, seeds, strict=True):
        model.learn(8)
        model.get_env().seed(seed)
    (actions, rewards), (same_actions, same_rewards), (other_actions, _) = (
        rollout(model) for model in models
    )
    assert_array_equal(actions, same_actions)
    assert_array_equal(rewards, same_rewards)
    assert not np.array_equal(actions, other_actions)
    assert len(np.unique(actions)) > 5  # the noise is at work


def test_a_models_seed_seeds_its_environment_too() -> None:
    """Answers `test_deterministic.py::test_deterministic_training_common`: its `reset` has no seed of its own."""
    first = [
        model_of(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), seed=seed).get_env().reset()
        for seed in (3, 3, 4)
    ]
    assert_array_equal(first[0], first[1])
    assert not np.array_equal(first[0], first[2])


def test_the_same_seed_gives_the_same_weights_of_an_image_model() -> None:
    """Answers `test_deterministic.py::test_deterministic_training_common` for `CnnPolicy`."""
    env = FakeImageEnv(screen_height=36, screen_width=36, discrete=False)
    kwargs = dict(policy="CnnPolicy", policy_kwargs=dict(features_extractor_kwargs=dict(features_dim=8)))
    states = [model_of(env, seed=seed, **kwargs).learn(2).policy.state_dict() for seed in (1, 1, 2)]
    assert [name for name in states[0] if not th.equal(states[0][name], states[1][name])] == []
    assert [name for name in states[0] if not th.equal(states[0][name], states[2][name])] != []


def test_without_a_seed_two_models_differ() -> None:
    """The other side of `test_deterministic.py::test_deterministic_training_common`."""
    one, other = (model_of(gym.make("Pendulum-v1"), seed=None).learn(2) for _ in range(2))
    # Of few steps all may be at the same bounds by chance.
    assert not np.array_equal(rollout(one)[0], rollout(other)[0])
