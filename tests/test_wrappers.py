"""`TaskTextWrapper`: an environment that says its task in every observation."""

from collections.abc import Iterator
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as check_env_of_gymnasium
from numpy.testing import assert_array_equal
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from toys import ActionEnv

from sb3_llmdpd.envs.task_text_wrapper import TaskTextWrapper, plain_observation_space, split_observation
from sb3_llmdpd.prompts.text_encoders import make_text_encoder

ENCODER = "hashing:8"
OPEN, CLOSE = "open the drawer", "close the drawer"
VECTOR = {text: make_text_encoder(ENCODER).encode([text])[0] for text in (OPEN, CLOSE)}
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 8, 8), np.uint8)
IMAGE_AND_STATE = spaces.Dict(image=IMAGE, state=BOX)


class DictEnv(ActionEnv):
    """`ActionEnv` whose observation is a dict of zeros, new ones each time."""

    def __init__(self, space: spaces.Dict) -> None:
        super().__init__()
        self.observation_space: Any = space

    def reset(self, **kwargs: Any) -> Any:
        super().reset(**kwargs)
        return self._zeros(), {}

    def step(self, action: np.ndarray) -> Any:
        return self._zeros(), *super().step(action)[1:]

    def _zeros(self) -> dict[str, np.ndarray]:
        parts = self.observation_space.spaces
        return {key: np.zeros(space.shape, space.dtype) for key, space in parts.items()}


def wrapped(text: str = OPEN, env: gym.Env[Any, Any] | None = None) -> TaskTextWrapper:
    return TaskTextWrapper(env or ActionEnv(), text, ENCODER)


# Contents of an observation


def test_an_observation_holds_the_environments_own_and_the_vector_of_the_sentence():
    env = wrapped()
    first, _ = env.reset()
    second, *_ = env.step(np.zeros(2, np.float32))
    for observation in (first, second):
        assert set(observation) == {"observation", "task_embedding"}
        assert_array_equal(observation["observation"], np.full(5, 0.5))
        assert_array_equal(observation["task_embedding"], VECTOR[OPEN])
        assert env.observation_space.contains(observation)


def test_the_sentence_stands_in_info_and_attributes():
    env = wrapped(f" {OPEN}\n")
    infos = env.reset()[1], env.step(np.zeros(2, np.float32))[-1]
    assert [info["task_text"] for info in infos] == [OPEN, OPEN]
    assert (env.task_text, env.task_description) == (OPEN, OPEN)


def test_a_dict_observation_gets_the_vector_beside_its_keys():
    env = wrapped(env=DictEnv(IMAGE_AND_STATE))
    observation, _ = env.reset()
    assert set(observation) == {"image", "state", "task_embedding"}
    assert_array_equal(observation["task_embedding"], VECTOR[OPEN])
    assert env.observation_space.contains(observation)


def test_an_observation_that_is_changed_changes_no_task():
    env = wrapped()
    env.reset()[0]["task_embedding"] += 1.0
    assert_array_equal(env.reset()[0]["task_embedding"], VECTOR[OPEN])


def test_an_encoder_may_be_given_itself():
    class Sevens:
        name, dim = "sevens", 3

        def encode(self, texts: Any) -> np.ndarray:
            return np.full((len(texts), 3), 7.0)

    observation, _ = TaskTextWrapper(ActionEnv(), OPEN, Sevens()).reset()
    assert_array_equal(observation["task_embedding"], [7.0, 7.0, 7.0])


@pytest.mark.parametrize(
    ("env", "plain"),
    [(ActionEnv(), ActionEnv.observation_space), (DictEnv(IMAGE_AND_STATE), IMAGE_AND_STATE)],
    ids=["array", "dict"],
)
def test_the_plain_space_is_that_of_the_environment_inside(env, plain):
    assert plain_observation_space(wrapped(env=env).observation_space) == plain


def test_any_other_space_is_plain_already():
    for space in (BOX, spaces.Discrete(3), spaces.Dict(observation=BOX), IMAGE_AND_STATE):
        assert plain_observation_space(space) is space


def test_an_observation_is_split_as_it_was_joined():
    plain, vector = split_observation(wrapped().reset()[0], ActionEnv.observation_space)
    assert_array_equal(plain, np.full(5, 0.5))
    assert_array_equal(vector, VECTOR[OPEN])
    dict_env = wrapped(CLOSE, DictEnv(IMAGE_AND_STATE))
    plain, vector = split_observation(dict_env.reset()[0], IMAGE_AND_STATE)
    assert set(plain) == {"image", "state"}
    assert_array_equal(vector, VECTOR[CLOSE])


