"""`AlignAndReplay`: the example of the nearest scene, its path moved there, and what holds the hand to it."""

from typing import Any

import numpy as np
import pytest
from expect import refused
from factories import make_episodes
from numpy.testing import assert_allclose, assert_array_equal
from test_alignment import CARRIED, MOVES, X, Y, example, scene_of

from sb3_llmdpd import Prompt
from sb3_llmdpd.baselines.align_and_replay import AlignAndReplay
from sb3_llmdpd.data.metaworld.envs import MetaWorldEnv
from sb3_llmdpd.data.metaworld.record import Recipe, record_episode
from sb3_llmdpd.evaluation.conditions import make_cells
from sb3_llmdpd.evaluation.rollouts import run_episodes
from sb3_llmdpd.evaluation.tasks import evaluate_tasks
from sb3_llmdpd.networks.metaworld_layout import HAND
from sb3_llmdpd.prompts.alignment import metaworld_scene
from sb3_llmdpd.prompts.prompt import Trajectory

GAIN = 10.0
OTHER = example([0.0, 0.1, 0.2], seed=5)


class OneRow:
    """The replay of one episode."""

    def __init__(self, *shown: Any, gain: float = GAIN) -> None:
        self.act = AlignAndReplay(gain).make_act([Prompt(trajectories=shown)])

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        return self.act(np.array([observation]), [0], np.zeros(1))[0]


def off_the_path(shown: Trajectory, step: int, way: np.ndarray) -> np.ndarray:
    """Take a state of an example with the hand elsewhere."""
    observation = np.array(shown.observations[step])
    observation[HAND] += way
    return observation


@pytest.mark.parametrize("ways", [[0.0, 0.0, 0.05, 0.1, 0.2], [0.0, 0.001, 0.0]], ids=["carried", "staying"])
def test_in_its_own_scene_an_example_is_repeated(ways):
    shown = example(ways)
    replay = OneRow(shown)
    for observation, action in zip(shown.observations, shown.actions, strict=True):
        assert_allclose(replay(observation), action, atol=1e-5)


@pytest.mark.parametrize("ways", [[0.0, 0.0, 0.05, 0.1, 0.2], [0.0, 0.001, 0.0]], ids=["carried", "staying"])
def test_in_another_scene_the_path_is_that_of_the_aligned_example(ways):
    """On that path, there is nothing to correct."""
    shown = example(ways)
    moved = metaworld_scene(shown, scene_of(shown, **MOVES))
    replay = OneRow(shown)
    for observation, action in zip(moved.observations, shown.actions, strict=True):
        assert_allclose(replay(observation), action, atol=1e-5)


def test_beside_the_path_the_hand_is_drawn_to_it_and_the_grip_stays():
    replay = OneRow(CARRIED)
    action = replay(off_the_path(CARRIED, 0, 0.02 * X - 0.01 * Y))
    assert_allclose(action - CARRIED.actions[0], [-0.2, 0.1, 0.0, 0.0], atol=1e-6)


def test_no_action_is_larger_than_an_action_can_be():
    replay = OneRow(CARRIED)
    assert_array_equal(replay(off_the_path(CARRIED, 0, 5.0 * X - 5.0 * Y))[:2], [-1.0, 1.0])


def steps_of(replay: OneRow, observation: np.ndarray, n: int) -> list[int]:
    """Steps of CARRIED whose actions are repeated while the hand stays; without a gain they are bare."""
    actions = [replay(observation) for _ in range(n)]
    return [int(np.abs(CARRIED.actions - action).sum(axis=1).argmin()) for action in actions]


def test_far_from_the_path_the_replay_waits_and_then_goes_on():
    away = off_the_path(CARRIED, 0, 3.0 * Y)
    assert steps_of(OneRow(CARRIED, gain=0.0), away, 13) == [0] * 6 + [1] * 6 + [2]


def test_near_the_path_it_goes_on_at_every_step_and_stays_at_the_last():
    near = off_the_path(CARRIED, 0, 0.001 * Y)
    still = example([0.0, 0.0, 0.05, 0.1, 0.2])
    assert steps_of(OneRow(still, gain=0.0), near, 2) == [0, 1]
    replay = OneRow(CARRIED, gain=0.0)
    found = [steps_of(replay, observation, 1)[0] for observation in CARRIED.observations]
    assert found + steps_of(replay, CARRIED.observations[-1], 2) == [0, 1, 2, 3, 4, 4, 4]


