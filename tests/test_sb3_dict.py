"""Stable-Baselines3's tests of Dict observations, asked of LLMDPD; each says which one it answers."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from factories import model_of, recorded
from gymnasium import spaces
from numpy.testing import assert_allclose
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import SimpleMultiObsEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
)
from toys import SpacesEnv

from sb3_llmdpd import LLMDPD, Episode

ACTIONS = spaces.Box(-1.0, 1.0, (2,))
VECTOR = spaces.Box(-1.0, 1.0, (2,))
SMALL = dict(features_extractor_kwargs=dict(cnn_output_dim=8))


def mixed_env(channels_last: bool = False) -> SpacesEnv:
    """An image, a vector and a number."""
    image = spaces.Box(0, 255, (36, 36, 1) if channels_last else (1, 36, 36), np.uint8)
    return SpacesEnv(spaces.Dict(img=image, vec=VECTOR, discrete=spaces.Discrete(4)), ACTIONS, length=5)


def nested_env() -> SpacesEnv:
    return SpacesEnv(spaces.Dict(vec=VECTOR, more=spaces.Dict(discrete=spaces.Discrete(4))), ACTIONS)


def dict_model(env: Any, **kwargs: Any) -> LLMDPD:
    return model_of(env, policy="MultiInputPolicy", seed=1, policy_kwargs=SMALL, **kwargs)


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_environments_of_these_tests_are_sound(channels_last):
    """Answers `test_dict_env.py::test_env`."""
    check_env(mixed_env(channels_last))


@pytest.mark.parametrize("channels_last", [True, False])
def test_images_vectors_and_numbers_are_learned_from_together(channels_last):
    """Answers `test_dict_env.py::test_dict_spaces`."""
    env = mixed_env(channels_last)
    model = dict_model(env, gamma=0.5).learn(2)
    assert model.observation_space["img"].shape == (1, 36, 36)
    returns, lengths = evaluate_policy(model, env, n_eval_episodes=2, warn=False, return_episode_rewards=True)
    assert (returns, lengths) == ([5.0, 5.0], [5, 5])


def test_a_dict_of_one_vector_is_learned_from_as_the_vector():
    """Answers `test_dict_env.py::test_consistency`: the same networks, the same actions before and after."""
    dict_env = SpacesEnv(spaces.Dict(vec=VECTOR), ACTIONS)
    dataset = recorded(dict_env)
    plain = [replace(episode, observations=episode.observations["vec"]) for episode in dataset.episodes]
    plain_dataset = type(dataset).from_episodes(plain, VECTOR, ACTIONS)
    observations = np.stack([VECTOR.sample() for _ in range(5)])
    kwargs = dict(gamma=0.5, seed=1, policy_kwargs=dict(net_arch=[8, 8]))
    of_dict = model_of(dict_env, policy="MultiInputPolicy", dataset=dataset, **kwargs)
    of_vector = model_of(gym.wrappers.FlattenObservation(dict_env), dataset=plain_dataset, **kwargs)
    for _ in range(2):
        actions = of_dict.predict({"vec": observations}, deterministic=True)[0]
        assert_allclose(actions, of_vector.predict(observations, deterministic=True)[0], rtol=1e-5, atol=1e-6)
        of_dict.learn(4)
        of_vector.learn(4)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_environments_in_other_processes_may_stand_beside_training():
    """Answers `test_dict_env.py::test_multiprocessing`."""
    fork = dict(vec_env_cls=SubprocVecEnv, vec_env_kwargs=dict(start_method="fork"))
    env = make_vec_env(mixed_env, n_envs=2, **fork)
    try:
        model = dict_model(env, gamma=0.5).learn(2)
        assert evaluate_policy(model, env, n_eval_episodes=2) == (5.0, 0.0)
    finally:
        env.close()
    assert (model.num_timesteps, model.n_envs) == (2, 2)


@pytest.mark.parametrize("channels_last", [True, False])
def test_frames_may_be_stacked(channels_last):
    """Answers `test_dict_env.py::test_dict_vec_framestack`."""
    env = DummyVecEnv([lambda: SimpleMultiObsEnv(discrete_actions=False, channel_last=channels_last)])
    order = {"vec": None, "img": "last" if channels_last else "first"}
    model = dict_model(VecFrameStack(env, 3, order), gamma=0.5).learn(2)
    assert isinstance(model.get_env(), VecTransposeImage) == channels_last
    shapes = {key: space.shape for key, space in model.observation_space.items()}
    assert shapes == {"img": (3, 64, 64), "vec": (15,)}
    _, lengths = evaluate_policy(model, model.get_env(), 1, warn=False, return_episode_rewards=True)
    assert 1 <= lengths[0] <= 101


def normalised_envs() -> VecNormalize:
    return VecNormalize(DummyVecEnv([mixed_env]), norm_obs_keys=["vec"])


REFUSED: dict[str, Any] = {
    "the constructor": lambda model, path: LLMDPD("MultiInputPolicy", normalised_envs(), device="cpu"),
    "the constructor with data": lambda model, path: model_of(normalised_envs(), policy="MultiInputPolicy"),
    "set_env": lambda model, path: model.set_env(normalised_envs()),
    "load": lambda model, path: LLMDPD.load(path, env=normalised_envs()),
}


@pytest.mark.parametrize("where", REFUSED)
def test_vec_normalize_is_refused_with_what_does_its_work(where, tmp_path):
    """Answers `test_dict_env.py::test_vec_normalize`, and `test_offpolicy_normalization`."""
    model = dict_model(mixed_env())
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"VecNormalize.*the policy standardises observations"):
        REFUSED[where](model, tmp_path / "model")
    assert model.get_vec_normalize_env() is None


@pytest.mark.parametrize("keys", [("observation.state", "observation.images.top"), ("keys", "type")])
def test_keys_may_be_what_pytorch_takes_for_no_name(keys, tmp_path):
    """Beyond `test_dict_env.py::test_dict_spaces`: LeRobot's keys have dots; trained, saved, loaded."""
    vector, image = keys
    env = SpacesEnv(spaces.Dict({vector: VECTOR, image: spaces.Box(0, 255, (1, 36, 36), np.uint8)}), ACTIONS)
    model = dict_model(env).learn(2)
    model.save(tmp_path / "model")
    loaded = LLMDPD.load(tmp_path / "model", env=env, device="cpu")
    observations = {key: np.stack([space.sample()] * 2) for key, space in env.observation_space.items()}
    actions = model.predict(observations, deterministic=True)[0]
    assert np.array_equal(loaded.predict(observations, deterministic=True)[0], actions)
    assert actions.shape == (2, 2)


