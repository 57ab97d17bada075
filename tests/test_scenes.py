"""Tasks that begin alike, and the cells that measure if the sentence decides there."""

import numpy as np
import pytest

from sb3_llmdpd.data.metaworld import scenes
from sb3_llmdpd.data.metaworld.scenes import SHARED_SCENES, can_be_told_apart
from sb3_llmdpd.data.metaworld.tasks import TASKS, by_need_of_goal
from sb3_llmdpd.evaluation.conditions import shared_scene_cells

RNG = np.random.default_rng(0)


def test_samples_of_one_distribution_cannot_be_told_apart() -> None:
    for _ in range(20):
        assert not can_be_told_apart(*RNG.uniform(-0.1, 0.1, (2, 20, 39)))


def test_ranges_that_do_not_overlap_in_a_single_entry_tell_apart() -> None:
    one, other = RNG.uniform(-0.1, 0.1, (2, 20, 39))
    other[:, 5] += 0.3
    assert can_be_told_apart(one, other)


def test_another_distribution_within_overlapping_ranges_tells_apart() -> None:
    one, other = RNG.uniform(-0.1, 0.1, (2, 40, 3))
    other[:, 1] = np.where(np.arange(40) < 38, 0.09, -0.1)
    assert one[:, 1].max() > other[:, 1].min()
    assert can_be_told_apart(one, other)


def test_less_than_two_millimetres_tell_nothing() -> None:
    one = np.zeros((20, 3))
    assert not can_be_told_apart(one, one + 0.0015)
    assert can_be_told_apart(one, one + 0.0025)


def test_hiding_the_goal_makes_the_faucets_alike() -> None:
    for visible in (True, False):
        opening = scenes.first_observations("faucet-open", goal_visible=visible)
        closing = scenes.first_observations("faucet-close", goal_visible=visible)
        assert can_be_told_apart(opening, closing) == visible


def test_who_carries_the_puck_to_the_goal_has_reached_it_and_not_the_other_way_round() -> None:
    assert scenes.expert_success("reach", "pick-place", 1) == 1.0
    assert scenes.expert_success("pick-place", "reach", 1) == 0.0


def test_the_steps_of_experts_are_measured_where_scenes_are_shared() -> None:
    assert set(scenes.EXPERT_STEPS) == {task for pair in SHARED_SCENES for task in pair.exclusive}
    assert scenes.expert_steps("faucet-open") == scenes.EXPERT_STEPS["faucet-open"]


@pytest.mark.slow  # three simulators, and two experts in the scenes of each other
def test_a_pair_is_measured_as_it_stands_in_the_list() -> None:
    measured = scenes.shared_scenes(["drawer-open", "pick-place", "reach"], n_episodes=2)
    assert measured == [scenes.SharedScenes(("pick-place", "reach"), True, ("pick-place",))]
    assert measured[0] in SHARED_SCENES


def test_the_list_names_known_tasks_and_each_pair_once() -> None:
    pairs = [pair.tasks for pair in SHARED_SCENES]
    assert len(set(map(frozenset, pairs))) == len(pairs) > 0
    assert {task for pair in pairs for task in pair} <= set(TASKS)
    assert all(set(pair.exclusive) <= set(pair.tasks) for pair in SHARED_SCENES)


def test_a_shared_scene_is_told_both_sentences_where_what_is_done_says_what_was_understood() -> None:
    cells = shared_scene_cells(["reach", "pick-place", "push-back"], unseen=["reach"])
    assert [(cell.task, cell.condition.name, cell.seen) for cell in cells] == [
        ("pick-place", "told:pick-place", True),
        ("pick-place", "told:reach", True),
        ("reach", "told:reach", False),  # told to pick and place, the hand would rightly reach the goal, too
    ]


def test_with_the_goal_hidden_the_faucets_are_shared_and_what_needs_the_goal_is_left_out() -> None:
    hidden = shared_scene_cells(goal_visible=False)
    told = [(cell.task, cell.condition.text_of) for cell in hidden]
    assert {(f"faucet-{a}", f"faucet-{b}") for a in ("open", "close") for b in ("open", "close")} <= set(told)
    assert len(set(told)) == len(told)
    assert not any(TASKS[cell.task].goal_separate for cell in hidden)


def test_tasks_are_parted_by_whether_a_hidden_goal_has_to_be_told() -> None:
    parted = by_need_of_goal(["box-close", "door-lock", "push", "bin-picking"])
    assert parted == (["box-close", "push"], ["door-lock", "bin-picking"])


@pytest.mark.parametrize("task", [name for name, info in TASKS.items() if info.goal_separate])
def test_goals_that_are_said_to_move_are_farther_apart_than_success_forgives(task: str) -> None:
    assert TASKS[task].goal_moves == (scenes.mean_goal_distance(task, n_resets=20) > scenes.GOAL_DISTANCE)