@pytest.mark.parametrize(
    ("moves", "nearest"),
    [
        ({}, 0),
        ({"object": 0.1 * Y}, 0),  # 0.1 m from the first example, and 0.2 m from the second
        ({"goal": 0.2 * X}, 1),
        ({"goal": 0.12 * X}, 0),
        ({"goal": 0.12 * X, "object": 0.06 * Y}, 1),
    ],
    ids=str,
)
def test_the_example_with_the_nearest_object_and_goal_is_replayed(moves, nearest):
    """The second example has its object 0.1 m away along y, and its goal 0.2 m along x."""
    first = example([0.0, 0.1])
    elsewhere = metaworld_scene(first, scene_of(first, object=0.1 * Y, goal=0.2 * X))
    second = Trajectory(elsewhere.observations, -first.actions)
    scene = scene_of(first, **moves)
    replay = OneRow(first, second, gain=0.0)
    assert_allclose(replay(scene), [first, second][nearest].actions[0], atol=1e-6)


def test_the_scene_is_that_of_the_first_observation():
    replay = OneRow(CARRIED)
    replay(CARRIED.observations[0])
    later = scene_of(CARRIED, **MOVES)
    later[HAND] = CARRIED.observations[1, HAND]
    assert_allclose(replay(later), CARRIED.actions[1], atol=1e-5)


def test_every_episode_has_a_replay_of_its_own():
    prompts = [Prompt(trajectory=CARRIED), Prompt(trajectory=OTHER)]
    act = AlignAndReplay().make_act(prompts)
    act(np.stack([CARRIED.observations[0], OTHER.observations[0]]), [0, 1], np.zeros(2))
    for step in (1, 2):  # the first row is done
        assert_allclose(act(OTHER.observations[[step]], [1], np.zeros(1))[0], OTHER.actions[step], atol=1e-5)


def test_a_second_block_begins_afresh():
    player, prompts = AlignAndReplay(), [Prompt(trajectory=CARRIED)]
    for _ in range(2):
        act = player.make_act(prompts)
        assert_allclose(act(CARRIED.observations[[0]], [0], np.zeros(1))[0], CARRIED.actions[0], atol=1e-5)


def test_no_array_of_the_example_is_written_into():
    before = CARRIED.actions.copy()
    OneRow(CARRIED)(off_the_path(CARRIED, 0, 0.1 * X))
    assert_array_equal(CARRIED.actions, before)


@pytest.mark.parametrize("prompts", [[Prompt("go")], [Prompt(trajectory=CARRIED), Prompt()]], ids=len)
def test_a_prompt_without_an_example_is_refused_before_it_is_played(prompts):
    with refused("AlignAndReplay replays an example, and a prompt has none: pass `trajectory`"):
        AlignAndReplay().make_act(prompts)


@pytest.mark.parametrize("observations", [np.zeros((3, 38)), {"a": np.zeros((3, 39))}], ids=["38", "dict"])
def test_other_observations_are_refused(observations):
    shown = Trajectory(observations, np.zeros((3, 4)))
    with refused("moves hands and objects of Meta-World's observations, arrays of 39 numbers"):
        AlignAndReplay().make_act([Prompt(trajectory=shown)])


# In the simulator


def test_in_the_scene_that_an_expert_was_recorded_in_its_replay_succeeds():
    env = MetaWorldEnv("reach")
    shown = record_episode(env, Recipe("reach", 1, (0.1,), 1, True, 0), 0)
    act = AlignAndReplay().make_act([Prompt(trajectory=(shown.observations, shown.actions))])
    (rollout,) = run_episodes([env], act, [shown.seed], max_steps=90, stop_at_success=True)
    assert rollout.first_success == shown.first_success


def test_it_is_evaluated_in_the_place_of_a_model():
    examples = {"reach": make_episodes(1, 3, observation_dim=39, action_dim=4)}
    cells = make_cells(["reach"], ["trajectory", "trajectory:3"])
    how: dict[str, Any] = dict(examples=examples, n_processes=1, progress_bar=False, max_episode_steps=3)
    one, several = evaluate_tasks(AlignAndReplay(), cells, n_episodes=3, **how)
    assert one.n_episodes == several.n_episodes == 3
    assert one.returns != several.returns