def test_a_model_that_learned_from_the_vector_keeps_it_in_the_observation():
    env = wrapped()
    observation, _ = env.reset()
    assert split_observation(observation, env.observation_space) == (observation, None)


# Another sentence


def test_another_sentence_counts_from_the_next_observation_on():
    env = wrapped()
    env.reset()
    env.set_task_text(CLOSE)
    observation, *_, info = env.step(np.zeros(2, np.float32))
    assert_array_equal(observation["task_embedding"], VECTOR[CLOSE])
    assert (info["task_text"], env.task_text) == (CLOSE, CLOSE)


@pytest.mark.parametrize("vec_env_class", [DummyVecEnv, pytest.param(SubprocVecEnv, marks=pytest.mark.slow)])
def test_one_of_several_sub_environments_changes_its_sentence(vec_env_class):
    vec_env = vec_env_class([lambda: Monitor(wrapped())] * 2)
    try:
        vec_env.env_method("set_task_text", CLOSE, indices=[1])
        observations: Any = vec_env.reset()
        assert_array_equal(observations["task_embedding"], [VECTOR[OPEN], VECTOR[CLOSE]])
        assert vec_env.get_attr("task_text") == [OPEN, CLOSE]
    finally:
        vec_env.close()


def test_gymnasiums_vector_environment_batches_the_vectors():
    vector_env = gym.vector.SyncVectorEnv([lambda: wrapped(OPEN), lambda: wrapped(CLOSE)])
    observations, infos = vector_env.reset()
    assert_array_equal(observations["task_embedding"], [VECTOR[OPEN], VECTOR[CLOSE]])
    assert list(infos["task_text"]) == [OPEN, CLOSE]
    vector_env.call("set_task_text", CLOSE)
    observations, *_ = vector_env.step(np.zeros((2, 2), np.float32))
    assert_array_equal(observations["task_embedding"], [VECTOR[CLOSE]] * 2)


# As an environment


TWO_VECTORS = DictEnv(spaces.Dict(state=BOX, speed=BOX))


@pytest.mark.parametrize("env", [ActionEnv(), TWO_VECTORS], ids=["array", "dict"])
def test_it_passes_stable_baselines3s_check(env):
    check_env_of_sb3(wrapped(env=env))


@pytest.mark.filterwarnings("ignore:.*WARN")  # that it is a wrapper, has no bounds, and no registered id
def test_it_passes_gymnasiums_check():
    check_env_of_gymnasium(wrapped(env=TWO_VECTORS))


def test_a_pickled_copy_says_the_same():
    copy = cloudpickle.loads(cloudpickle.dumps(wrapped(CLOSE)))
    assert_array_equal(copy.reset()[0]["task_embedding"], VECTOR[CLOSE])
    assert copy.task_text == CLOSE


def test_no_language_model_is_pickled_with_it():
    assert b"TextEncoder" not in cloudpickle.dumps(wrapped())


@pytest.fixture
def registered() -> Iterator[str]:
    gym.register("ActionToy-v0", entry_point=ActionEnv)
    yield "ActionToy-v0"
    del gym.registry["ActionToy-v0"]


def test_its_spec_makes_it_again(registered):
    env = wrapped(CLOSE, gym.make(registered))
    assert env.spec is not None
    assert_array_equal(gym.make(env.spec).reset()[0]["task_embedding"], VECTOR[CLOSE])


# Mistakes


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("  ", ValueError, "`task_text`: a task text is empty"),
        (3, TypeError, "must be a string, got int: one environment does one task"),
        ([OPEN, CLOSE], TypeError, "must be a string, got list: one environment does one task"),
    ],
)
def test_what_is_no_sentence_is_refused(text, error, message):
    with pytest.raises(error, match=message):
        wrapped(text)


def test_a_refused_sentence_leaves_the_one_of_before():
    env = wrapped()
    with pytest.raises(ValueError, match="empty"):
        env.set_task_text("")
    assert env.task_text == OPEN
    assert_array_equal(env.reset()[0]["task_embedding"], VECTOR[OPEN])


@pytest.mark.parametrize(
    "env", [wrapped(), DictEnv(spaces.Dict(observation=BOX))], ids=["wrapped twice", "ambiguous key"]
)
def test_a_dict_without_room_is_refused(env):
    message = r"a dict with the keys \['observation'.*is ambiguous: wrap an environment once"
    with pytest.raises(ValueError, match=message):
        wrapped(env=env)


def test_an_unknown_encoder_is_refused():
    with pytest.raises(ValueError, match="minilm"):
        TaskTextWrapper(ActionEnv(), OPEN, "no such encoder")
