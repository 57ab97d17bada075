"""The expectile critic: its losses by hand, whom they move, V's expectile, and its place in a model file."""

import io
from typing import Any

import numpy as np
import pytest
import torch as th
from factories import make_episodes, tiny_model
from test_losses import (
    N_PROMPTS,
    N_ROWS,
    FixedCritic,
    NoWaiting,
    as_on_a_gpu,
    critic_loss,
    make_model,
    moved,
    names,
    networks_of,
    one_prompt,
    record_calls,
)
from test_saving import reloaded
from torch import nn
from torch.testing import assert_close

from sb3_llmdpd import LLMDPD, Episode
from sb3_llmdpd.llmdpd.loss_watch import TrainingDiverged, loss_limits
from sb3_llmdpd.llmdpd.losses import expectile_loss
from sb3_llmdpd.networks.attention import CONDITIONINGS
from sb3_llmdpd.type_aliases import PromptReplayBufferSamples as Batch

EXPECTILE = dict(critic_objective="expectile")


@pytest.fixture
def model() -> LLMDPD:
    return make_model(**EXPECTILE, expectile=0.8)


@pytest.fixture
def batch(model: LLMDPD) -> Batch:
    """Every third transition ended its task."""
    batch = model.replay_buffer.sample(N_PROMPTS * N_ROWS)
    return batch._replace(dones=(th.arange(24) % 3 == 0).float()[:, None])


