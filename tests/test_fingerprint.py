"""The fingerprint of a data set changes with whatever a model would learn otherwise."""

from typing import Any

import numpy as np
import pytest
from factories import make_episode

from sb3_llmdpd import Episode, OfflineDataset
from sb3_llmdpd.data.fingerprint import content_digest, fingerprint

OTHER = make_episode(task="other")


def of(*episodes: Episode) -> str:
    return fingerprint(OfflineDataset.from_episodes(episodes))


@pytest.mark.parametrize(
    "changes",
    [
        dict(actions=np.full((4, 2), 0.1)),
        dict(rewards=np.array([0.0, 0.0, 0.0, 1.0])),
        dict(observations=np.eye(5, 3)),
        dict(task="else"),
        dict(task_texts=("open the drawer",)),
        dict(terminated=True),
        dict(success=True),
        dict(success=True, first_success=2),
        dict(goal="left"),
        dict(rewarded=False),
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_another_episode_gives_another_fingerprint(changes: dict[str, Any]) -> None:
    assert of(make_episode(**changes), OTHER) != of(make_episode(), OTHER)


def test_the_order_of_the_episodes_and_where_they_come_from_do_not_count() -> None:
    assert of(OTHER, make_episode(source="elsewhere")) == of(make_episode(), OTHER)


def test_steps_that_were_left_out_do_not_count():
    assert of(make_episode(n_left_out=1)) == of(make_episode())


def test_whole_numbers_and_the_same_floats_are_the_same_data():
    rows = np.arange(15).reshape(5, 3)
    one, other = (of(make_episode(observations=rows.astype(kind))) for kind in (np.int64, np.float64))
    assert one == other


def test_the_digest_of_the_content_is_that_of_what_was_seen_and_done():
    changed = make_episode(task="else", rewards=np.ones(4), success=True, terminated=True)
    assert content_digest(changed) == content_digest(make_episode())
    for changes in (dict(actions=np.full((4, 2), 0.1)), dict(observations=np.eye(5, 3))):
        assert content_digest(make_episode(**changes)) != content_digest(make_episode())


def test_an_episode_less_gives_another_fingerprint() -> None:
    assert of(make_episode(), make_episode()) != of(make_episode())


def test_observations_in_a_dict_count_by_name() -> None:
    left, right = np.zeros((5, 1)), np.ones((5, 1))
    assert of(make_episode(observations={"a": left, "b": right})) != of(
        make_episode(observations={"a": right, "b": left})
    )
