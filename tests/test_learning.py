"""Learning on toys: the prompt decides what is done, and the Q term prefers the better of what was logged."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from factories import tiny_model

from sb3_llmdpd import LLMDPD, CosineSchedule, Episode, Prompt
from sb3_llmdpd.networks.attention import CONDITIONINGS

pytestmark = pytest.mark.slow

PLACES = {
    "go to the left": (-1.0, 0.0),
    "move right": (1.0, 0.0),
    "climb to the top": (0.0, 1.0),
    "drop to the ground": (0.0, -1.0),
}
NEAR = 0.5
"""Half of the way from the middle to a place; to any other place it is more than twice as far."""
N_STEPS = 12
SHARED = dict(learning_rate=CosineSchedule(3e-3), batch_size=64, ema_decay=0.95)
"""Arguments of every model here."""


def walk_to(place: np.ndarray, text: str, rng: np.random.Generator) -> Episode:
    """Walk a point from near the middle to a place; it sees where it is, and nothing of the place."""
    positions, actions = [rng.normal(0, 0.1, 2)], []
    for _ in range(N_STEPS):
        actions.append(np.clip(2 * (place - positions[-1]) + rng.normal(0, 0.1, 2), -1, 1))
        positions.append(positions[-1] + 0.2 * actions[-1])
    distances = np.linalg.norm(np.array(positions[1:]) - place, axis=1)
    return Episode(np.array(positions), np.array(actions), -distances, task=text, task_texts=(text,))


def walks(seed: int, n: int) -> dict[str, list[Episode]]:
    rng = np.random.default_rng(seed)
    return {text: [walk_to(np.array(place), text, rng) for _ in range(n)] for text, place in PLACES.items()}


@cache
def walker(conditioning: str) -> LLMDPD:
    dataset = [walk for of_task in walks(seed=0, n=8).values() for walk in of_task]
    kwargs = dict(q_batch_size=8, prompts_per_batch=8, eta=0.01, text_dropout=0.3, trajectory_dropout=0.5)
    policy_kwargs = dict(net_arch=[64, 64], conditioning=conditioning)
    model = tiny_model(dataset=dataset, policy_kwargs=policy_kwargs, **SHARED, **kwargs)
    return model.learn(500, log_interval=None)


def ends(model: LLMDPD, prompt: Prompt) -> np.ndarray:
    """Position of the point after a walk of 12 steps."""
    position = np.zeros(2)
    for _ in range(N_STEPS):
        action, _ = model.predict(position, deterministic=True, prompt=prompt)
        position = position + 0.2 * action
    return position


@pytest.mark.parametrize("prompted_by", ["sentence", "example"])
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_sentence_or_example_alone_decide_where_to_go(conditioning, prompted_by):
    examples = {text: walk for text, (walk,) in walks(seed=1, n=1).items()}  # others than those of training
    distances = {}
    for text, place in PLACES.items():
        prompt = Prompt(text) if prompted_by == "sentence" else Prompt(trajectory=examples[text])
        distances[text] = np.linalg.norm(ends(walker(conditioning), prompt) - place)
    assert max(distances.values()) <= NEAR, distances


def mixed_quality(rng: np.random.Generator, good: np.ndarray) -> Episode:
    """A good action is near +0.5 and gets a reward, a bad one near -0.5 gets none."""
    actions = np.where(good, 0.5, -0.5)[:, None] + rng.normal(0, 0.05, (len(good), 1))
    return Episode(rng.standard_normal((len(good) + 1, 2)), actions, good.astype(float))


def some_good_steps(rng: np.random.Generator) -> list[Episode]:
    """One step in four is good."""
    return [mixed_quality(rng, rng.random(40) < 0.25) for _ in range(8)]


def some_good_episodes(rng: np.random.Generator) -> list[Episode]:
    """One episode in four is good, as a whole."""
    return [mixed_quality(rng, np.full(40, number % 4 == 0)) for number in range(8)]


def share_of_good_actions(
    logged: Callable[[np.random.Generator], list[Episode]] = some_good_steps, **kwargs: Any
) -> float:
    """Train on logged data, and draw 500 actions for observations that were not in them."""
    dataset = logged(np.random.default_rng(0))
    kwargs = dict(return_weight=0.0, prompts_per_batch=1, text_encoder=None, trajectory_dropout=1.0) | kwargs
    model = tiny_model(dataset=dataset, policy_kwargs=dict(net_arch=[32, 32]), **SHARED, **kwargs)
    model.learn(300, log_interval=None)
    actions, _ = model.predict(np.random.default_rng(1).standard_normal((500, 2)))
    return float((actions > 0).mean())


def test_cloning_alone_repeats_the_shares_of_the_data():
    assert share_of_good_actions(eta=0.0, gamma=0.0) == pytest.approx(0.25, abs=0.12)


def test_the_q_term_prefers_the_better_of_what_was_logged():
    assert share_of_good_actions(eta=1.0, gamma=0.0) > 0.8


def test_weights_prefer_the_better_of_whole_episodes_where_plain_cloning_repeats_their_shares():
    assert share_of_good_actions(some_good_episodes, eta=0.0) == pytest.approx(0.25, abs=0.12)
    assert share_of_good_actions(some_good_episodes, eta=0.0, return_weight=8.0) > 0.8
