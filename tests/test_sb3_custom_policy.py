"""Stable-Baselines3's tests of policy arguments and of the policy alone; each says which one it answers."""

from typing import Any

import numpy as np
import pytest
import torch as th
from factories import differing, model_of, recorded, snapshot, tiny_model
from gymnasium import spaces
from numpy.testing import assert_allclose, assert_array_equal
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv, IdentityEnvBox
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from toys import SpacesEnv

from sb3_llmdpd import LLMDPD, Prompt
from sb3_llmdpd.llmdpd.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

BOX = spaces.Box(-1, 1, (2,))


def widths(network: th.nn.Module) -> set[int]:
    return {size for parameter in network.parameters() for size in parameter.shape}


def critic_inputs(model: LLMDPD) -> tuple[Any, ...]:
    """Features, prompts and actions of a batch of eight."""
    batch, actor = model.replay_buffer.sample(8), model.actor_target
    features = actor.encode_observations(batch.observations).unsqueeze(0)
    return features, actor.encode_prompts(batch.prompts), batch.actions.unsqueeze(0)


@pytest.mark.parametrize("net_arch", [[], [4], [4, 4], dict(qf=[9], pi=[11, 7])], ids=str)
def test_the_widths_of_the_layers_can_be_chosen(net_arch):
    """Answers `test_custom_policy.py::test_custom_offpolicy`."""
    model = model_of("Pendulum-v1", policy_kwargs=dict(net_arch=net_arch))
    assert model.policy.net_arch == net_arch
    before = snapshot(model.policy)
    model.learn(4)
    assert model.predict(np.zeros((2, 3)))[0].shape == (2, 1)
    learned = {name for name, parameter in model.policy.named_parameters() if parameter.requires_grad}
    assert len(learned & differing(model.policy, before)) > len(learned) / 2


def test_actor_and_critic_can_have_widths_of_their_own():
    """Answers `test_custom_policy.py::test_custom_offpolicy` and `test_flexible_mlp`."""
    policy = model_of("Pendulum-v1", policy_kwargs=dict(net_arch=dict(qf=[9], pi=[11, 7]))).policy
    assert {11, 7} <= widths(policy.actor.denoiser)
    assert 9 not in widths(policy.actor.denoiser)
    assert 9 in widths(policy.critic)
    assert not {11, 7} & widths(policy.critic)


@pytest.mark.parametrize("optimizer_kwargs", [None, dict(weight_decay=0.0)], ids=str)
@pytest.mark.parametrize("optimizer_class", [th.optim.AdamW, RMSpropTFLike])
def test_the_optimiser_can_be_chosen(optimizer_class, optimizer_kwargs):
    """Answers `test_custom_policy.py::test_custom_optimizer` and `test_tf_like_rmsprop_optimizer`.

    Answers `test_dqn_custom_policy`, too.
    """
    policy_kwargs = dict(optimizer_class=optimizer_class, optimizer_kwargs=optimizer_kwargs)
    model = model_of("Pendulum-v1", policy_kwargs=policy_kwargs).learn(3)
    weight_decay = 0.0 if optimizer_kwargs or optimizer_class is RMSpropTFLike else 0.01
    for network in (model.actor, model.critic):
        assert type(network.optimizer) is optimizer_class
        assert network.optimizer.param_groups[0]["weight_decay"] == weight_decay


@pytest.mark.parametrize("n_critics", [1, 3])
def test_there_may_be_any_number_of_critics(n_critics):
    """Answers `test_run.py::test_n_critics`."""
    model = model_of("Pendulum-v1", policy_kwargs=dict(n_critics=n_critics)).learn(3)
    values = model.critic(*critic_inputs(model))
    assert len(values) == model.critic.n_critics == n_critics
    assert len(values.flatten(1).unique(dim=0)) == n_critics


@pytest.mark.parametrize(
    ("name", "policy_class", "env"),
    [
        ("MlpPolicy", MlpPolicy, SpacesEnv(BOX, BOX)),
        ("CnnPolicy", CnnPolicy, FakeImageEnv(screen_height=36, screen_width=36, discrete=False)),
        ("MultiInputPolicy", MultiInputPolicy, BitFlippingEnv(n_bits=2, continuous=True)),
    ],
)
def test_a_policy_has_a_name_and_a_class(name, policy_class, env):
    """Answers `test_dict_env.py::test_goal_env` and what every SB3 test does in its first line."""
    one, other = (model_of(env, policy=policy, seed=3).learn(2).policy for policy in (name, policy_class))
    assert [type(one), type(other)] == [policy_class] * 2
    assert differing(one, other) == set()


