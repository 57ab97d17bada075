"""Stable-Baselines3's and Gymnasium's own tools act on the right task, in whichever way it was said."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from factories import make_episodes, tiny_model
from gymnasium import spaces
from numpy.testing import assert_allclose, assert_array_equal
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor
from stable_baselines3.common.vec_env.vec_video_recorder import VecVideoRecorder
from toys import ActionEnv

from sb3_llmdpd import LLMDPD, Episode
from sb3_llmdpd.common.optional_imports import require
from sb3_llmdpd.envs.task_text_wrapper import TaskTextWrapper
from sb3_llmdpd.prompts.text_encoders import make_text_encoder

TEXTS = ["do task number 0", "do task number 1", "do task number 2"]
EPISODES = make_episodes()
OBSERVATION = np.full(5, 0.5, np.float32)
"""The constant observation of `ActionEnv`."""


class RecordingEnv(ActionEnv):
    """Keeps the last action, and draws a picture as bright as its first entry is large."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - gymnasium's own declaration
    render_mode = "rgb_array"
    last_action = np.zeros(2, np.float32)

    def step(self, action: np.ndarray) -> Any:
        self.last_action = action.copy()
        return super().step(action)

    def render(self) -> np.ndarray:
        return np.full((32, 32, 3), 128 + 120 * self.last_action[0], np.uint8)


def short_training() -> LLMDPD:
    """Long enough for three tasks to ask for three actions."""
    return tiny_model(dataset=EPISODES, learning_rate=3e-3, eta=0.1).learn(40, log_interval=None)


@pytest.fixture(scope="module")
def trained() -> LLMDPD:
    return short_training()


@pytest.fixture
def learner() -> LLMDPD:
    """A model that a test may train on."""
    return short_training()


@pytest.fixture
def model(trained: LLMDPD) -> Iterator[LLMDPD]:
    yield trained
    trained.set_task()


def actions_of(model: LLMDPD, texts: str | Sequence[str]) -> np.ndarray:
    """(n_texts, 2), or (2,): actions of the model in `ActionEnv` by its own `predict`."""
    rows = OBSERVATION if isinstance(texts, str) else np.tile(OBSERVATION, (len(texts), 1))
    return model.predict(rows, deterministic=True, task_text=texts)[0]


Maker = Callable[[], gym.Env[Any, Any]]


def wrapped(text: str, encoder: str = "hashing", env_class: type[RecordingEnv] = RecordingEnv) -> Maker:
    return lambda: Monitor(TaskTextWrapper(env_class(), text, encoder))


def plain() -> gym.Env[Any, Any]:
    return Monitor(RecordingEnv())


def told(model: LLMDPD, how: str, texts: list[str]) -> tuple[Any, list[Maker]]:
    """Tell tasks in one of three ways; return the actor, and a maker of a sub-environment for each text."""
    if how == "wrapper":
        return model, [wrapped(text) for text in texts]
    if how == "set_task":
        model.set_task(task_text=texts)
        return model, [plain] * len(texts)
    return model.prompted(task_text=texts), [plain] * len(texts)


every_way = pytest.mark.parametrize("how", ["set_task", "prompted", "wrapper"])


def test_the_three_tasks_ask_for_three_actions(trained):
    """Without this, the tests below would prove nothing."""
    actions = actions_of(trained, TEXTS)[:, 0]
    assert np.diff(np.sort(actions)).min() > 0.01
    assert np.abs(actions).max() < 1.0


def evaluated(acting: Any, env: Any, n_episodes: int) -> list[float]:
    """Returns of the episodes."""
    returns, lengths = evaluate_policy(acting, env, n_episodes, return_episode_rewards=True)
    assert lengths == [3] * n_episodes
    return returns


# evaluate_policy


@every_way
@pytest.mark.parametrize(
    "texts", [TEXTS[1:2], TEXTS, [TEXTS[2], TEXTS[0], TEXTS[2], TEXTS[1]]], ids=["one", "three", "four"]
)
def test_evaluate_policy_tells_each_sub_environment_its_task(model, how, texts):
    acting, makers = told(model, how, texts)
    vec_env = DummyVecEnv(makers)
    returns = evaluated(acting, vec_env, len(texts))
    expected = actions_of(model, texts)
    assert_array_equal(vec_env.get_attr("last_action"), expected)
    assert_allclose(returns, 3 * expected[:, 0], atol=1e-5)


@every_way
def test_evaluate_policy_takes_an_environment_that_is_not_vectorised(model, how):
    acting, makers = told(model, how, TEXTS[1:2])
    mean_reward, std_reward = evaluate_policy(acting, makers[0](), n_eval_episodes=2)
    assert mean_reward == pytest.approx(3 * actions_of(model, TEXTS[1])[0], abs=1e-5)
    assert std_reward == pytest.approx(0.0, abs=1e-6)


@every_way
def test_the_same_task_everywhere_is_said_once(model, how):
    acting, makers = told(model, how, TEXTS[1:2])
    returns = evaluated(acting, DummyVecEnv(makers * 5), 5)
    assert_allclose(returns, [3 * actions_of(model, TEXTS[1])[0]] * 5, atol=1e-5)


