"""Goals told in words: their places, their sentences, what is held out, and scenes that do not show them."""

import re
from contextlib import closing
from itertools import combinations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sb3_llmdpd.benchmarks.metaworld.splits import TOLD_SPLITS, tasks_of_split
from sb3_llmdpd.data.metaworld import MetaWorldEnv, task_info
from sb3_llmdpd.data.metaworld.record import Recipe, record_episode
from sb3_llmdpd.data.metaworld.tasks import TASKS, TOLD_TASKS, TaskInfo
from sb3_llmdpd.data.metaworld.told_goals import (
    _WORDS,
    BASES,
    N_PHRASINGS,
    N_TESTS,
    REARRANGED,
    TOLD_GOALS,
    ToldGoal,
)
from sb3_llmdpd.networks.metaworld_layout import GOAL

TOLERANCE = 0.07
"""Metres; the largest that the success of these tasks forgives."""
PARTS = [part for kind in _WORDS.values() for part in kind.values()]
NEW = {phrase for part in PARTS for phrase in part["paraphrases"]}


def test_four_tasks_can_be_told_nine_places_or_more():
    numbers = [sum(goal.base == base for goal in TOLD_GOALS.values()) for base in BASES]
    assert sorted(numbers, reverse=True)[:4] == [27, 27, 18, 9]


def test_goals_of_a_task_lie_farther_from_each_other_than_success_forgives():
    for one, other in combinations(TOLD_GOALS.values(), 2):
        if one.base == other.base:
            assert np.linalg.norm(np.subtract(one.position, other.position)) > TOLERANCE


def position(*words: str) -> np.ndarray:
    return np.array(ToldGoal("reach", *words).position)


def test_left_is_left_of_right_near_is_before_far_and_low_below_high():
    assert_allclose(position("far", "right", "low") - position("far", "left", "low"), [0.4, 0, 0])
    assert_allclose(position("far", "left", "low") - position("near", "left", "low"), [0, 0.4, 0])
    assert_allclose(position("far", "left", "high") - position("far", "left", "low"), [0, 0, 0.2], atol=1e-9)


def every_sentence(info: TaskInfo) -> list[str]:
    return [*info.texts, *info.paraphrases, *info.wordings[REARRANGED]]


def test_each_task_has_sentences_of_its_own_that_no_other_task_has():
    said = [text for info in TOLD_TASKS.values() for text in every_sentence(info)]
    assert len(said) == len(set(said)) == len(TOLD_TASKS) * (N_PHRASINGS + 2 * N_TESTS)
    assert set(said).isdisjoint(text for info in TASKS.values() for text in info.texts)


def phrases_in(sentence: str) -> list[str]:
    """List the new phrasings that a sentence holds: words of places, and frames around them."""
    return [phrase for phrase in NEW if re.search(re.escape(phrase).replace(r"\{place\}", "(.+)"), sentence)]


def test_only_paraphrases_have_a_phrasing_that_is_kept_for_tests():
    for info in TOLD_TASKS.values():
        assert not any(phrases_in(text) for text in (*info.texts, *info.wordings[REARRANGED]))


def test_each_test_sentence_has_one_phrasing_that_no_training_sentence_has():
    for info in TOLD_TASKS.values():
        assert {len(phrases_in(text)) for text in info.paraphrases} == {1}


@pytest.mark.parametrize("split", TOLD_SPLITS)
def test_a_combination_that_is_held_out_has_only_words_that_training_has(split):
    train, unseen = tasks_of_split(split)
    assert len(unseen) >= 15
    assert set(train).isdisjoint(unseen)
    known = {(TOLD_GOALS[name].base, word) for name in train for word in TOLD_GOALS[name].words}
    for name in unseen:
        assert {(TOLD_GOALS[name].base, word) for word in TOLD_GOALS[name].words} <= known, name


def test_settings_are_chosen_without_the_combinations_that_a_table_calls_unseen():
    (_, unseen), (train, tuned_on) = map(tasks_of_split, TOLD_SPLITS)
    assert set(unseen).isdisjoint({*train, *tuned_on})


def test_no_two_places_that_are_held_out_are_neighbours():
    _, unseen = tasks_of_split(TOLD_SPLITS[0])
    for one, other in combinations(map(TOLD_GOALS.__getitem__, unseen), 2):
        if one.base == other.base:
            assert sum(a != b for a, b in zip(one.words, other.words, strict=True)) > 1


def test_the_opposite_is_the_same_task_on_the_other_side():
    assert task_info("reach-to-far-left-high").opposite == "reach-to-far-right-high"
    assert task_info("push-to-near-middle").opposite == "push-to-near-left"
    assert task_info("coffee-push-to-near-left").opposite == "coffee-push-to-near-right"


def test_the_goal_is_at_its_place_in_every_scene_and_no_observation_shows_it():
    with closing(MetaWorldEnv("push-to-far-left", seed=3, goal_visible=False)) as env:
        seen = []
        for _ in range(4):
            observation, _ = env.reset()
            assert_allclose(env.simulator._target_pos[:2], [-0.2, 0.9])
            assert_array_equal(observation[GOAL], 0)
            seen.append(observation)
        assert np.ptp(np.stack(seen), axis=0).max() > 0.01  # the puck lies elsewhere


def test_the_scene_is_the_one_of_the_task_with_another_goal():
    observations = []
    for task in ("push-to-far-left", "push-to-near-right"):
        with closing(MetaWorldEnv(task, goal_visible=False)) as env:
            observations.append(env.reset(seed=11)[0])
    assert_array_equal(*observations)


@pytest.mark.parametrize(
    "task", ["reach-to-far-right-high", "push-to-near-left", "pick-place-to-far-middle-low"]
)
def test_the_expert_does_what_the_sentence_says(task):
    recipe = Recipe(task, 1, (0.1,), 1, goal_visible=False, seed=0, steps_after_success=1)
    with closing(MetaWorldEnv(task, goal_visible=False)) as env:
        assert record_episode(env, recipe, 0).first_success > 10


def test_an_unknown_place_is_answered_with_near_ones():
    with pytest.raises(ValueError, match=r"did you mean 'push-to-far-left'.*89 have a goal told in words"):
        task_info("push-to-fa-left")
