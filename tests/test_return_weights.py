"""Episodes that earn more are drawn more often, in the proportion that is asked for."""

from typing import Any

import numpy as np
import pytest
from factories import EPISODE, make_buffer

from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.replay.return_weights import MOST_LOTS, lasting_return, return_lots


def earning(rewards: list[float], task: str = "task", number: int = 0, **kwargs: Any) -> Episode:
    observations = np.full((len(rewards) + 1, 3), number, np.float32)
    return Episode(observations, np.zeros((len(rewards), 1)), np.array(rewards), task=task, **kwargs)


def lots_of(rewards: list[float], strength: float) -> np.ndarray:
    """Lots of episodes that the task ends after one reward each."""
    return return_lots([earning([reward], terminated=True) for reward in rewards], strength, gamma=0.9)


def test_the_last_reward_of_an_episode_that_was_cut_off_goes_on_for_ever():
    assert lasting_return(earning([1.0, 0.0, 2.0]), 0.5) == pytest.approx(1.0 + 0.25 * 2.0 / 0.5)


def test_an_episode_that_its_task_ended_earns_nothing_more():
    assert lasting_return(earning([1.0, 0.0, 2.0], terminated=True), 0.5) == pytest.approx(1.0 + 0.25 * 2.0)


def test_to_be_done_at_once_is_worth_more_than_never_however_soon_recording_stops():
    at_once, never = earning([0.0, 10.0]), earning([1.0] * 500)
    assert sum(at_once.rewards) < sum(never.rewards)
    assert lasting_return(at_once, 0.99) > lasting_return(never, 0.99)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [([0.0, 1.0, 2.0, 4.0], [-2.0, -1.5, -1.0, 0.0]), ([-4.0, -3.0, -0.0], [-2.0, -1.5, 0.0])],
    ids=["rewards", "costs"],
)
def test_an_episode_is_drawn_by_the_share_of_the_largest_return_that_it_misses(rewards, expected):
    lots = lots_of(rewards, strength=2.0)
    assert lots / lots[-1] == pytest.approx(np.exp(expected), rel=1e-4)


def test_a_task_with_larger_rewards_is_not_drawn_more_often():
    small = [earning([reward], "small") for reward in (1.0, 2.0)]
    large = [earning([1000.0 * reward], "large") for reward in (1.0, 2.0)]
    lots = return_lots([*small, *large], strength=2.0, gamma=0.9)
    assert lots[:2].tolist() == lots[2:].tolist()


def test_good_episodes_that_differ_little_are_drawn_nearly_alike():
    """Their differences are those of their scenes, however few there are to be told apart by."""
    lots = lots_of([0.98, 0.99, 1.0], strength=4.0)
    assert lots.min() / lots.max() > 0.9


@pytest.mark.parametrize("rewards", [[0.1, 0.2], [0.0, 0.0], [-1.0, -1.0]])
@pytest.mark.parametrize("strength", [0.0, 3.0])
def test_episodes_that_earn_alike_are_drawn_alike(strength, rewards):
    assert len(set(return_lots([earning(rewards) for _ in range(3)], strength, 0.99))) == 1


def test_the_worst_episode_is_still_drawn_and_the_best_has_the_most_lots():
    lots = return_lots([earning([reward]) for reward in (0.0, 0.0, 0.0, 100.0)], strength=50.0, gamma=0.99)
    assert lots.tolist() == [1, 1, 1, MOST_LOTS]


def test_transitions_are_drawn_in_proportion_to_their_lots():
    """Three long bad episodes and two short good ones: without weights most of what is drawn is bad."""
    bad = [earning([0.0] * 20, number=number, terminated=True) for number in (0, 1, 2)]
    good = [earning([1.0] * 5, number=number, terminated=True) for number in (3, 4)]
    lots = return_lots([*bad, *good], 2.0, 0.99)
    rates = {}
    for weight in (0.0, 2.0):
        buffer = make_buffer([*bad, *good], return_weight=weight, prompts_per_batch=1)
        drawn = np.concatenate([buffer.sample(100).observations[:, EPISODE] for _ in range(100)])
        rates[weight] = float(np.mean(drawn >= 3))
    # Each of the five is as often the example, which is left out.
    in_bad, in_good = 20 * lots[0], 5 * lots[3]
    expected = {
        weight: 0.6 * 2 * b / (2 * a + 2 * b) + 0.4 * b / (3 * a + b)
        for weight, (a, b) in {0.0: (20, 5), 2.0: (in_bad, in_good)}.items()
    }
    assert rates == pytest.approx(expected, abs=0.03)
    assert rates[2.0] > 3 * rates[0.0]


def test_of_the_goals_of_a_task_the_better_one_is_drawn_more_often():
    episodes = [earning([float(number // 2)], number=number, goal="ab"[number // 2]) for number in range(4)]
    lots = return_lots(episodes, 1.0, 0.99)
    buffer = make_buffer(episodes, same_goal=True, return_weight=1.0, prompts_per_batch=1)
    better = [float(buffer.sample(1).observations[0, EPISODE]) >= 2 for _ in range(2000)]
    assert np.mean(better) == pytest.approx(lots[2] / (lots[0] + lots[2]), abs=0.03)


@pytest.mark.parametrize(
    ("return_weight", "gamma", "message"),
    [
        (-1.0, 0.99, "must be a finite number of at least 0, got -1.0"),
        (float("inf"), 0.99, "must be a finite number"),
        (1.0, 1.0, "above 0 goes by discounted returns: `gamma` .*got 1.0"),
    ],
)
def test_weights_that_cannot_be_are_refused(return_weight, gamma, message):
    with pytest.raises(ValueError, match=f"`return_weight` {message}"):
        make_buffer([earning([0.0]), earning([1.0])], return_weight=return_weight, gamma=gamma)
