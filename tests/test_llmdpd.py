"""The algorithm as a whole: its arguments, its data, the training loop, SB3's callbacks, what is logged."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from factories import make_episodes, tiny_model
from gymnasium import spaces
from numpy.testing import assert_allclose, assert_array_equal
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize
from step_files import arrays, write_steps
from test_losses import record_calls
from torch import nn
from torch.testing import assert_close
from toys import ActionEnv, SpacesEnv

from sb3_llmdpd import LLMDPD, CosineSchedule, Episode, OfflineDataset, Prompt, PromptReplayBuffer, presets
from sb3_llmdpd.diffusion.process import DiffusionProcess
from sb3_llmdpd.envs.dataset_env import DatasetEnv
from sb3_llmdpd.networks.attention import StateAlone
from sb3_llmdpd.prompts import text_cache
from sb3_llmdpd.prompts.text_encoders import HashingTextEncoder

TEXT = "do task number 0"


def weights(model: LLMDPD) -> list[th.Tensor]:
    return [tensor.clone() for tensor in model.policy.state_dict().values()]


def global_generators() -> tuple[Any, ...]:
    """State of Python's, NumPy's and torch's generators, from which SB3 draws."""
    numpy_state = np.random.get_state()[1].tolist()  # noqa: NPY002
    return random.getstate(), numpy_state, th.get_rng_state().tolist()


def equal(one: Sequence[th.Tensor], other: Sequence[th.Tensor]) -> bool:
    return all(th.equal(a, b) for a, b in zip(one, other, strict=True))


