"""Phases of an episode, and where they are reported."""

from pathlib import Path

import numpy as np
import pytest

from sb3_llmdpd.data.metaworld import MetaWorldEnv
from sb3_llmdpd.evaluation.conditions import Cell, Condition
from sb3_llmdpd.evaluation.phases import PHASES, Phases, PhaseWatch, phase_rates
from sb3_llmdpd.evaluation.report import tables
from sb3_llmdpd.evaluation.results import read_results, write_results
from sb3_llmdpd.evaluation.rollouts import Rollout, run_episodes
from sb3_llmdpd.evaluation.tasks import CellResult

Position = tuple[float, float, float]


def seen(hand: Position, thing: Position, gripper: float = 1.0) -> np.ndarray:
    observation = np.zeros(39, np.float32)
    observation[:3], observation[3], observation[4:7] = hand, gripper, thing
    return observation


def watched(*observations: np.ndarray, success: float = 0.0) -> Phases:
    watch = PhaseWatch(1)
    for observation in observations:
        watch.see(0, observation, {"success": success})
    return watch.phases(0)


AWAY = (0.0, 0.0, 0.5)
LYING = (0.0, 0.0, 0.02)


def test_a_hand_that_stays_away_passes_nothing() -> None:
    away = watched(seen(AWAY, LYING, 0.3), seen((0.0, 0.0, 0.1), LYING, 0.3))
    assert away == Phases(False, False, False, False, False, pytest.approx(0.08))


def test_the_fingers_grasp_only_within_reach() -> None:
    open_near, closed_near = seen((0.0, 0.0, 0.06), LYING), seen((0.0, 0.0, 0.06), LYING, 0.5)
    reached = watched(open_near, seen(AWAY, LYING, 0.5))
    assert reached == Phases(True, False, False, False, False, pytest.approx(0.04))
    assert watched(open_near, closed_near).grasp


def test_lifting_counts_from_the_objects_lowest_point_and_moving_from_its_place() -> None:
    hand = (0.0, 0.0, 0.1)
    fell_and_rose = watched(*(seen(hand, (0.0, 0.0, height)) for height in (0.05, 0.02, 0.031)))
    assert (fell_and_rose.lift, fell_and_rose.move) == (True, False)
    shoved = watched(seen(hand, LYING), seen(hand, (0.03, 0.03, 0.02)))
    assert (shoved.lift, shoved.move) == (False, True)


def test_what_the_object_does_before_the_hand_is_near_does_not_count() -> None:
    hand, place = (0.1, 0.0, 0.1), (0.1, 0.0, 0.05)
    settled = watched(seen(AWAY, (0.0, 0.0, 0.0)), seen(AWAY, place), seen(hand, place))
    assert (settled.reach, settled.lift, settled.move) == (True, False, False)


def test_rates_are_shares_of_the_episodes() -> None:
    came_far, stayed = watched(seen(LYING, LYING, 0.5), success=1.0), watched(seen(AWAY, LYING))
    rates = phase_rates([came_far, stayed, stayed, came_far])
    assert rates == {"reach": 0.5, "grasp": 0.5, "lift": 0.0, "move": 0.0, "place": 0.5}


def test_phases_go_through_the_file_into_a_table_of_their_own(tmp_path: Path) -> None:
    grasped, stayed = Phases(True, True, False, False, False, 0.045), Phases(*[False] * 5, 0.2)
    rollouts = [Rollout(i, 1.0, 1.0, 5, None, False, phases) for i, phases in enumerate([grasped, stayed])]
    result = CellResult.of(Cell("bin-picking", Condition("text", text_of="bin-picking")), rollouts)
    write_results(tmp_path / "results.json", [result], {})
    (read,), _ = read_results(tmp_path / "results.json")
    assert read == result
    (row,) = tables([read])[-1].rows
    assert row == ("bin-picking", "text", "0.50", "0.50", "0.00", "0.00", "0.00", "12.2")


def test_the_expert_of_a_task_that_grasps_passes_all_phases() -> None:
    env = MetaWorldEnv("bin-picking")

    def act(observations: np.ndarray, *_: object) -> np.ndarray:
        return np.stack([env.expert_action(observation) for observation in observations])

    watch = PhaseWatch(1)
    (rollout,) = run_episodes([env], act, [0], max_steps=150, stop_at_success=True, watch=watch)
    assert rollout.phases is not None
    assert phase_rates([rollout.phases]) == dict.fromkeys(PHASES, 1.0)
    assert 0.02 < rollout.phases.closest < 0.06
