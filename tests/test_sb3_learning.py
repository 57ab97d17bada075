"""Stable-Baselines3's tests of learning, seeds and training mode, asked of LLMDPD."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from factories import differing, model_of, recorded, snapshot
from numpy.testing import assert_array_equal
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, IdentityEnvBox
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn
from toys import ActionEnv

from sb3_llmdpd import LLMDPD


@pytest.mark.slow
@pytest.mark.parametrize("policy_objective", ["diffusion_ql", "action_approximation"])
def test_acting_as_one_sees_is_learned_from_random_data(policy_objective):
    """Answers `test_identity.py::test_continuous`: its threshold of 90 in 100, from data that reach 43."""
    env = IdentityEnvBox(eps=0.5)
    dataset = recorded(env, n_episodes=20, length=100)
    assert np.mean([episode.rewards.sum() for episode in dataset.episodes]) < 50
    arguments = dict(learning_rate=3e-3, gamma=0.95, eta=5.0, tau=0.05, batch_size=64)
    arguments |= dict(policy_objective=policy_objective, policy_kwargs=dict(net_arch=[64, 64]))
    model = model_of(env, dataset=dataset, **arguments).learn(120, log_interval=None)
    envs = DummyVecEnv([lambda: IdentityEnvBox(eps=0.5)] * 20)
    evaluate_policy(model, envs, 20, reward_threshold=90, warn=False)


@pytest.mark.parametrize(
    "arguments",
    [{}, dict(eta=0.0), dict(policy_objective="action_approximation"), dict(critic_objective="expectile")],
    ids=str,
)
@pytest.mark.parametrize("n_envs", [1, 2])
def test_every_variant_learns_beside_any_number_of_environments(arguments, n_envs):
    """Answers `test_run.py`'s test_deterministic_pg, test_sac, test_dqn and test_offpolicy_multi_env."""
    model = model_of(make_vec_env("Pendulum-v1", n_envs=n_envs), **arguments)
    before = snapshot(model.actor)
    model.learn(4)
    assert (model.num_timesteps, model._n_updates) == (4, 4)  # updates alone are counted
    assert any(name.startswith("denoiser") for name in differing(model.actor, before))
    assert all(th.isfinite(tensor).all() for tensor in model.policy.state_dict().values())


@pytest.mark.parametrize("gradient_steps", [0, 1, 3])
def test_a_call_of_train_takes_as_many_gradient_steps_as_it_is_told(gradient_steps):
    """Answers `test_run.py::test_train_freq`, and the end of test_offpolicy_multi_env: `train/n_updates`."""
    model = model_of(ActionEnv()).learn(2)
    before = snapshot(model.policy)
    model.train(gradient_steps=gradient_steps, batch_size=4)
    assert model._n_updates == 2 + gradient_steps
    assert bool(differing(model.policy, before)) == (gradient_steps > 0)


def test_the_shape_of_a_gradient_step_is_saved_and_can_be_changed_at_loading(tmp_path):
    """Answers `test_run.py::test_train_freq`: the file holds its argument, which loading may replace."""
    model = model_of(ActionEnv(), batch_size=8, q_batch_size=4).learn(2)
    model.save(tmp_path / "model.zip")
    parts = dict(env=ActionEnv(), dataset=recorded(ActionEnv()), device="cpu")
    drawn: list[int] = []
    for overrides, sizes in (({}, (8, 4)), (dict(batch_size=6, q_batch_size=2), (6, 2))):
        loaded = LLMDPD.load(tmp_path / "model.zip", **parts, **overrides)
        assert (loaded.batch_size, loaded.q_batch_size) == sizes
        loaded.critic.register_forward_pre_hook(lambda _, inputs: drawn.append(inputs[2].shape[1]))
        assert loaded.learn(1).num_timesteps == 1
    assert drawn == [4, 4, 2, 2]  # in the critic's loss and in the actor's


@pytest.mark.parametrize(
    "arguments",
    [dict(batch_size=0), dict(batch_size="8"), dict(batch_size=8, q_batch_size=9), dict(prompts_per_batch=0)],
    ids=str,
)
def test_a_gradient_step_that_cannot_be_is_refused(arguments):
    """Answers `test_run.py::test_train_freq_fail`."""
    with pytest.raises((ValueError, TypeError)):
        model_of(ActionEnv(), **arguments)


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
def test_the_same_seed_gives_the_same_training_and_the_same_rollout(arguments):
    """Answers `test_deterministic.py::test_deterministic_training_common` for each step, not for sums."""
    seeds = (5, 5, 6)
    models = [model_of(gym.make("Pendulum-v1"), seed=seed, **arguments) for seed in seeds]
    for model, seed in zip(models, seeds, strict=True):
        model.learn(8).get_env().seed(seed)
    (actions, rewards), (same_actions, same_rewards), (other_actions, _) = map(rollout, models)
    assert_array_equal(actions, same_actions)
    assert_array_equal(rewards, same_rewards)
    assert not np.array_equal(actions, other_actions)
    assert len(np.unique(actions)) > 5  # the noise is at work


