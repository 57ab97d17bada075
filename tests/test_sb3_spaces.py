"""Stable-Baselines3's tests of spaces, asked of LLMDPD; each says which one it answers."""

from typing import Any

import numpy as np
import pytest
from factories import model_of, recorded
from gymnasium import spaces
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecExtractDictObs
from toys import SpacesEnv

from sb3_llmdpd import LLMDPD, Episode, OfflineDataset

FLOAT32, FLOAT64 = (spaces.Box(-1, 1, (2,), dtype) for dtype in (np.float32, np.float64))
UNUSUAL = {
    "several of several": spaces.MultiDiscrete([4, 3]),
    "switches": spaces.MultiBinary(8),
    "a table of switches": spaces.MultiBinary((3, 2)),
}


BOXES = {
    "a vector": FLOAT32,
    "a vector of doubles": FLOAT64,
    "a single number": spaces.Box(-1, 1, (1,)),
    "a matrix": spaces.Box(-1, 1, (2, 2)),
    "a tensor of doubles": spaces.Box(-1, 1, (2, 1, 3), np.float64),
    "positive": spaces.Box(1, 5, (10, 7)),
    "bounds of its own for each entry": spaces.Box(np.float32([-2, 0]), np.float32([0.5, 10])),
}


@pytest.mark.parametrize("space", UNUSUAL.values(), ids=UNUSUAL)
def test_the_environments_of_these_tests_are_sound(space):
    """Answers `test_spaces.py::test_env`."""
    check_env(SpacesEnv(space, FLOAT32), skip_render_check=True)


@pytest.mark.parametrize("space", UNUSUAL.values(), ids=UNUSUAL)
def test_observations_of_unusual_spaces_are_learned_from_and_acted_on(space):
    """Answers `test_spaces.py::test_identity_spaces`."""
    env = SpacesEnv(space, FLOAT32)
    model = model_of(env, gamma=0.5, seed=1).learn(5)
    returns, lengths = evaluate_policy(model, env, n_eval_episodes=2, warn=False, return_episode_rewards=True)
    assert (returns, lengths) == ([10.0, 10.0], [10, 10])


@pytest.mark.parametrize("n_envs", [1, 2])
def test_discrete_observations_are_learned_from_and_acted_on(n_envs):
    """Answers `test_spaces.py::test_discrete_obs_space`."""
    env = make_vec_env(lambda: SpacesEnv(spaces.Discrete(5), FLOAT32), n_envs=n_envs, seed=0)
    model = model_of(env, policy_kwargs=dict(layer_norm=False))  # with it most of these actions are clipped
    actions, _ = model.learn(3).predict(np.arange(5), deterministic=True)
    assert actions.shape == (5, 2)
    assert len(np.unique(actions, axis=0)) == 5


@pytest.mark.parametrize("as_dict", [False, True], ids=["alone", "in a dict"])
@pytest.mark.parametrize("start", [2, -3])
def test_discrete_observations_that_do_not_start_at_0_are_refused(start, as_dict):
    """Beyond `test_spaces.py::test_discrete_obs_space`: SB3's models cannot read them, says `check_env`."""
    space = spaces.Discrete(5, start=start)
    env = SpacesEnv(spaces.Dict(number=space) if as_dict else space, FLOAT32)
    policy = "MultiInputPolicy" if as_dict else "MlpPolicy"
    for make in (LLMDPD, lambda policy, env, **_: model_of(env, policy=policy)):
        with pytest.raises(ValueError, match=rf"start.*{start}"):
            make(policy, env, text_encoder=None, device="cpu")


@pytest.mark.parametrize("space", BOXES.values(), ids=BOXES)
def test_actions_of_every_box_are_learned_and_given(space):
    """Answers `test_spaces.py::test_action_spaces`."""
    env = SpacesEnv(FLOAT32, space)
    model = model_of(env).learn(4)
    for n in (1, 3):
        actions, _ = model.predict(np.zeros((n, 2), np.float32))
        assert (actions.shape, actions.dtype) == ((n, *space.shape), space.dtype)
        assert all(space.contains(action) for action in actions)
    example = recorded(env).episodes[0]
    action, _ = model.predict(np.zeros(2, np.float32), deterministic=True, trajectory=example)
    assert space.contains(action)
    assert evaluate_policy(model, env, n_eval_episodes=1, warn=False)[0] == 10.0


@pytest.mark.parametrize(
    "space",
    [spaces.Discrete(2), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3), spaces.MultiBinary([2, 3])],
    ids=str,
)
def test_actions_of_other_spaces_are_refused(space):
    """Answers `test_spaces.py::test_action_spaces` and `test_multidim_binary_not_supported`."""
    with pytest.raises(AssertionError, match=r"only supports .*Box.* as action spaces"):
        LLMDPD("MlpPolicy", SpacesEnv(FLOAT32, space), device="cpu")


@pytest.mark.parametrize("action_space", [FLOAT32, FLOAT64], ids=["float32", "float64"])
@pytest.mark.parametrize(
    "space",
    [FLOAT32, FLOAT64, spaces.Dict(a=FLOAT32, b=FLOAT32), spaces.Dict(a=FLOAT32, b=FLOAT64)],
    ids=["float32", "float64", "dict", "dict of both"],
)
def test_actions_are_of_the_type_of_their_space_whatever_the_observations_are(space, action_space):
    """Answers `test_spaces.py::test_float64_action_space`."""
    env = SpacesEnv(space, action_space)
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    model = model_of(env, policy=policy).learn(3)
    observation, _ = env.reset()
    for deterministic in (False, True):
        assert model.predict(observation, deterministic=deterministic)[0].dtype == action_space.dtype


def test_one_array_may_be_taken_out_of_a_dict():
    """Answers `test_vec_extract_dict_obs.py::test_vec_with_ppo`."""
    env = DummyVecEnv([lambda: SpacesEnv(spaces.Dict(rgb=FLOAT32, other=spaces.Discrete(3)), FLOAT32)])
    model = model_of(VecExtractDictObs(env, "rgb")).learn(3)
    assert model.observation_space == FLOAT32
    assert evaluate_policy(model, model.get_env(), n_eval_episodes=1, warn=False)[0] == 10.0


def test_actions_without_finite_bounds_are_refused():
    """Answers what SB3's constructor asserts: an action in [-1, 1] would mean nothing."""
    with pytest.raises(AssertionError, match="finite lower and upper bound"):
        LLMDPD("MlpPolicy", SpacesEnv(FLOAT32, spaces.Box(-np.inf, 1.0, (2,))), device="cpu")


OUTSIDE: dict[str, tuple[spaces.Space[Any], Any]] = {
    "one of several": (spaces.Discrete(3), [0, 1, 2, 7, 0]),
    "below 0": (spaces.Discrete(3), [0, 1, -1, 0, 1]),
    "several of several": (spaces.MultiDiscrete([2, 3]), [[0, 0], [1, 2], [0, 3], [0, 1], [1, 1]]),
}


@pytest.mark.parametrize(("space", "rows"), OUTSIDE.values(), ids=OUTSIDE)
def test_numbered_observations_outside_their_space_are_refused_by_the_data_set(space, rows):
    """Beyond `test_spaces.py::test_discrete_obs_space`: torch would only name a class value too large."""
    episode = Episode(np.array(rows), np.zeros((4, 2)), np.zeros(4), source="logs, episode 7")
    with pytest.raises(ValueError, match=r"logs, episode 7: .*observations"):
        OfflineDataset.from_episodes([episode], space, FLOAT32)
