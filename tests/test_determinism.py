"""The same seed gives the same training to the bit, on any fixed number of threads."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch as th
from factories import differing, make_episodes, tiny_model


@pytest.fixture
def _two_threads() -> Iterator[None]:
    before = th.get_num_threads()
    th.set_num_threads(2)
    yield
    th.set_num_threads(before)


def weights_after_training(arguments: dict[str, Any]) -> dict[str, th.Tensor]:
    """Train on batches that are large enough to be shared among threads."""
    model = tiny_model(dataset=make_episodes(n_episodes=20), batch_size=3 * 512, **arguments)
    return model.learn(5, log_interval=None).policy.state_dict()


@pytest.mark.slow
@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize(
    "arguments",
    [
        dict(policy_kwargs=dict(net_arch=[128, 128])),
        dict(policy_objective="action_approximation", prompt_noise=0.1),
        dict(policy_kwargs=dict(conditioning="cross_attention", layer_norm=True)),
        dict(policy_kwargs=dict(conditioning="nearest_steps", layer_norm=True)),
    ],
    ids=["default", "action approximation", "cross-attention", "nearest steps"],
)
def test_trainings_on_several_threads_are_equal_to_the_bit(arguments):
    first = weights_after_training(arguments)
    for _ in range(2):  # a sum in another order does not show each time
        assert differing(first, weights_after_training(arguments)) == set()