class FixedValue(nn.Module):
    """Every state is worth the same."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(th.tensor(value))

    def forward(self, features: th.Tensor, prompts: Any) -> th.Tensor:
        return self.value.expand(features.shape[:2])


def test_errors_above_weigh_the_expectile_and_those_below_the_rest():
    assert_close(expectile_loss(th.tensor([2.0, -1.0]), 0.7), th.tensor((0.7 * 4 + 0.3 * 1) / 2))


def test_at_one_half_it_is_half_the_squared_error():
    errors = th.randn(50)
    assert_close(expectile_loss(errors, 0.5), 0.5 * errors.square().mean())


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_its_least_value_is_at_the_expectile(expectile):
    """Values 0 and 1 come equally often: t (1 - v) = (1 - t) v, and so v = t."""
    guesses = th.linspace(0, 1, 101)
    losses = [expectile_loss(th.tensor([0.0, 1.0]) - guess, expectile) for guess in guesses]
    assert guesses[int(th.stack(losses).argmin())].item() == pytest.approx(expectile)


def test_the_losses_are_those_of_iql_by_hand(model, batch):
    """IQL, Eq. (5) and (6), row by row: V to min_i Q'_i(s, a), Q to r + gamma (1 - d) V(s')."""
    q_losses, v_losses, signs = [], [], set()
    for row in range(N_PROMPTS * N_ROWS):
        with th.no_grad():
            prompt = model.actor_target.encode_prompts(one_prompt(batch.prompts, row // N_ROWS))
            features, next_features = (
                model.actor_target.encode_observations(observations[row : row + 1])[None]
                for observations in (batch.observations, batch.next_observations)
            )
            action = batch.actions[row][None, None]
            value, next_value = (model.state_value(x, prompt)[0, 0] for x in (features, next_features))
            target = batch.rewards[row, 0] + 0.9 * (1 - batch.dones[row, 0]) * next_value
            error = model.critic_target(features, prompt, action).min() - value
            q_losses.append((model.critic(features, prompt, action).flatten() - target).square().sum())
            signs.add(error.sign().item())
        v_losses.append((0.8 if error > 0 else 0.2) * error**2)
    loss, metrics = critic_loss(model, batch)
    assert signs == {-1.0, 1.0}
    assert_close(metrics["critic_loss"].detach(), th.stack(q_losses).mean())
    assert_close(metrics["value_loss"].detach(), th.stack(v_losses).mean())
    assert_close(loss, metrics["critic_loss"] + metrics["value_loss"])


def test_v_follows_the_least_of_the_target_critics(model, batch):
    model.policy.critic_target, model.policy.state_value = FixedCritic(3.0, -2.0), FixedValue(1.0)
    metrics = critic_loss(model, batch)[1]
    assert_close(metrics["value_loss"], th.tensor(0.2 * (-2.0 - 1.0) ** 2))
    assert_close(metrics["value"], th.tensor(1.0))
    assert_close(metrics["target_q_value"], (batch.rewards + 0.9 * (1 - batch.dones) * 1.0).mean())


def test_no_policy_is_asked_for_the_critic(model, batch):
    calls = [record_calls(actor.denoiser) for actor in (model.actor, model.actor_target)]
    critic_loss(model, batch)
    assert calls == [[], []]


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize(("part", "trained"), [("critic_loss", "critic"), ("value_loss", "state_value")])
def test_each_loss_moves_its_own_network_alone(part, trained, conditioning):
    model = make_model(**EXPECTILE, policy_kwargs=dict(conditioning=conditioning))
    batch = model.replay_buffer.sample(24)
    prompts = batch.prompts.dropped(th.zeros(3, dtype=th.bool), th.tensor([False, True, False]))
    critic_loss(model, batch._replace(prompts=prompts))[1][part].backward()
    for name, network in networks_of(model).items():
        assert moved(network) == (names(network) if name == trained else set())


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_no_loss_waits_for_the_device(conditioning, monkeypatch):
    as_on_a_gpu(monkeypatch)
    model = make_model(**EXPECTILE, policy_kwargs=dict(conditioning=conditioning))
    batch = model.replay_buffer.sample(24)
    with NoWaiting():
        loss, metrics = critic_loss(model, batch)
        loss.backward()
        model._metrics.add(metrics)


def coin_episodes() -> list[Episode]:
    """Make two steps: the first pays nothing, the second 1 for going up and 0 for down, as often."""
    states, ends = np.array([[0.0], [1.0], [2.0]]), dict(terminated=True, task="coin")
    return [
        Episode(states, np.array([[0.0], [way]]), np.array([0.0, way > 0]), **ends)
        for way in (-1.0, 1.0)
        for _ in range(4)
    ]


@pytest.mark.parametrize("expectile", [0.5, 0.9])
def test_v_comes_to_the_expectile_of_the_values_of_the_datas_actions(expectile):
    data = dict(dataset=coin_episodes(), reward_scale="none", batch_size=32, prompts_per_batch=1)
    data |= dict(return_weight=0.0)  # as often going up as down
    unprompted = dict(text_encoder=None, trajectory_dropout=1.0)
    rates = dict(gamma=0.9, tau=0.1, learning_rate=2e-2)
    model = tiny_model(**EXPECTILE, expectile=expectile, **data, **unprompted, **rates)
    for _ in range(150):
        batch = model.replay_buffer.sample(32)
        model.gradient_step.descend(model.critic.optimizer, critic_loss(model, batch)[0])
        model.gradient_step.move_targets(0.5)
    ways = th.tensor([[[-1.0], [1.0]]])
    with th.no_grad():
        batch = batch._replace(observations=th.tensor([[0.0], [1.0]]))
        features, prompts = model.losses.encode_for_critic(batch)
        values = model.state_value(features, prompts).flatten()
        q_values = model.critic(features[:, [1, 1]], prompts, ways).mean(dim=0).flatten()
    assert_close(q_values, th.tensor([0.0, 1.0]), atol=0.1, rtol=0)
    assert_close(values, th.tensor([0.9 * expectile, expectile]), atol=0.1, rtol=0)


def test_v_learns_at_the_critics_rate():
    model = tiny_model(**EXPECTILE, learning_rate=1e-3, critic_learning_rate=1e-30)
    before = [weights.clone() for weights in model.state_value.parameters()]
    model.learn(2)
    assert all(th.equal(old, new) for old, new in zip(before, model.state_value.parameters(), strict=True))
    assert model.learning_rate == 1e-3


def test_values_of_states_beyond_what_rewards_allow_stop_the_training():
    limits = loss_limits(largest_reward=2.0, gamma=0.9, n_critics=3, eta=1.0)
    assert limits["value_loss"] == pytest.approx((2 * 10 * 20) ** 2)
    model = tiny_model(**EXPECTILE).learn(1)
    for weights in model.state_value.parameters():
        weights.data *= 1e6
    with pytest.raises(TrainingDiverged, match="_loss was"):
        model.learn(1)


def test_only_a_model_that_asks_for_v_has_one_and_begins_as_one_without():
    plain, with_value = tiny_model(), tiny_model(**EXPECTILE)
    assert plain.state_value is None
    assert set(plain.policy_kwargs) == set(with_value.policy_kwargs) - {"state_value"}
    weights, more = plain.policy.state_dict(), with_value.policy.state_dict()
    assert {name.split(".")[0] for name in set(more) - set(weights)} == {"state_value"}
    assert all(th.equal(weights[name], more[name]) for name in weights)


def test_a_model_with_v_comes_back_and_can_go_on_without_using_it():
    model = tiny_model(**EXPECTILE, expectile=0.9).learn(2)
    loaded = reloaded(model)
    assert (loaded.critic_objective, loaded.expectile) == ("expectile", 0.9)
    assert_close(loaded.state_value.state_dict(), model.state_value.state_dict(), rtol=0, atol=0)
    other = reloaded(model, dataset=make_episodes(), critic_objective="td", learning_rate=1e-4)
    assert other.learn(1, reset_num_timesteps=False).num_timesteps == 3


def test_a_model_without_v_cannot_go_on_with_the_expectile_objective():
    message = r"'state_value\.\S+' is a weight of the network alone: the model was made with "
    with pytest.raises(ValueError, match=message + "critic_objective=td, leave that"):
        reloaded(tiny_model(), **EXPECTILE)


def test_a_policy_with_v_is_saved_by_itself():
    policy, file = tiny_model(**EXPECTILE).policy, io.BytesIO()
    policy.save(file)
    again = type(policy).load(io.BytesIO(file.getvalue()), device="cpu")
    assert again.state_dict().keys() == policy.state_dict().keys()