class Lines(KVWriter):
    """Remembers the lines of a log."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
        self.lines.append({**key_values, "step": step})

    def close(self) -> None:
        pass


def learned_lines(model: LLMDPD, n_steps: int, log_interval: int | None = 2) -> list[dict[str, Any]]:
    """Train, and return what is logged on the way."""
    lines = Lines()
    model.set_logger(Logger(folder=None, output_formats=[lines]))
    model.learn(n_steps, log_interval=log_interval)
    return lines.lines


class BatchNormExtractor(BaseFeaturesExtractor):
    def __init__(self, observation_space: gym.Space[Any]) -> None:
        super().__init__(observation_space, 5)
        self.norm = nn.BatchNorm1d(5)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.norm(observations)


def test_one_timestep_is_one_gradient_step(monkeypatch):
    model, sizes = tiny_model(), []
    sample = model.replay_buffer.sample
    monkeypatch.setattr(model.replay_buffer, "sample", lambda size: sizes.append(size) or sample(size))
    model.learn(5)
    assert (model.num_timesteps, model._n_updates, sizes) == (5, 5, [24] * 5)


def test_learning_goes_on_counting_where_it_ended():
    model = tiny_model().learn(3).learn(4, reset_num_timesteps=False)
    assert (model.num_timesteps, model._n_updates) == (7, 7)


def test_learning_in_parts_is_learning_at_once():
    parts = tiny_model().learn(3).learn(4, reset_num_timesteps=False)
    assert equal(weights(parts), weights(tiny_model().learn(7)))


def test_the_same_seed_gives_the_same_model_to_the_bit():
    assert equal(weights(tiny_model(seed=3).learn(4)), weights(tiny_model(seed=3).learn(4)))


def test_another_seed_gives_another_model():
    assert not equal(weights(tiny_model(seed=3).learn(4)), weights(tiny_model(seed=4).learn(4)))


@pytest.mark.filterwarnings("ignore:.*is far from all sentences of training")
def test_what_callbacks_draw_and_do_changes_nothing_in_training():
    def meddle(*_):
        random.random()
        np.random.rand()  # noqa: NPY002 - as SB3's tools do
        th.rand(1)
        model.predict(np.zeros((3, 5)), task_text="an unknown sentence")
        return True

    model = tiny_model()
    assert equal(weights(model.learn(4, callback=meddle)), weights(tiny_model().learn(4)))


def test_sampling_and_training_draw_from_no_global_generator():
    model = tiny_model().learn(1)
    before = global_generators()
    model.train(2, batch_size=24)
    assert before == global_generators()


@pytest.mark.parametrize(("batch_size", "n_prompts"), [(1, 1), (2, 4), (8, 1), (8, 8), (24, 3)])
def test_a_batch_is_encoded_once_for_each_of_its_prompts(batch_size, n_prompts):
    model = tiny_model(batch_size=batch_size, prompts_per_batch=n_prompts)
    calls = [record_calls(actor.prompt_encoder) for actor in (model.actor, model.actor_target)]
    model.learn(1)  # encodes for the critic and for the actor
    assert [[len(each[1]) for each in of_one] for of_one in calls] == [[min(batch_size, n_prompts)]] * 2


def test_one_features_extractor_reads_the_observations_of_transitions_and_of_examples():
    own = dict(features_extractor_class=BatchNormExtractor)
    model = tiny_model(policy_kwargs=own, examples_per_prompt=(1, 1))
    calls = record_calls(model.actor.features_extractor)
    model.learn(1)
    assert [len(rows) for (rows,) in calls] == [24, 3 * 4]  # transitions; 4 steps of each of 3 examples


def test_the_critic_may_see_a_share_of_the_batch():
    model = tiny_model(q_batch_size=6)
    calls = record_calls(model.critic)
    model.learn(1)
    # Of 3 prompts 2 transitions each, in the critic's loss and in the actor's.
    assert [actions.shape[:2] for _, _, actions in calls] == [(3, 2)] * 2


def test_gradients_are_clipped():
    model = tiny_model(max_grad_norm=1e-3)
    loss = sum((parameter**2).sum() for parameter in model.actor.parameters())
    model.gradient_step.descend(model.actor.optimizer, loss)
    norm = th.stack([parameter.grad.norm() for parameter in model.actor.parameters()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_the_environment_is_never_stepped():
    class NeverStepped(ActionEnv):
        def step(self, action: np.ndarray) -> Any:
            raise AssertionError("training stepped the environment")

    assert tiny_model(env=NeverStepped(), dataset=make_episodes()).learn(2).num_timesteps == 2


def test_without_an_environment_one_states_the_spaces_of_the_data():
    env = tiny_model().get_env()
    assert env.get_attr("unwrapped")[0].__class__ is DatasetEnv
    assert_array_equal(env.reset(), np.zeros((1, 5)))


def rates_of_steps(n_steps: int, **kwargs: Any) -> np.ndarray:
    """(n_steps, 2): learning rates of actor and critic, as the optimisers have them at each step."""
    model, rates = tiny_model(**kwargs), []
    optimizers = (model.actor.optimizer, model.critic.optimizer)

    def note(*_: Any) -> bool:
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in optimizers])
        return True

    model.learn(n_steps, callback=note)
    return np.array(rates)


def test_the_learning_rate_follows_its_schedule_over_the_run():
    rates = rates_of_steps(4, learning_rate=CosineSchedule(1e-3, final=1e-4))
    expected = 1e-4 + 0.5 * 9e-4 * (1 + np.cos(np.pi * np.arange(4) / 4))
    assert_allclose(rates, np.stack([expected, expected], axis=1))


def test_the_critic_can_have_a_learning_rate_of_its_own():
    rates = rates_of_steps(2, learning_rate=1e-3, critic_learning_rate=lambda progress: 1e-2 * progress)
    assert_allclose(rates, [[1e-3, 1e-2], [1e-3, 5e-3]])


@pytest.mark.parametrize(
    ("ema_decay", "decays"), [(0.999, [2 / 11, 3 / 12, 4 / 13]), (0.2, [2 / 11, 0.2, 0.2])]
)
def test_the_averaged_actor_warms_up(ema_decay, decays):
    model = tiny_model(ema_decay=ema_decay)
    average = [parameter.clone() for parameter in model.actor.parameters()]
    for decay in decays:
        model.learn(1, reset_num_timesteps=False)
        for kept, latest in zip(average, model.actor.parameters(), strict=True):
            kept.mul_(decay).add_((1 - decay) * latest.detach())
    assert_close(list(model.actor_target.parameters()), average)


def test_the_averaged_critic_moves_by_tau():
    model = tiny_model(tau=0.25)
    before = [parameter.clone() for parameter in model.critic.parameters()]
    model.learn(1)
    expected = [0.75 * old + 0.25 * new for old, new in zip(before, model.critic.parameters(), strict=True)]
    assert_close(list(model.critic_target.parameters()), expected)


def test_the_averaged_actor_acts():
    def act():
        return model.predict(np.zeros((4, 5)), deterministic=True, task_text=TEXT)[0]

    def silence(network):
        for parameter in network.parameters():
            parameter.data.zero_()

    model = tiny_model().learn(3)
    before = act()
    silence(model.actor)
    assert_array_equal(act(), before)
    silence(model.actor_target.denoiser)
    assert not np.array_equal(act(), before)


def test_running_statistics_reach_the_averaged_actor_and_acting_leaves_them():
    model = tiny_model(policy_kwargs=dict(features_extractor_class=BatchNormExtractor)).learn(2)
    norms = [actor.features_extractor.norm for actor in (model.actor, model.actor_target)]
    assert_close(norms[0].running_mean, norms[1].running_mean)
    before = norms[1].running_mean.clone()
    model.predict(np.ones((4, 5)), task_text=TEXT)
    assert before.any()
    assert_close(norms[1].running_mean, before)


def dropped(n: int = 20_000, **rates: float) -> tuple[th.Tensor, th.Tensor]:
    """Drop parts of n prompts that have both, and tell which have a text and which a trajectory left."""
    model, has_both = tiny_model(**rates), th.ones(n, dtype=th.bool)
    prompts = model.replay_buffer.sample(3).prompts._replace(has_text=has_both, has_trajectory=has_both)
    left = model.gradient_step.drop_prompts(prompts, th.rand(2, n))
    return left.has_text, left.has_trajectory


def shares(*rows: th.Tensor) -> list[float]:
    return [row.float().mean().item() for row in rows]


def test_texts_and_trajectories_are_dropped_independently_at_their_rates():
    text, trajectory = dropped(text_dropout=0.3, trajectory_dropout=0.6, pair_dropout=0.0)
    assert shares(~text, ~trajectory, ~text & ~trajectory) == pytest.approx([0.3, 0.6, 0.18], abs=0.015)


def test_of_the_pairs_that_remain_a_further_share_loses_its_sentence():
    text, trajectory = dropped(text_dropout=0.2, trajectory_dropout=0.5, pair_dropout=0.5)
    kinds = shares(text & trajectory, ~text & trajectory, text & ~trajectory)
    assert kinds == pytest.approx([0.2, 0.3, 0.4], abs=0.015)


def test_a_sentence_without_an_example_is_no_pair():
    model = tiny_model(text_dropout=0.0, trajectory_dropout=0.0, pair_dropout=1.0)
    prompts = model.replay_buffer.sample(3).prompts
    alone = prompts._replace(has_trajectory=th.tensor([True, False, False]))
    assert model.gradient_step.drop_prompts(alone, th.rand(2, 3)).has_text.tolist() == [False, True, True]


def shown(model: LLMDPD, n_steps: int = 6) -> th.Tensor:
    """Train, and tell if each prompt has a text and an example; the critic's come before the actor's."""
    calls = [record_calls(actor.prompt_encoder) for actor in (model.actor_target, model.actor)]
    model.learn(n_steps)
    prompts = [inputs[0] for inputs in calls[0] + calls[1]]
    return th.cat([th.stack([each.has_text, each.has_trajectory], dim=1) for each in prompts])  # (n, 2)


@pytest.mark.parametrize("rates", [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)], ids=["text", "trajectory", "none"])
def test_a_rate_of_one_never_shows_and_a_rate_of_zero_always_does(rates):
    prompts = shown(tiny_model(text_dropout=rates[0], trajectory_dropout=rates[1], pair_dropout=0.0))
    assert prompts.unique(dim=0).tolist() == [[rate == 0 for rate in rates]]


def test_actor_and_critic_are_shown_the_same_prompts():
    prompts = shown(tiny_model(text_dropout=0.5, trajectory_dropout=0.5), n_steps=1)
    assert_close(prompts[:3], prompts[3:])


class EncoderWithWeights(HashingTextEncoder):
    """Has weights, as a language model does, and counts the sentences that it is asked for."""

    def __init__(self) -> None:
        super().__init__(8)
        self.network = nn.Linear(8, 8)
        self.sentences: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.sentences += texts
        return super().encode(texts)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> EncoderWithWeights:
    encoder = EncoderWithWeights()
    monkeypatch.setenv("SB3_LLMDPD_CACHE", str(tmp_path))
    monkeypatch.setattr(text_cache, "make_text_encoder", lambda spec: encoder)
    return encoder


def test_the_language_model_is_no_part_of_the_policy(encoder):
    model = tiny_model()
    assert encoder.network not in list(model.policy.modules())


def test_the_language_model_is_not_trained(encoder):
    before = [parameter.clone() for parameter in encoder.network.parameters()]
    tiny_model().learn(2)
    assert equal(before, list(encoder.network.parameters()))


def test_each_sentence_is_encoded_once_for_all_of_training(encoder):
    model = tiny_model().learn(3)
    model.predict(np.zeros(5), task_text=TEXT)
    texts = [text for text in encoder.sentences if "task" in text]  # the rest is the probe sentence
    assert sorted(texts) == sorted(set(texts)) == sorted(model.known_task_texts)


def test_the_known_sentences_are_those_of_training():
    assert set(tiny_model().known_task_texts) == {text for e in make_episodes() for text in e.task_texts}


def test_a_model_can_do_without_a_text_encoder():
    model = tiny_model(text_encoder=None)
    assert not shown(model)[:, 0].any()
    assert (model.policy.text_dim, model.actor.prompt_encoder.text, model.known_task_texts) == (0, None, ())


def test_data_without_texts_train_a_model_that_has_an_encoder():
    model = tiny_model(dataset=make_episodes(texts=False), text_dropout=0.0)
    assert not shown(model)[:, 0].any()
    assert model.known_task_texts == ()


def moved_episodes() -> list[Episode]:
    """Give observations another mean and scale."""
    return [replace(episode, observations=3 * episode.observations + 7) for episode in make_episodes()]


def moved_rows() -> np.ndarray:
    return np.concatenate([episode.observations for episode in moved_episodes()])


def test_observations_are_standardised_with_statistics_of_the_data():
    state = tiny_model(dataset=moved_episodes()).policy.state_dict()
    for actor in ("actor", "actor_target"):
        assert_allclose(state[f"{actor}.feature_normaliser.mean"], moved_rows().mean(axis=0), rtol=1e-5)
        assert_allclose(state[f"{actor}.feature_normaliser.scale"], moved_rows().std(axis=0), rtol=1e-5)


@pytest.mark.parametrize("name", ["actor", "actor_target"])
def test_the_networks_read_observations_of_mean_0_and_deviation_1(name):
    actor = getattr(tiny_model(dataset=moved_episodes()), name)
    features = actor.encode_observations(th.as_tensor(moved_rows()))
    assert_close(features.mean(dim=0), th.zeros(5), atol=1e-4, rtol=0)
    assert_close(features.std(dim=0, correction=0), th.ones(5), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["actor", "actor_target"])
def test_the_prompt_encoder_reads_sentences_of_mean_0(name):
    model = tiny_model()
    actor = getattr(model, name)
    calls = record_calls(actor.prompt_encoder)
    actor.encode_prompts(model.prompter.batch([Prompt(text) for text in model.known_task_texts]))
    assert_close(calls[0][0].text_vectors.mean(dim=0), th.zeros(256), atol=1e-5, rtol=0)


def test_text_vectors_are_standardised_with_statistics_of_the_sentences():
    model = tiny_model()
    mean = model.policy.state_dict()["actor_target.text_normaliser.mean"]
    assert_allclose(mean, HashingTextEncoder().encode(model.known_task_texts).mean(axis=0), atol=1e-6)


def test_neither_training_nor_acting_nor_later_data_move_the_statistics():
    model = tiny_model()
    before = model.actor_target.feature_normaliser.mean.clone()
    model.learn(2)
    model.predict(100 * np.ones((9, 5)), task_text=TEXT)
    model.set_dataset(moved_episodes())
    assert_close(model.actor_target.feature_normaliser.mean, before, rtol=0, atol=0)


def test_a_model_made_from_an_environment_takes_statistics_and_sentences_of_its_first_data():
    model = tiny_model(env=ActionEnv())
    model.set_dataset(moved_episodes())
    expected = tiny_model(dataset=moved_episodes())
    assert_close(model.actor_target.feature_normaliser.mean, expected.actor_target.feature_normaliser.mean)
    assert model.known_task_texts == expected.known_task_texts
    assert model.predict(np.zeros(5), task_text=TEXT)[0].shape == (2,)


def test_sentences_of_later_data_become_known():
    model = tiny_model(dataset=make_episodes(n_tasks=2)).learn(1)
    model.set_dataset(make_episodes(n_tasks=3))
    assert set(model.known_task_texts) == set(tiny_model(dataset=make_episodes(n_tasks=3)).known_task_texts)


def test_the_defaults_are_what_held_out_tasks_chose():
    model = LLMDPD("MlpPolicy", dataset=make_episodes(), text_encoder="hashing", device="cpu")
    assert (model.policy_objective, model.return_weight) == ("action_approximation", 8.0)
    assert model.policy.reads_all_steps


def test_a_preset_has_the_papers_settings():
    paper = dict(dataset=make_episodes(), text_encoder="hashing", device="cpu", **presets.PAPER)
    model = LLMDPD("MlpPolicy", **paper)
    assert (model.policy_objective, model.n_candidates, model.critic.n_critics) == ("diffusion_ql", 1, 2)
    assert model.actor.process.n_steps == 5
    assert isinstance(model.actor.attention, StateAlone)
    assert_close(model.actor.process.alphas_bar, DiffusionProcess(5, "vp").alphas_bar)
    assert "text_dim" not in presets.PAPER["policy_kwargs"]  # which a model adds to a copy


def test_a_buffer_brings_its_own_settings():
    dataset = OfflineDataset.from_episodes(make_episodes())
    own: dict[str, Any] = dict(reward_scale="none", return_weight=2.0)
    buffer = PromptReplayBuffer(dataset, "cpu", prompts_per_batch=2, prompt_window=4, **own)
    model = tiny_model(dataset=buffer)
    assert model.replay_buffer is buffer
    assert (model.prompts_per_batch, model.reward_scale, model.return_weight) == (2, "none", 2.0)


def test_policy_kwargs_are_not_changed():
    kwargs = dict(net_arch=[8])
    LLMDPD("MlpPolicy", None, make_episodes(), text_encoder="hashing", policy_kwargs=kwargs, device="cpu")
    assert kwargs == dict(net_arch=[8])


def wide_actions() -> OfflineDataset:
    return OfflineDataset.from_episodes(make_episodes(), action_space=spaces.Box(-2.0, 2.0, (2,)))


def policy(**kwargs: Any) -> dict[str, Any]:
    return dict(policy_kwargs=kwargs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(policy_objective="sac"), r"`policy_objective` must be one of \('diffusion_ql', .*got 'sac'"),
        (dict(critic_objective="iql"), r"`critic_objective` must be one of \('td', 'expectile'\), got 'iql'"),
        (dict(expectile=1), r"`expectile` must be in \(0, 1\), got 1: 0.5 is the mean"),
        (dict(expectile=-0.1), r"`expectile` must be in \(0, 1\), got -0.1"),
        (dict(gamma=1.5), r"`gamma` must be in \[0, 1\], got 1.5"),
        (dict(tau=-0.1), r"`tau` must be in \[0, 1\], got -0.1"),
        (dict(text_dropout=1.1), r"`text_dropout` must be in \[0, 1\], got 1.1"),
        (dict(trajectory_dropout=-1), r"`trajectory_dropout` must be in \[0, 1\], got -1"),
        (dict(pair_dropout=2), r"`pair_dropout` must be in \[0, 1\], got 2"),
        (dict(eta=-1.0), r"`eta` must be in \[0, inf\], got -1.0"),
        (dict(eta=float("nan")), r"`eta` must be in \[0, inf\], got nan"),
        (dict(prompt_noise=-0.1), r"`prompt_noise` must be in \[0, inf\], got -0.1"),
        (dict(candidate_temperature=-1.0), r"`candidate_temperature` must be in \[0, inf\], got -1.0"),
        (dict(ema_decay=1.0), r"`ema_decay` must be in \[0, 1\), got 1.0: at 1"),
        (dict(max_grad_norm=0.0), r"`max_grad_norm` must be in \(0, inf\], got 0"),
        (dict(batch_size=25), "`batch_size` must be a multiple .*got 25 and 3"),
        (dict(batch_size=0), r"`batch_size` must be in \[1, .*got 0"),
        (dict(prompts_per_batch=0), r"`prompts_per_batch` must be in \[1, .*got 0"),
        (dict(q_batch_size=4), "`q_batch_size` must be None, or a multiple .*got 4 with 3 and 24"),
        (dict(q_batch_size=48), "`q_batch_size` .*of at most `batch_size`, got 48 with 3 and 24"),
        (dict(q_batch_size=0), r"`q_batch_size` must be in \[1, .*got 0"),
        (dict(n_candidates=0), r"`n_candidates` must be in \[1, .*got 0"),
        (dict(n_candidates=2, eta=0.0), "1 where eta=0 trains no critic to choose, got 2"),
        (dict(reward_scale="max"), r"`reward_scale` must be one of \('per_task', 'none'\), got 'max'"),
        (dict(return_weight=-1.0), r"`return_weight` must be in \[0, inf\], got -1.0"),
        (dict(return_weight=1.0, gamma=1.0), r"`gamma` must be in \[0, 1\), got 1.0"),
        (dict(text_encoder="bert"), "unknown text encoder 'bert'. Known are"),
        (dict(same_goal=True), "`same_goal` needs the goal of every episode"),
        (dict(dataset=[]), "needs at least one episode|must be a Minari data set id"),
        (policy(conditioning="film"), r"`conditioning` must be one of \('concat', .*got 'film'"),
        (policy(noise_schedule="sine"), "`noise_schedule` must be one of .*got 'sine'"),
        (policy(step_distribution="last"), r"`step_distribution` must be one of \('uniform', .*got 'last'"),
        (policy(net_arch=[0]), r"`net_arch` must be in \[1, .*got 0"),
        (policy(n_critics=0), r"`n_critics` must be in \[1, .*got 0"),
        (policy(token_dim=6, n_heads=4), "`token_dim` must be a multiple of `n_heads`, got 6 and 4"),
        (policy(features_extractor_class="cnn"), "must be a class or one of .*'nature_cnn'.*got 'cnn'"),
        (dict(dataset=None, env=None), "pass `dataset` .*or `env`, or use LLMDPD.load"),
        (
            dict(env="Pendulum-v1", dataset=make_episodes(action_dim=1)),
            r"observation space of the data is .*\(5,\).*\(3,\).*from_episodes",
        ),
        (
            dict(env=ActionEnv(), dataset=wide_actions()),
            r"action space of the data is .*2.0.*that of the model .*1.0",
        ),
        (dict(env=VecNormalize(make_vec_env(ActionEnv))), "VecNormalize, .*Drop it"),
    ],
    ids=lambda value: None if isinstance(value, str) else ",".join(value),
)
def test_an_argument_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**arguments)


def test_something_that_is_no_data_set_is_refused():
    with pytest.raises(TypeError, match=r"`dataset` must be a Minari data set id, a list of ids, .*got 3"):
        tiny_model(dataset=3)


def test_a_buffer_of_another_window_is_refused():
    buffer = PromptReplayBuffer(OfflineDataset.from_episodes(make_episodes()), "cpu", prompt_window=5)
    with pytest.raises(ValueError, match="`prompt_window` is 5 and the policy's is 4: make them equal"):
        tiny_model(dataset=buffer)


def test_later_data_of_other_spaces_are_refused_and_change_nothing():
    model = tiny_model()
    before = model.replay_buffer
    with pytest.raises(ValueError, match="action space of the data"):
        model.set_dataset(wide_actions())
    assert model.replay_buffer is before


WIDE = spaces.Box(-2.0, 2.0, (1,), np.float32)


def wide_env(action_space: spaces.Space[Any] = WIDE) -> SpacesEnv:
    return SpacesEnv(spaces.Box(-np.inf, np.inf, (2,), np.float32), action_space)


@pytest.fixture
def radians(tmp_path: Path) -> str:
    """A file of two episodes, which records no bounds of its actions in [-1.5, 1.5]."""
    fields = arrays(ends=(2, 5), actions=np.linspace(-1.5, 1.5, 6)[:, None])
    return f"npz:{write_steps(tmp_path / 'logs.npz', **fields)}"


SINGLE = dict(prompts_per_batch=1, batch_size=6)


def stored_actions(model: LLMDPD) -> np.ndarray:
    """Return the distinct actions of many batches, scaled as the networks see them."""
    return np.unique([model.replay_buffer.sample(60).actions.numpy() for _ in range(20)])


def test_data_that_record_no_bounds_have_those_of_the_environment(radians):
    model = tiny_model(env=wide_env(), dataset=radians, **SINGLE)
    assert model.action_space == WIDE
    assert_allclose(stored_actions(model), np.linspace(-0.75, 0.75, 6), atol=1e-6)


def test_without_an_environment_they_have_those_that_were_measured(radians):
    with pytest.warns(UserWarning, match="no bounds of the actions are recorded"):
        model = tiny_model(dataset=radians, **SINGLE)
    assert model.action_space == spaces.Box(-1.5, 1.5, (1,), np.float32)


def test_later_data_that_record_no_bounds_have_those_of_the_model(radians):
    model = tiny_model(env=wide_env(), **SINGLE)
    model.set_dataset(radians)
    assert_allclose(stored_actions(model), np.linspace(-0.75, 0.75, 6), atol=1e-6)


def test_a_loaded_model_reads_such_data_with_its_own_bounds(radians, tmp_path):
    tiny_model(env=wide_env(), dataset=radians, **SINGLE).save(tmp_path / "model")
    model = LLMDPD.load(tmp_path / "model", dataset=radians)
    assert_allclose(stored_actions(model), np.linspace(-0.75, 0.75, 6), atol=1e-6)


def test_episodes_may_have_all_actions_of_the_environment():
    episodes = make_episodes(observation_dim=2, action_dim=1)
    loud = [replace(one, actions=one.actions * 2) for one in episodes]
    assert_allclose(np.abs(stored_actions(tiny_model(env=wide_env(), dataset=loud))).max(), 1.0, atol=0.02)
    with pytest.raises(ValueError, match=r"actions lie outside the action space \[-1.0, 1.0\]"):
        tiny_model(dataset=loud)


def unrewarded() -> list[Episode]:
    return [replace(one, rewards=np.zeros(len(one)), rewarded=False) for one in make_episodes()]


NO_REWARDS = r"the data record no rewards, and the Q term, .* eta=0.5: pass eta=0.0 \(--eta 0\), which clones"


def test_the_q_term_does_not_learn_from_data_without_rewards():
    with pytest.raises(ValueError, match=NO_REWARDS):
        tiny_model(eta=0.5, dataset=unrewarded())


def test_it_does_not_learn_from_later_data_without_rewards_either():
    model = tiny_model(eta=0.5)
    before = model.replay_buffer
    with pytest.raises(ValueError, match=NO_REWARDS):
        model.set_dataset(unrewarded())
    assert model.replay_buffer is before


def test_nor_once_it_is_switched_on_after_the_data_were_given():
    model = tiny_model(eta=0.0, dataset=unrewarded())
    model.eta = 0.5
    with pytest.raises(ValueError, match=NO_REWARDS):
        model.learn(1)


def test_one_episode_without_rewards_is_enough_to_refuse_them():
    with pytest.raises(ValueError, match=NO_REWARDS):
        tiny_model(eta=0.5, dataset=[*make_episodes(), *unrewarded()[:1]])


def test_data_without_rewards_are_cloned():
    assert tiny_model(eta=0.0, dataset=unrewarded()).learn(2).num_timesteps == 2


def test_learning_without_data_says_where_to_pass_them():
    message = r"no data to learn from: pass `dataset` to the constructor or to LLMDPD.load"
    with pytest.raises(ValueError, match=message):
        tiny_model(env=ActionEnv()).learn(1)


def test_sb3_evaluates_during_training_and_keeps_the_best(tmp_path):
    model, folder = tiny_model(), str(tmp_path)
    model.set_task(task_text=TEXT)
    callback = evaluation(n_eval_episodes=1, log_path=folder, best_model_save_path=folder)
    model.learn(4, callback=callback)
    assert callback.evaluations_timesteps == [2, 4]
    last = 3 * model.predict(np.full(5, 0.5), deterministic=True)[0][0]
    assert callback.last_mean_reward == pytest.approx(last, abs=1e-4)
    assert LLMDPD.load(tmp_path / "best_model").num_timesteps in (2, 4)


def evaluation(**kwargs: Any) -> EvalCallback:
    return EvalCallback(Monitor(ActionEnv()), eval_freq=2, verbose=0, **kwargs)


def test_sb3_stops_training_at_a_reward():
    model = tiny_model()
    model.set_task(prompt=Prompt())
    enough = StopTrainingOnRewardThreshold(reward_threshold=-100.0)
    model.learn(6, callback=evaluation(callback_on_new_best=enough))
    assert model.num_timesteps == 2


def test_sb3_saves_checkpoints_on_the_way(tmp_path):
    tiny_model().learn(5, callback=CheckpointCallback(save_freq=2, save_path=str(tmp_path)))
    assert {path.name for path in tmp_path.iterdir()} == {f"rl_model_{n}_steps.zip" for n in (2, 4)}
    assert LLMDPD.load(tmp_path / "rl_model_4_steps").num_timesteps == 4


@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")
def test_a_progress_bar_counts_gradient_steps(capsys):
    tiny_model().learn(3, progress_bar=True)
    assert "3/3" in capsys.readouterr().out


@pytest.mark.parametrize("falsy", [False, np.False_])
def test_a_callback_ends_training(falsy):
    assert tiny_model().learn(4, callback=lambda *_: falsy).num_timesteps == 1


TIMES = {"time/gradient_steps_per_s", "time/time_elapsed", "time/total_timesteps", "train/n_updates", "step"}
ACTOR = {"train/actor_loss", "train/bc_loss", "train/learning_rate", "train/critic_learning_rate"}
CRITIC = {"train/q_loss", "train/critic_loss", "train/q_value", "train/target_q_value"}


@pytest.mark.parametrize(("eta", "keys"), [(1.0, TIMES | ACTOR | CRITIC), (0.0, TIMES | ACTOR)])
def test_the_log_holds_what_was_trained_and_nothing_of_rollouts(eta, keys):
    lines = learned_lines(tiny_model(eta=eta), 4)
    assert [set(line) for line in lines] == [keys, keys]
    assert [(line["step"], line["train/n_updates"]) for line in lines] == [(2, 2), (4, 4)]


def test_a_logged_loss_is_the_mean_since_the_last_line(monkeypatch):
    def remembered(*args):
        loss, metrics = actor_loss(*args)
        losses.append(loss.item())
        return loss, metrics

    model, losses = tiny_model(), []
    actor_loss = model.losses.actor_loss
    monkeypatch.setattr(model.losses, "actor_loss", remembered)
    lines = learned_lines(model, 4)
    means = [np.mean(losses[:2]), np.mean(losses[2:])]
    assert [line["train/actor_loss"] for line in lines] == pytest.approx(means, rel=1e-5)


def test_no_log_is_written_where_none_is_wanted():
    assert learned_lines(tiny_model(), 3, log_interval=None) == []
