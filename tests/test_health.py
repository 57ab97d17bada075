"""A training that diverges stops with a sentence, and never writes over the last good model."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch as th
from factories import At, make_episodes, tiny_model
from stable_baselines3.common.callbacks import CheckpointCallback

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.llmdpd.loss_watch import LossWatch, TrainingDiverged, loss_limits

CPU = th.device("cpu")
PLAIN = dict(conditioning="concat", layer_norm=False)
"""Networks whose losses stay numbers when their values explode."""


@th.no_grad()
def one_weight_is_nan(model: LLMDPD) -> None:
    model.actor.denoiser.from_state.bias[0] = float("nan")


@th.no_grad()
def values_explode(model: LLMDPD) -> None:
    for parameter in model.critic.parameters():
        parameter.mul_(1e6)


def test_a_loss_that_is_no_number_stops_the_training_and_is_named_with_its_step():
    message = r"actor_loss was nan in gradient step 8\. No model was saved before; try a lower"
    with pytest.raises(TrainingDiverged, match=message):
        tiny_model().learn(20, callback=At(7, one_weight_is_nan))


def test_values_beyond_what_rewards_allow_stop_the_training():
    with pytest.raises(TrainingDiverged, match=r"critic_loss was \d.*e\+\d\d in gradient step 4\."):
        tiny_model(policy_kwargs=PLAIN).learn(20, callback=At(3, values_explode))


def test_a_long_training_stops_soon():
    model = tiny_model()
    with pytest.raises(TrainingDiverged):
        model.learn(1000, callback=At(7, one_weight_is_nan))
    assert model.num_timesteps == 100


@pytest.mark.parametrize("n_before", [0, 3])
def test_the_first_step_is_looked_at(n_before):
    model = tiny_model().learn(n_before)
    one_weight_is_nan(model)
    with pytest.raises(TrainingDiverged):
        model.learn(1000, reset_num_timesteps=False)
    assert model.num_timesteps == n_before + 1


def test_the_last_good_model_is_named_and_not_written_over(tmp_path):
    callbacks = [At(7, one_weight_is_nan), CheckpointCallback(4, str(tmp_path))]
    good = re.escape(str(tmp_path / "rl_model_4_steps.zip"))
    with pytest.raises(TrainingDiverged, match=rf"The last good model is {good};"):
        tiny_model().learn(20, callback=callbacks)
    assert [path.name for path in tmp_path.iterdir()] == ["rl_model_4_steps.zip"]
    weights = LLMDPD.load(tmp_path / "rl_model_4_steps.zip", device="cpu").policy.state_dict()
    assert all(weight.isfinite().all() for weight in weights.values())


def test_a_model_goes_on_after_its_last_good_file(tmp_path):
    model = tiny_model().learn(3)
    model.save(tmp_path / "good")
    with pytest.raises(TrainingDiverged, match=r"The last good model is .*good.zip"):
        model.learn(3, callback=At(5, one_weight_is_nan), reset_num_timesteps=False)
    again = LLMDPD.load(tmp_path / "good", device="cpu", dataset=make_episodes())
    assert again.learn(3, reset_num_timesteps=False).num_timesteps == 6


def test_a_broken_model_is_not_saved(tmp_path):
    model = tiny_model()
    one_weight_is_nan(model)
    with pytest.raises(TrainingDiverged, match=r"after gradient step 0 the weight 'actor\..*' is not finite"):
        model.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reward", [1e-6, 1.0, 1e6])
def test_the_size_of_rewards_does_not_count_as_divergence(reward):
    episodes = [replace(episode, rewards=reward * np.ones(len(episode))) for episode in make_episodes()]
    tiny_model(dataset=episodes, reward_scale="none", critic_learning_rate=1e-2, tau=0.1).learn(50)


def test_a_value_ten_times_as_large_as_any_can_be_is_the_limit():
    limits = loss_limits(largest_reward=2.0, gamma=0.9, n_critics=2, eta=1.0)
    assert limits["critic_loss"] == pytest.approx(2 * (2 * 10 * 20.0) ** 2)


def test_without_a_discount_no_value_is_too_large():
    assert loss_limits(1.0, gamma=1.0, n_critics=2, eta=1.0)["critic_loss"] == float("inf")


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        ([1.0, 2.0, 3.0], None),
        ([1.0, 5.0, 1.0], (1, "loss", 5.0)),
        ([-5.0, 7.0], (0, "loss", -5.0)),
        ([1.0, 2.0, float("inf"), 1.0], (2, "loss", float("inf"))),
        ([(1.0, 1.0), (1.0, 9.0), (9.0, 1.0)], (1, "other", 9.0)),  # of two losses the earlier
    ],
)
def test_the_watch_remembers_the_first_loss_that_was_not_sane(seen, found):
    watch = LossWatch({"loss": 4.0, "other": 4.0}, CPU)
    for values in seen:
        loss, other = values if isinstance(values, tuple) else (values, 0.0)
        watch.see({"loss": th.tensor(loss), "other": th.tensor(other), "else": th.tensor(0.0)})
    assert watch.first_insane() == found


def test_looking_at_a_loss_does_not_wait_for_the_device(monkeypatch):
    watch = LossWatch({"loss": 4.0}, CPU)
    for name in ("item", "tolist", "__bool__", "__float__", "cpu", "numpy"):
        monkeypatch.setattr(th.Tensor, name, lambda *_: pytest.fail("waited"))
    watch.see({"loss": th.tensor(1.0)})
