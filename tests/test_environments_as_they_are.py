"""Environments of users fit data and models by what their numbers are, not by how spaces are written."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from expect import refused
from factories import TINY_POLICY, make_episodes, tiny_model
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_llmdpd import LLMDPD, Episode, RecordEpisodes, load_dataset
from sb3_llmdpd.data.checks import misfits
from sb3_llmdpd.envs.recording import record_policy

ACTIONS = spaces.Box(-1, 1, (2,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
BOTH = spaces.Dict(a=IMAGE, b=spaces.Box(0, 1, (3,)))


class Shown(gym.Env[Any, Any]):
    """Shows zeros of a space for three steps."""

    def __init__(self, space: spaces.Space[Any], actions: spaces.Box = ACTIONS) -> None:
        self.observation_space, self.action_space = space, actions

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.n_steps = 0
        return self._zeros(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.n_steps += 1
        return self._zeros(), 1.0, False, self.n_steps == 3, {}

    def _zeros(self) -> Any:
        space = self.observation_space
        if isinstance(space, spaces.Dict):
            return {key: np.zeros(part.shape, part.dtype) for key, part in space.items()}
        return np.zeros(space.shape, space.dtype)


def model_of(**arguments: Any) -> LLMDPD:
    small: dict[str, Any] = {
        "policy": "MlpPolicy",
        "batch_size": 4,
        "prompts_per_batch": 2,
        "text_encoder": None,
        "seed": 0,
    }
    return LLMDPD(**{"device": "cpu", "policy_kwargs": TINY_POLICY, **small, **arguments})


@pytest.fixture
def doubles() -> Shown:
    """Make an environment of double precision with bounds, as MuJoCo's and Meta-World's are."""
    return Shown(spaces.Box(-5, 5, (5,), np.float64))


def test_an_environment_of_double_precision_fits_data_of_single_precision(doubles):
    model = model_of(dataset=make_episodes(), env=doubles).learn(2)
    assert model.observation_space == doubles.observation_space
    view = model.prompted(trajectory=make_episodes()[0])
    assert evaluate_policy(view, doubles, 2, warn=False)[0] == 3.0


def test_what_a_recorder_wrote_of_an_environment_is_learned_beside_it(doubles, tmp_path):
    recorder = RecordEpisodes(doubles, task="stay")
    for _ in range(3):
        recorder.reset()
        for _ in range(3):
            recorder.step(np.zeros(2))
    recorder.write("lab/stay-v0", root=tmp_path)
    data = load_dataset("lab/stay-v0", root=tmp_path)
    model = model_of(dataset=data, env=doubles).learn(2)
    model.save(tmp_path / "model.zip")
    loaded = LLMDPD.load(tmp_path / "model.zip", env=doubles, device="cpu")
    assert len(record_policy(loaded, doubles, 1)[0]) == 3


def test_bounds_of_observations_do_not_decide(doubles):
    tiny_model().set_env(doubles)
    tiny_model().set_env(Shown(spaces.Box(-np.inf, np.inf, (5,), np.float32)))


def test_episodes_take_the_bounds_of_their_actions_from_the_environment():
    wide = spaces.Box(-2, 2, (2,), np.float32)
    episodes = [
        Episode(episode.observations, 2 * episode.actions, episode.rewards, episode.task)
        for episode in make_episodes()
    ]
    model = model_of(dataset=episodes, env=Shown(spaces.Box(-9, 9, (5,)), wide))
    assert model.action_space == wide


@pytest.mark.parametrize(
    ("found", "wanted", "names"),
    [
        (spaces.Box(0, 1, (3,), np.float64), spaces.Box(-9, 9, (3,), np.float32), []),
        (spaces.Box(0, 9, (3,), np.int64), spaces.Box(-9, 9, (3,), np.float32), []),
        (spaces.Box(0, 1, (2,)), spaces.Box(0, 1, (3,)), [""]),
        (spaces.Box(0, 1, (3, 36, 36)), IMAGE, [""]),
        (spaces.Discrete(3), spaces.Discrete(4), [""]),
        (spaces.Dict(a=IMAGE, b=spaces.Box(0, 1, (2,))), BOTH, ["b"]),
        (spaces.Dict(a=IMAGE), BOTH, ["b"]),
    ],
)
def test_spaces_differ_where_their_numbers_do(found, wanted, names):
    assert misfits(found, wanted) == names


def test_what_differs_is_named_entry_by_entry():
    parts = {"pose": spaces.Box(-1, 1, (3,)), "force": spaces.Box(-1, 1, (2,))}
    rng = np.random.default_rng(0)
    episodes = [
        Episode(
            {key: rng.normal(size=(6, *part.shape)) for key, part in parts.items()},
            rng.uniform(-1, 1, (5, 2)),
            np.zeros(5),
        )
        for _ in range(2)
    ]
    model = model_of(policy="MultiInputPolicy", dataset=episodes)
    with refused(r"observation \(in 'force'\) space of the environment is .*\(4,\).*\(2,\).*: pass one of"):
        model.set_env(Shown(spaces.Dict({**parts, "force": spaces.Box(-1, 1, (4,))})))


@pytest.mark.parametrize(
    "other", [spaces.Box(-2, 2, (2,)), spaces.Box(-1, 1, (2,), np.int64), spaces.Box(-1, 1, (3,))]
)
def test_other_actions_are_refused(other):
    with refused("action space of the environment is .*and that of the model is"):
        tiny_model().set_env(Shown(spaces.Box(-9, 9, (5,)), other))
