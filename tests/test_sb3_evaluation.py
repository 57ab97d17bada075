"""Stable-Baselines3's tests of evaluate_policy, asked of LLMDPD; each says which one it answers."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from factories import model_of
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from toys import ActionEnv

from sb3_llmdpd import LLMDPD


@pytest.fixture(scope="module")
def model() -> LLMDPD:
    return model_of(ActionEnv()).learn(2)


@pytest.mark.parametrize("who", ["model", "policy", "prompted view"])
def test_model_and_policy_are_evaluated_over_whole_episodes(who):
    """Answers `test_utils.py::test_evaluate_policy`."""
    n_steps, n_episodes = 12, 2
    model = model_of(gym.make("Pendulum-v1", max_episode_steps=n_steps))
    view = model.prompted("do what the environment rewards")
    predictor = {"model": model, "policy": model.policy, "prompted view": view}[who]
    calls = []

    def look(locals_: dict[str, Any], _globals: dict[str, Any]) -> None:
        assert locals_["model"] is predictor
        assert locals_["new_observations"] is not locals_["observations"]
        calls.append(np.allclose(locals_["new_observations"], locals_["observations"]))

    env = model.get_env()
    returns, lengths = evaluate_policy(predictor, env, n_episodes, callback=look, return_episode_rewards=True)
    assert lengths == [n_steps] * n_episodes
    assert calls == [False] * n_steps * n_episodes
    assert len(returns) == n_episodes
    assert max(returns) < 0  # Pendulum only costs
    with pytest.raises(AssertionError, match="below threshold"):
        evaluate_policy(predictor, env, n_episodes, reward_threshold=0.0)
    with pytest.warns(UserWarning, match="not wrapped with a ``Monitor``"):
        evaluate_policy(predictor, gym.make("Pendulum-v1", max_episode_steps=n_steps), n_episodes)


@pytest.mark.parametrize("n_envs", [1, 2, 5, 7])
@pytest.mark.parametrize("deterministic", [True, False])
def test_as_many_episodes_as_asked_for_are_evaluated_in_any_number_of_environments(
    model, n_envs, deterministic
):
    """Answers `test_utils.py::test_evaluate_vector_env`."""
    done: list[bool] = []
    how = dict(deterministic=deterministic, callback=lambda locals_, _: done.append(locals_["done"]))
    env = make_vec_env(ActionEnv, n_envs)
    returns, _ = evaluate_policy(model, env, 6, return_episode_rewards=True, **how)
    assert (sum(done), len(returns), len(done)) == (6, 6, 18)
    if deterministic:
        action, _ = model.predict(np.full(5, 0.5, np.float32), deterministic=True)
        assert returns == pytest.approx([3 * action[0]] * 6, abs=1e-4)


class AlwaysOne(ActionEnv):
    """The reward is 1 at each of three steps."""

    def step(self, action: np.ndarray) -> Any:
        observation, _, *rest = super().step(action)
        return observation, 1.0, *rest


class NoReward(gym.RewardWrapper):
    def reward(self, reward: Any) -> float:
        return 0.0


class OneStep(gym.Wrapper):
    """Says after each step that the episode ended, and resets when it really did."""

    ended = True

    def step(self, action: Any) -> Any:
        self.observation, reward, terminated, truncated, info = self.env.step(action)
        self.ended = terminated or truncated
        return self.observation, reward, True, truncated, info

    def reset(self, **kwargs: Any) -> Any:
        if not self.ended:
            return self.observation, {}
        self.ended = False
        self.observation, info = self.env.reset(**kwargs)
        return self.observation, info


VECTORISED: dict[str, Callable[[Any], Any]] = {
    "plain": lambda make: make(),
    "DummyVecEnv": lambda make: DummyVecEnv([make] * 2),
    "SubprocVecEnv": lambda make: SubprocVecEnv([make] * 2, start_method="fork"),
}


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("kind", VECTORISED)
@pytest.mark.parametrize(
    ("wrapper", "monitored", "expected"),
    [
        (gym.Wrapper, True, (3.0, 3)),
        (gym.Wrapper, False, (3.0, 3)),
        (NoReward, False, (0.0, 3)),
        (NoReward, True, (3.0, 3)),
        (OneStep, False, (1.0, 1)),
        (OneStep, True, (3.0, 3)),
    ],
)
def test_a_monitor_below_other_wrappers_knows_the_true_return_and_length(
    model, kind, wrapper, monitored, expected
):
    """Answers `test_utils.py::test_evaluate_policy_monitors`."""
    with np.errstate(all="raise"):
        env = VECTORISED[kind](lambda: wrapper(Monitor(AlwaysOne()) if monitored else AlwaysOne()))
        try:
            if not monitored:
                with pytest.warns(UserWarning, match="not wrapped with a ``Monitor``"):
                    evaluate_policy(model, env, 1)
            returns, lengths = evaluate_policy(model, env, 3, return_episode_rewards=True, warn=monitored)
        finally:
            env.close()
    assert list(zip(returns, lengths, strict=True)) == [expected] * 3
