"""The scene that is always the same: only the prompt says where to go, known words combine anew."""

from functools import cache

import numpy as np
import pytest
from numpy.testing import assert_allclose
from stable_baselines3.common.env_checker import check_env

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.benchmarks.places import (
    COLUMNS,
    HORIZON,
    NEAR,
    PLACES,
    ROWS,
    UNSEEN,
    PlacesEnv,
    record,
    texts_of,
)
from sb3_llmdpd.evaluation.conditions import Cell, Condition
from sb3_llmdpd.evaluation.tasks import evaluate_tasks

SEEN = tuple(task for task in PLACES if task not in UNSEEN)


def test_the_environment_is_sound() -> None:
    check_env(PlacesEnv("top east"))


def test_all_tasks_share_one_scene() -> None:
    starts = [PlacesEnv(task).reset(seed=3)[0] for task in PLACES]
    assert_allclose(starts, np.tile(starts[0], (len(PLACES), 1)))


def test_the_expert_arrives_and_stays() -> None:
    for episode in record(list(PLACES), n_episodes=1, noise=0.0):
        assert np.linalg.norm(episode.observations[-1] - PLACES[episode.task]) < 1e-3
        assert episode.first_success is not None
        assert len(episode) == HORIZON


def test_no_place_is_near_another() -> None:
    places = np.array(list(PLACES.values()))
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    assert distances[distances > 0].min() >= 2 * NEAR - 1e-9


def test_every_word_of_an_unseen_place_is_known_from_others() -> None:
    words = {word for task in SEEN for word in task.split()}
    assert words == {*ROWS, *COLUMNS}


def test_an_unknown_place_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"must be one of bottom west, .*; got 'upstairs'"):
        PlacesEnv("upstairs")


@cache
def walker() -> LLMDPD:
    size = dict(batch_size=8 * len(SEEN), prompts_per_batch=len(SEEN), text_encoder="hashing")
    policy_kwargs = dict(net_arch=[128, 128], text_embedding_dim=32, token_dim=32)
    method = dict(eta=0.0, ema_decay=0.98)
    data = record(SEEN, n_episodes=6)
    given = dict(dataset=data, policy_kwargs=policy_kwargs, **size, **method)
    model = LLMDPD("MlpPolicy", seed=0, device="cpu", **given)
    return model.learn(900, log_interval=None)


def ends_at(scenes: str, condition: Condition) -> float:
    """Share of the episodes that end at the scenes' place."""
    examples = {task: record([task], n_episodes=2, seed=1) for task in PLACES}
    (result,) = evaluate_tasks(
        walker(),
        [Cell(scenes, condition)],
        examples=examples,
        texts={task: texts_of(task)[0] for task in PLACES},
        make_env=PlacesEnv,
        n_episodes=5,
        n_processes=1,
        max_episode_steps=HORIZON,
        progress_bar=False,
    )
    return float(np.mean(result.last_successes))


@pytest.mark.slow
def test_the_sentence_decides_where_the_point_ends() -> None:
    told = np.mean([ends_at(task, Condition("text", text_of=task)) for task in SEEN])
    other = np.mean([ends_at(task, Condition("told", text_of=SEEN[i - 1])) for i, task in enumerate(SEEN)])
    assert (told, other) == (pytest.approx(1.0, abs=0.1), pytest.approx(0.0, abs=0.1))


@pytest.mark.slow
def test_an_example_says_where_to_go_as_well() -> None:
    assert np.mean([ends_at(task, Condition("trajectory", trajectory_of=task)) for task in SEEN]) > 0.7


@pytest.mark.slow
def test_without_a_prompt_the_point_ends_where_it_happens_to() -> None:
    assert np.mean([ends_at(task, Condition("none")) for task in SEEN]) < 0.15


@pytest.mark.slow
def test_known_words_in_a_new_combination_are_understood_more_often_than_not() -> None:
    both = [ends_at(task, Condition("text+trajectory", text_of=task, trajectory_of=task)) for task in UNSEEN]
    assert np.mean(both) > 0.5