def test_a_nested_dict_is_refused():
    """Answers `test_dict_env.py::test_dict_nested`: of an environment, vectorised or not, and of data."""
    with pytest.raises(NotImplementedError, match="Nested observation spaces"):
        LLMDPD("MultiInputPolicy", nested_env(), seed=1)
    with pytest.raises(NotImplementedError, match="Nested observation spaces"):
        DummyVecEnv([nested_env])
    rows = {"vec": np.zeros((3, 2)), "more": {"discrete": np.zeros(3)}}
    with pytest.raises(TypeError, match=r"logs: `observations\['more'\]` must be an array of numbers"):
        Episode(rows, np.zeros((2, 2)), np.zeros(2), source="logs")


def test_every_part_of_a_dict_matters():
    """Beyond `test_dict_env.py::test_dict_spaces`: no key is read over."""
    env = mixed_env()
    model = dict_model(env, learning_rate=1e-3).learn(3)
    with th.no_grad():
        base = {key: space.sample() for key, space in env.observation_space.items()}
        other = {"img": 255 - base["img"], "vec": -base["vec"], "discrete": (base["discrete"] + 1) % 4}
        features = [
            model.actor_target.encode_observations(model.policy.obs_to_tensor({**base, **{key: value}})[0])
            for key, value in [("vec", base["vec"]), *other.items()]
        ]
    assert [bool(th.equal(features[0], changed)) for changed in features[1:]] == [False] * 3