def test_an_unknown_name_of_a_policy_is_refused():
    with pytest.raises(ValueError, match="Policy LstmPolicy unknown"):
        LLMDPD("LstmPolicy", SpacesEnv(BOX, BOX))


@pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy"])
@pytest.mark.parametrize("with_data", [False, True], ids=["environment alone", "data alone"])
def test_dict_observations_with_another_policy_are_answered_with_the_right_one(policy, with_data):
    """Answers `test_dict_env.py::test_policy_hint`."""
    env = BitFlippingEnv(n_bits=4, continuous=True)
    with pytest.raises(ValueError, match="You must use `MultiInputPolicy`"):
        tiny_model(dataset=recorded(env), policy=policy) if with_data else LLMDPD(policy, env)


ENVS = {
    "MlpPolicy": lambda: IdentityEnvBox(-10, 10),
    "CnnPolicy": lambda: FakeImageEnv(screen_height=40, screen_width=40, n_channels=2, discrete=False),
}


@pytest.mark.parametrize("policy_name", ENVS)
def test_policy_and_actor_saved_alone_come_back_and_act_the_same(tmp_path, policy_name):
    """Answers `test_save_load.py::test_save_load_policy`; the prompt, no part of a policy, is set again."""
    env = ENVS[policy_name]()
    extractor = dict(features_extractor_kwargs=dict(features_dim=16)) if policy_name == "CnnPolicy" else {}
    model = model_of(env, policy=policy_name, learning_rate=1e-3, policy_kwargs=extractor).learn(3)
    policy, actor = model.policy, model.policy.actor_target
    before = snapshot(policy)
    policy.load_state_dict({name: th.rand_like(tensor) for name, tensor in before.items()})
    changed = snapshot(policy)
    assert not any(th.allclose(tensor, changed[name]) for name, tensor in before.items())

    prompts = model.prompter.batch([Prompt("do what the environment rewards")])
    policy.set_prompts(prompts)
    observations = np.stack([env.observation_space.sample() for _ in range(10)])
    actions, _ = policy.predict(observations, deterministic=True)
    assert_allclose(actor.predict(observations, deterministic=True)[0], actions, rtol=1e-4)

    policy.save(tmp_path / "policy.zip")
    actor.save(tmp_path / "actor.zip")
    loaded = type(policy).load(tmp_path / "policy.zip", "cpu")
    loaded_actor = type(actor).load(tmp_path / "actor.zip", "cpu")
    del model, policy, actor
    assert differing(loaded, changed) == set()
    for predictor in (loaded, loaded_actor):
        predictor.set_prompts(prompts)
        assert_array_equal(predictor.predict(observations, deterministic=True)[0], actions)


def test_the_actors_act_by_themselves_on_the_task_that_is_set():
    """Answers `test_save_load.py::test_save_load_policy`: `actor.predict` is SB3's."""
    model = tiny_model()
    observations = np.zeros((2, 5), np.float32)
    with pytest.raises(ValueError, match="the policy has no prompt"):
        model.actor.predict(observations)
    model.set_task("do task number 1")
    actions, _ = model.predict(observations, deterministic=True)
    for actor in (model.actor, model.actor_target):  # equal before the first step
        assert_allclose(actor.predict(observations, deterministic=True)[0], actions, rtol=1e-5)


def test_a_policy_is_a_function_of_observations_as_sb3s_are():
    """Beyond `test_save_load.py::test_save_load_policy`: exported policies need `policy(observations)`."""
    model = model_of(IdentityEnvBox(-10, 10)).learn(2)
    observations = np.linspace(-10, 10, 6, dtype=np.float32)[:, None]
    with th.no_grad():
        scaled = model.policy(th.as_tensor(observations), deterministic=True)
        noisy = model.policy(th.as_tensor(observations))
    expected, _ = model.predict(observations, deterministic=True)
    assert_allclose(model.policy.unscale_action(scaled.numpy()), expected, rtol=1e-5)
    assert noisy.shape == (6, 1)
    assert not th.equal(noisy, scaled)


def test_a_critic_saved_alone_comes_back_and_values_the_same(tmp_path):
    """Answers `test_save_load.py::test_save_load_q_net`."""
    model = model_of(IdentityEnvBox(-10, 10)).learn(3)
    model.critic.save(tmp_path / "critic.zip")
    loaded = type(model.critic).load(tmp_path / "critic.zip", "cpu")
    inputs = critic_inputs(model)
    assert th.equal(model.critic(*inputs), loaded(*inputs))
