"""Every action that leaves the package lies in its space: within the bounds, whole where it has to be."""

import numpy as np
import pytest
import torch as th
from factories import TINY_POLICY, make_episodes
from gymnasium import spaces
from numpy.testing import assert_allclose, assert_array_equal

from sb3_llmdpd import LLMDPD, Episode, OfflineDataset
from sb3_llmdpd.baselines import RetrieveAndPlay
from sb3_llmdpd.data.spaces import actions_in_space
from sb3_llmdpd.prompts.prompt import Prompt

SPACES = {
    "single": spaces.Box(-1, 1, (2,), np.float32),
    "double": spaces.Box(np.array([-0.1, -3.3]), np.array([0.7, 0.3]), dtype=np.float64),
    "asymmetric": spaces.Box(np.float32([-0.1, 0.1]), np.float32([0.3, 0.7])),
    "whole": spaces.Box(-10, 10, (2,), np.int64),
    "bytes": spaces.Box(0, 255, (2,), np.uint8),
}


def model_of(space: spaces.Box) -> LLMDPD:
    episodes = [
        Episode(each.observations, actions_in_space(each.actions, space), each.rewards, each.task, ("go",))
        for each in make_episodes(n_tasks=1)
    ]
    data = OfflineDataset.from_episodes(episodes, action_space=space)
    sizes = {"batch_size": 4, "prompts_per_batch": 2, "policy_kwargs": TINY_POLICY}
    return LLMDPD("MlpPolicy", dataset=data, text_encoder="hashing:16", seed=0, device="cpu", **sizes)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_the_ends_of_the_range_are_the_bounds(space):
    ends = np.array([[-1.0, -1.0], [1.0, 1.0], [-1.0 - 1e-6, 1.0 + 1e-6]])
    expected = [space.low, space.high, [space.low[0], space.high[1]]]
    assert_allclose(actions_in_space(ends, space), np.array(expected, space.dtype), rtol=1e-6)


def test_whole_numbers_are_the_nearest():
    assert_array_equal(actions_in_space(np.array([[0.69, -0.66]]), SPACES["whole"]), [[7, -7]])


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_no_action_leaves_its_space(space):
    scaled = np.random.default_rng(0).uniform(-1, 1, (10_000, 2)).astype(np.float32)
    actions = actions_in_space(scaled, space)
    assert all(space.contains(action) for action in actions)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_an_exported_program_gives_the_actions_of_predict(space, tmp_path):
    model = model_of(space).learn(2)
    observations = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    program = th.export.load(model.export(tmp_path / "program.pt2", task_text="go")).module()
    actions = program(th.from_numpy(observations)).numpy()
    expected, _ = model.predict(observations, deterministic=True, task_text="go")
    assert actions.dtype == expected.dtype
    assert_allclose(actions, expected, rtol=1e-5, atol=1e-5)


def test_a_baseline_gives_whole_numbers_in_a_space_of_them():
    space = SPACES["whole"]
    example = Episode(np.zeros((3, 5)), np.array([[7, -7], [7, -7]]), np.zeros(2))
    player = RetrieveAndPlay(spaces.Box(-9, 9, (5,)), space)
    actions, _ = player.predict(np.zeros((2, 5), np.float32), prompt=Prompt(trajectories=[example]))
    assert_array_equal(actions, [[7, -7], [7, -7]])
    assert actions.dtype == space.dtype
