"""Meta-World's own evaluation of a prompted model."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import metaworld
import numpy as np
import pytest
from factories import make_episodes, tiny_model
from metaworld.evaluation import evaluation
from numpy.testing import assert_array_equal

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.data.metaworld import TASKS
from sb3_llmdpd.evaluation.metaworld_agent import MetaWorldAgent, task_texts_of

EPISODES = make_episodes(observation_dim=39, action_dim=4)
NAMES = ["reach-v3", "drawer-open-v3"]
TEXTS = ["do task number 0", "do task number 1"]
OBSERVATIONS = np.random.default_rng(1).standard_normal((2, 39))

MakeEnvs = Callable[..., gym.vector.SyncVectorEnv]


@pytest.fixture(scope="module")
def model() -> LLMDPD:
    return tiny_model(dataset=EPISODES, learning_rate=3e-3, eta=0.1).learn(40, log_interval=None)


@pytest.fixture
def make_envs(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> MakeEnvs:
    """Meta-World's own environments of two tasks, four steps long; one goal each makes two runs alike."""
    monkeypatch.setattr(metaworld, "_N_GOALS", 1)

    def make(**options: Any) -> gym.vector.SyncVectorEnv:
        make_one = partial(metaworld.make_mt_envs, seed=0, max_episode_steps=4, **options)
        makers = [partial(make_one, name) for name in NAMES]
        envs = gym.vector.SyncVectorEnv(makers, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
        request.addfinalizer(envs.close)
        return envs

    return make


def returns_by_hand(model: LLMDPD, envs: gym.vector.SyncVectorEnv, **prompt: Any) -> np.ndarray:
    """(n_envs,): of one episode, without Meta-World's evaluation and without the agent."""
    observations, _ = envs.reset()
    total = np.zeros(envs.num_envs)
    for _ in range(4):
        actions, _ = model.predict(observations, deterministic=True, **prompt)
        observations, rewards, *_ = envs.step(actions)
        total += rewards
    return total


@pytest.mark.slow
@pytest.mark.parametrize("prompt", [dict(task_text=TEXTS), dict(trajectory=[EPISODES[0], EPISODES[8]])])
def test_meta_worlds_evaluation_measures_what_the_model_does_on_each_task(model, make_envs, prompt):
    agent = MetaWorldAgent(model, **prompt)
    _, mean_return, success_rates, returns = evaluation(agent, make_envs(), num_episodes=1)
    expected = returns_by_hand(model, make_envs(), **prompt)
    np.testing.assert_allclose([returns[name][0] for name in NAMES], expected, rtol=1e-4)
    assert mean_return == pytest.approx(expected.mean(), rel=1e-4)
    assert success_rates == dict.fromkeys(NAMES, 0.0)


def test_each_sub_environment_acts_on_its_own_prompt(model: LLMDPD) -> None:
    agents = (MetaWorldAgent(model, task_text=texts) for texts in (TEXTS, TEXTS[::-1]))
    actions, swapped = (agent.eval_action(OBSERVATIONS) for agent in agents)
    assert_array_equal(actions, model.predict(OBSERVATIONS, deterministic=True, task_text=TEXTS)[0])
    assert actions.dtype == np.float64
    assert np.abs(actions - swapped).max() > 1e-3


def test_without_a_prompt_the_task_of_the_model_counts(model: LLMDPD) -> None:
    agent = MetaWorldAgent(model)
    with pytest.raises(ValueError, match="which task"):
        agent.eval_action(OBSERVATIONS)
    with model.using_task(task_text=TEXTS[1]):
        actions = agent.eval_action(OBSERVATIONS)
    assert_array_equal(actions, MetaWorldAgent(model, task_text=TEXTS[1]).eval_action(OBSERVATIONS))


def aligned_scenes(monkeypatch: pytest.MonkeyPatch, model: LLMDPD) -> list[Any]:
    """Let a model align, by a function that notes the scenes and moves nothing."""
    scenes: list[Any] = []
    monkeypatch.setattr(model, "alignment", lambda shown, scene: scenes.append(scene) or shown)
    return scenes


def test_examples_are_moved_into_the_scenes_in_which_episodes_begin(model, monkeypatch):
    scenes = aligned_scenes(monkeypatch, model)
    agent = MetaWorldAgent(model, trajectory=EPISODES[0])
    agent.reset(np.ones(2, bool))
    for step, ended in enumerate([(False, False), (False, True), (False, False)]):
        agent.eval_action(OBSERVATIONS + step)
        agent.reset(np.array(ended))
    assert_array_equal(scenes, [*OBSERVATIONS, OBSERVATIONS[1] + 2])


def test_episodes_begin_where_nothing_was_said_yet(model, monkeypatch):
    scenes = aligned_scenes(monkeypatch, model)
    agent = MetaWorldAgent(model, trajectory=EPISODES[0])
    for step in range(2):
        agent.eval_action(OBSERVATIONS + step)
    assert_array_equal(scenes, OBSERVATIONS)


def test_a_second_evaluation_may_have_other_sub_environments(model, monkeypatch):
    scenes = aligned_scenes(monkeypatch, model)
    agent = MetaWorldAgent(model, trajectory=EPISODES[0])
    for n in (2, 1):
        agent.reset(np.ones(n, bool))
        agent.eval_action(OBSERVATIONS[:n])
    assert_array_equal(scenes, [*OBSERVATIONS, OBSERVATIONS[0]])


def test_noise_is_drawn_on_demand(model: LLMDPD) -> None:
    agent = MetaWorldAgent(model, task_text=TEXTS, deterministic=False)
    assert np.abs(agent.eval_action(OBSERVATIONS) - agent.eval_action(OBSERVATIONS)).max() > 1e-3


def test_the_sentences_of_environments_come_in_their_order(make_envs: MakeEnvs) -> None:
    assert task_texts_of(make_envs()) == [TASKS["reach"].text, TASKS["drawer-open"].text]


@pytest.mark.filterwarnings("ignore:.*precision lowered by casting")  # of Meta-World's space
def test_task_numbers_in_the_observations_are_refused(model: LLMDPD, make_envs: MakeEnvs) -> None:
    envs = make_envs(use_one_hot=True, num_tasks=2, env_id=0)
    message = r"shape \(41,\), and the model acts on \(39,\): make them without `use_one_hot`"
    with pytest.raises(ValueError, match=message):
        evaluation(MetaWorldAgent(model, task_text=TEXTS), envs, num_episodes=1)


def test_as_many_prompts_as_sub_environments_are_needed(model: LLMDPD) -> None:
    with pytest.raises(ValueError, match="Got 3 prompts for 2 observations"):
        MetaWorldAgent(model, task_text=TEXTS[:1] * 3).eval_action(OBSERVATIONS)