def test_a_sub_environment_that_changes_its_task_gets_other_actions(model):
    vec_env = DummyVecEnv([wrapped(TEXTS[0]), wrapped(TEXTS[1])])
    vec_env.env_method("set_task_text", TEXTS[2], indices=[1])
    evaluate_policy(model, vec_env, n_eval_episodes=2)
    assert_array_equal(vec_env.get_attr("last_action"), actions_of(model, [TEXTS[0], TEXTS[2]]))


def test_an_example_is_shown_to_all_beside_the_sentence_of_each(model):
    model.set_task(trajectory=EPISODES[8])
    vec_env = DummyVecEnv([wrapped(text) for text in TEXTS])
    evaluate_policy(model, vec_env, n_eval_episodes=3)
    expected, _ = model.predict(
        np.tile(OBSERVATION, (3, 1)), deterministic=True, task_text=TEXTS, trajectory=EPISODES[8]
    )
    assert_array_equal(vec_env.get_attr("last_action"), expected)
    assert np.abs(expected - actions_of(model, TEXTS)).max() > 1e-3


def test_as_many_tasks_as_sub_environments_or_one_are_needed(model):
    model.set_task(task_text=TEXTS)
    message = "Got 3 prompts for 2 observations: pass one prompt, or one per observation"
    with pytest.raises(ValueError, match=message):
        evaluate_policy(model, DummyVecEnv([plain] * 2), n_eval_episodes=2)


# Around the environments


@every_way
def test_vec_monitor_counts_the_rewards_of_each_task(model, how):
    acting, makers = told(model, how, TEXTS)
    vec_env = VecMonitor(DummyVecEnv([lambda maker=maker: maker().env for maker in makers]))
    observations = vec_env.reset()
    for _ in range(3):
        observations, _, dones, infos = vec_env.step(acting.predict(observations, deterministic=True)[0])
    assert dones.all()
    assert_allclose([info["episode"]["r"] for info in infos], 3 * actions_of(model, TEXTS)[:, 0], atol=1e-5)


def test_frames_are_stacked_for_a_model_that_was_told_its_task():
    model = tiny_model(dataset=make_episodes(observation_dim=10))
    model.set_task(task_text=TEXTS[0])
    returns = evaluated(model, VecFrameStack(DummyVecEnv([plain]), 2), 1)
    stacked = np.array([[0.0] * 5 + [0.5] * 5, [0.5] * 10, [0.5] * 10])
    assert returns[0] == pytest.approx(model.predict(stacked, deterministic=True)[0][:, 0].sum(), abs=1e-5)


def test_a_sentence_that_was_stacked_with_the_frames_is_refused(model):
    vec_env = VecFrameStack(DummyVecEnv([wrapped(TEXTS[0])]), 2)
    with pytest.raises(ValueError, match=r"has 512 entries, and this model reads 256"):
        model.predict({**vec_env.reset(), "observation": OBSERVATION[None]})


@pytest.mark.slow
def test_sub_environments_in_processes_of_their_own_carry_their_tasks(model):
    vec_env = SubprocVecEnv([wrapped(text) for text in TEXTS[:2]])
    try:
        evaluate_policy(model, vec_env, n_eval_episodes=2)
        assert_array_equal(vec_env.get_attr("last_action"), actions_of(model, TEXTS[:2]))
    finally:
        vec_env.close()


@every_way
def test_gymnasiums_vector_environment_is_acted_in(model, how):
    acting, makers = told(model, how, TEXTS)
    vector_env = gym.vector.SyncVectorEnv(makers)
    observations, _ = vector_env.reset()
    actions, _ = acting.predict(observations, deterministic=True)
    _, rewards, *_ = vector_env.step(actions)
    assert_array_equal(actions, actions_of(model, TEXTS))
    assert_allclose(rewards, actions[:, 0], atol=1e-6)


# Video


@every_way
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_video_shows_what_the_policy_does_on_its_task(model, how, tmp_path):
    acting, makers = told(model, how, TEXTS[1:2])
    vec_env = VecVideoRecorder(DummyVecEnv(makers), str(tmp_path), lambda step: step == 0, video_length=3)
    observations = vec_env.reset()
    for _ in range(3):
        observations, *_ = vec_env.step(acting.predict(observations, deterministic=True)[0])
    vec_env.close()
    gc.collect()  # moviepy leaves pipes, which warn here
    (path,) = tmp_path.glob("*.mp4")
    frames = require("imageio.v3", "video").imread(path)  # (n, 32, 32, 3)
    after = 128 + 120 * actions_of(model, TEXTS[1])[0]
    assert_allclose(frames.mean(axis=(1, 2, 3)), [128, after, after, after], atol=4)  # the codec rounds


# During training


def last_evaluation(model: LLMDPD, env: gym.Env[Any, Any]) -> float:
    """Train two steps, and evaluate after the second."""
    callback = EvalCallback(env, n_eval_episodes=2, eval_freq=2, verbose=0)
    model.learn(2, callback=callback, log_interval=None)
    return callback.last_mean_reward


