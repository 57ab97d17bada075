"""The remembered encoding of a prompt is that of the weights that act, however these were changed."""

from collections.abc import Callable

import numpy as np
import pytest
import torch as th
from factories import make_episodes, tiny_model
from numpy.testing import assert_allclose, assert_array_equal
from stable_baselines3.common.utils import polyak_update

from sb3_llmdpd import LLMDPD

OBSERVATIONS = np.random.default_rng(3).normal(size=(8, 5)).astype(np.float32)
PROMPT = {"task_text": "do task number 1", "trajectory": make_episodes()[0]}


def act(model: LLMDPD) -> np.ndarray:
    return model.predict(OBSERVATIONS, deterministic=True, **PROMPT)[0]


def by_vector(model: LLMDPD, other: LLMDPD) -> None:
    model.policy.load_from_vector(other.policy.parameters_to_vector())


def by_average(model: LLMDPD, other: LLMDPD) -> None:
    polyak_update(other.policy.parameters(), model.policy.parameters(), 0.5)


def by_part(model: LLMDPD, other: LLMDPD) -> None:
    state = {key: value for key, value in other.policy.state_dict().items() if ".prompt_encoder.text" in key}
    model.policy.load_state_dict(state, strict=False)


def by_data_of_each(model: LLMDPD, other: LLMDPD) -> None:
    for parameter in model.policy.actor_target.prompt_encoder.parameters():
        parameter.data *= 1.5


def by_statistics(model: LLMDPD, other: LLMDPD) -> None:
    model.policy.actor_target.text_normaliser.mean += 0.5


def by_an_optimiser(model: LLMDPD, other: LLMDPD) -> None:
    parameters = list(model.policy.actor_target.parameters())
    for parameter in parameters:
        parameter.grad = th.ones_like(parameter)
    th.optim.SGD(parameters, 0.01).step()


@pytest.mark.parametrize(
    "change", [by_vector, by_average, by_part, by_data_of_each, by_statistics, by_an_optimiser]
)
@pytest.mark.parametrize("conditioning", ["concat", "retrieval"])
def test_a_change_of_weights_changes_what_is_remembered(change: Callable[..., None], conditioning, tmp_path):
    arguments = {"policy_kwargs": {"conditioning": conditioning}}
    model, other = (tiny_model(seed=seed, **arguments).learn(2) for seed in (0, 1))
    act(model)
    change(model, other)
    model.save(tmp_path / "model.zip")
    # Nearly: parts of one vector lie elsewhere in memory, where some processors round otherwise.
    assert_allclose(act(model), act(LLMDPD.load(tmp_path / "model.zip", device="cpu")), atol=1e-5)


@pytest.mark.parametrize("row", range(0, 16, 5))
def test_an_edit_of_one_row_of_a_matrix_is_noticed(row):
    model = tiny_model()
    before = act(model)
    matrix = next(weights for weights in model.policy.actor_target.encodes_prompts() if weights.ndim == 2)
    matrix.data[row % len(matrix)] += 3.0
    assert not np.array_equal(act(model), before)


@pytest.mark.parametrize(
    "settings",
    [{}, {"sampler": "ddim", "n_sampling_steps": 2}, {"n_candidates": 6}],
    ids=["all steps", "fewer steps", "candidates"],
)
def test_the_policy_acts_as_its_model_does(settings):
    model = tiny_model(**settings).learn(3)
    with model.using_task(**PROMPT):
        assert_array_equal(model.policy.predict(OBSERVATIONS, deterministic=True)[0], act(model))


def test_the_policy_follows_settings_that_change_later():
    model = tiny_model().learn(3)
    model.n_candidates = 6
    with model.using_task(**PROMPT):
        assert_array_equal(model.policy.predict(OBSERVATIONS, deterministic=True)[0], act(model))


def test_a_random_action_of_the_policy_follows_torchs_seed():
    model = tiny_model(n_candidates=3).learn(3)
    actions = []
    with model.using_task(**PROMPT):
        for _ in range(2):
            th.manual_seed(5)
            actions.append(model.policy.predict(OBSERVATIONS)[0])
    assert_array_equal(*actions)