def test_a_models_seed_seeds_its_environment_too():
    """Answers `test_deterministic.py::test_deterministic_training_common`: `reset` has no seed of its own."""
    envs = [DummyVecEnv([lambda: gym.make("Pendulum-v1")]) for _ in range(3)]
    models = [model_of(env, seed=seed) for env, seed in zip(envs, (3, 3, 4), strict=True)]
    first = [model.get_env().reset() for model in models]
    assert_array_equal(first[0], first[1])
    assert not np.array_equal(first[0], first[2])


def test_the_same_seed_gives_the_same_weights_of_an_image_model():
    """Answers `test_deterministic.py::test_deterministic_training_common` for `CnnPolicy`."""
    env = FakeImageEnv(screen_height=36, screen_width=36, discrete=False)
    kwargs = dict(policy="CnnPolicy", policy_kwargs=dict(features_extractor_kwargs=dict(features_dim=8)))
    one, same, other = (model_of(env, seed=seed, **kwargs).learn(2).policy for seed in (1, 1, 2))
    assert differing(one, same) == set()
    assert differing(one, other)


def test_without_a_seed_two_models_differ():
    """The other side of `test_deterministic.py::test_deterministic_training_common`."""
    one, other = (model_of(gym.make("Pendulum-v1"), seed=None).learn(2) for _ in range(2))
    # Few steps may all be at the same bounds by chance.
    assert not np.array_equal(rollout(one)[0], rollout(other)[0])


class BatchNormDropout(BaseFeaturesExtractor):
    """Behaves otherwise in training than in evaluation, twice."""

    def __init__(self, observation_space: gym.Space[Any]) -> None:
        super().__init__(observation_space, 3)
        self.layers = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(observations)


NORM = "features_extractor.layers.0."


def norm_model(**kwargs: Any) -> LLMDPD:
    policy_kwargs = dict(net_arch=[16, 16], features_extractor_class=BatchNormDropout)
    return model_of(
        gym.make("Pendulum-v1", max_episode_steps=4), policy_kwargs=policy_kwargs, **{"seed": 1, **kwargs}
    )


def test_running_statistics_are_copied_to_the_target_also_where_weights_are_not():
    """Answers `test_train_eval_mode.py`'s tests of td3, sac and dqn with batch norm in training."""
    model = norm_model(learning_rate=1e-2).learn(1)
    model._n_updates, model.ema_decay, model.tau = 10**15, 1.0, 0.0  # weights of the targets stay
    before, target_before = snapshot(model.actor), snapshot(model.actor_target)
    critic_before = snapshot(model.critic_target)
    model.train(gradient_steps=5, batch_size=8)
    after, target_after = snapshot(model.actor), snapshot(model.actor_target)
    for name in ("running_mean", "running_var", "bias"):
        assert not th.isclose(before[NORM + name], after[NORM + name]).any()
        expected = target_before if name == "bias" else after
        assert th.equal(target_after[NORM + name], expected[NORM + name])
    assert differing(model.critic_target, critic_before) == set()


@pytest.mark.parametrize("trained", [False, True])
def test_predictions_repeat_and_move_no_statistics(trained):
    """Answers `test_train_eval_mode.py::test_predict_with_dropout_batch_norm`."""
    model = norm_model()
    if trained:
        model.learn(2)
    before = snapshot(model.policy)
    observation = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    first, _ = model.predict(observation, deterministic=True)
    for _ in range(5):
        assert_array_equal(model.predict(observation, deterministic=True)[0], first)
        assert_array_equal(model.policy.predict(observation, deterministic=True)[0], first)
    assert differing(model.policy, before) == set()


def test_evaluating_on_the_way_moves_no_statistics_and_training_goes_on_in_its_mode():
    """Answers `test_train_eval_mode.py::test_offpolicy_collect_rollout_batch_norm`: acting while training."""
    undisturbed, model, modes = norm_model().learn(4), norm_model(), []
    networks = model.actor, model.critic, model.actor_target, model.critic_target

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            modes.append([network.training for network in networks])
            return True

    env = gym.make("Pendulum-v1", max_episode_steps=4)
    evaluation = EvalCallback(env, eval_freq=1, n_eval_episodes=1, warn=False, verbose=0)
    model.learn(4, callback=[Watch(), evaluation])
    assert modes == [[True, True, False, False]] * 4
    assert differing(model.policy, undisturbed.policy) == set()