@pytest.mark.parametrize("tell", ["set_task", "using_task"])
def test_a_callback_evaluates_the_task_that_is_set(learner, tell):
    with getattr(learner, tell)(task_text=TEXTS[1]) or nullcontext():
        mean_reward = last_evaluation(learner, plain())
    assert mean_reward == pytest.approx(3 * actions_of(learner, TEXTS[1])[0], abs=1e-5)


def test_two_callbacks_evaluate_two_tasks(learner):
    envs = [wrapped(text)() for text in TEXTS[:2]]
    callbacks = [EvalCallback(env, n_eval_episodes=2, eval_freq=2, verbose=0) for env in envs]
    learner.learn(2, callback=callbacks, log_interval=None)
    expected = 3 * actions_of(learner, TEXTS[:2])[:, 0]
    assert_allclose([callback.last_mean_reward for callback in callbacks], expected, atol=1e-5)
    assert abs(expected[0] - expected[1]) > 0.01


def test_a_callback_evaluates_a_task_for_each_sub_environment(learner, tmp_path):
    env = DummyVecEnv([wrapped(text) for text in TEXTS])
    callback = EvalCallback(env, n_eval_episodes=3, eval_freq=2, log_path=str(tmp_path), verbose=0)
    learner.learn(2, callback=callback, log_interval=None)
    with np.load(tmp_path / "evaluations.npz") as evaluations:
        assert_allclose(evaluations["results"], [3 * actions_of(learner, TEXTS)[:, 0]], atol=1e-5)


# As the model's own environment


def assert_acts_in_its_environment(model: LLMDPD, texts: list[str]) -> None:
    env = model.get_env()
    assert env is not None
    evaluate_policy(model, env, n_eval_episodes=len(texts))
    assert_array_equal(env.get_attr("last_action"), actions_of(model, texts))


def test_a_model_takes_wrapped_environments_as_its_own():
    model = tiny_model(dataset=EPISODES, env=DummyVecEnv([wrapped(text) for text in TEXTS]))
    assert model.observation_space == ActionEnv.observation_space
    assert_acts_in_its_environment(model.learn(1, log_interval=None), TEXTS)


def test_a_model_is_set_to_a_wrapped_environment():
    model = tiny_model(dataset=EPISODES)
    model.set_env(wrapped(TEXTS[2])())
    model.learn(1, log_interval=None)
    assert_acts_in_its_environment(model, TEXTS[2:])


def test_a_model_is_loaded_with_a_wrapped_environment(tmp_path):
    tiny_model(dataset=EPISODES).save(tmp_path / "model")
    model = LLMDPD.load(tmp_path / "model", env=wrapped(TEXTS[2])())
    assert_acts_in_its_environment(model, TEXTS[2:])


def test_images_are_put_in_order_beside_the_sentence():
    image = np.random.default_rng(0).integers(0, 256, (36, 36, 3), dtype=np.uint8)

    class ImageEnv(RecordingEnv):
        observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)

        def reset(self, **kwargs: Any) -> Any:
            return image.copy(), super().reset(**kwargs)[1]

        def step(self, action: np.ndarray) -> Any:
            return image.copy(), *super().step(action)[1:]

    episodes = [replace(episode, observations=np.stack([image] * 21)) for episode in EPISODES]
    model = tiny_model(policy="CnnPolicy", dataset=episodes, batch_size=6)
    env = DummyVecEnv([wrapped(text, env_class=ImageEnv) for text in TEXTS])
    model.set_env(env)
    evaluate_policy(model.learn(1, log_interval=None), model.get_env(), n_eval_episodes=3)
    expected, _ = model.predict(np.stack([image] * 3), deterministic=True, task_text=TEXTS)
    assert_array_equal(env.get_attr("last_action"), expected)


def with_vector(vector: np.ndarray) -> list[Episode]:
    """Episodes as recorded in a wrapped environment: the vector is a part of the observation."""
    vectors = np.tile(vector, (21, 1))
    return [
        replace(episode, observations={"observation": episode.observations, "task_embedding": vectors})
        for episode in EPISODES
    ]


def test_a_model_that_learned_from_the_vector_acts_on_it_as_on_other_observations(tmp_path):
    """The prompt comes beside it."""
    vector = make_text_encoder("hashing:4").encode(["go"])[0]
    env = DummyVecEnv([wrapped("go", "hashing:4")])
    model = tiny_model(policy="MultiInputPolicy", dataset=with_vector(vector), env=env)
    model.learn(1, log_interval=None).save(tmp_path / "model")
    model = LLMDPD.load(tmp_path / "model", env=env)
    observation = {"observation": OBSERVATION, "task_embedding": vector}
    evaluate_policy(model.prompted(task_text=TEXTS[0]), env, n_eval_episodes=1)
    expected, _ = model.predict(observation, deterministic=True, task_text=TEXTS[0])
    assert_allclose(env.get_attr("last_action"), [expected], atol=1e-6)


def test_data_that_say_their_task_in_the_observation_are_not_those_of_a_plain_model():
    message = "the observation space of the data is Dict.*and that of the model is Box"
    with pytest.raises(ValueError, match=message):
        tiny_model(dataset=EPISODES).set_dataset(with_vector(np.zeros(4)))
