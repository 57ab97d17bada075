"""The inputs of the networks are standardised with statistics of the data, whoever reads them first."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from factories import tiny_model
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn
from torch.testing import assert_close

from sb3_llmdpd import LLMDPD, Episode, OfflineDataset

IMAGES = spaces.Box(0, 255, (3, 36, 36), np.uint8)
JOINTS = spaces.Box(-np.inf, np.inf, (2,))
SPACE = spaces.Dict({"camera": IMAGES, "joints": JOINTS, "mode": spaces.Discrete(3)})


class Learned(BaseFeaturesExtractor):
    """A linear map that remembers what it read."""

    def __init__(self, observation_space: gym.Space[Any]) -> None:
        super().__init__(observation_space, features_dim=4)
        self.map = nn.Linear(spaces.utils.flatdim(observation_space), 4)
        self.read: th.Tensor | None = None

    def forward(self, observations: th.Tensor) -> th.Tensor:
        self.read = observations.detach()
        return self.map(observations)


def episodes_of(space: spaces.Space[Any], n: int = 4) -> OfflineDataset:
    """Random observations of a space, its vectors around 100 with a deviation of 5."""
    rng = np.random.default_rng(0)

    def rows(part: spaces.Space[Any]) -> Any:
        if isinstance(part, spaces.Dict):
            return {key: rows(subspace) for key, subspace in part.spaces.items()}
        if isinstance(part, spaces.Discrete):
            return rng.integers(part.n, size=9)
        if part.dtype == np.uint8:
            return rng.integers(256, size=(9, *part.shape), dtype=np.uint8)
        return 100 + 5 * rng.standard_normal((9, *part.shape))

    def episode() -> Episode:
        return Episode(rows(space), rng.uniform(-1, 1, (8, 2)), rng.normal(size=8), task_texts=("go",))

    return OfflineDataset.from_episodes([episode() for _ in range(n)], observation_space=space)


def make_model(space: spaces.Space[Any], policy: str, **policy_kwargs: Any) -> LLMDPD:
    dataset = episodes_of(space)
    return tiny_model(policy=policy, dataset=dataset, prompts_per_batch=1, policy_kwargs=policy_kwargs)


def of_a_dict() -> LLMDPD:
    return make_model(SPACE, "MultiInputPolicy", features_extractor_kwargs=dict(cnn_output_dim=4))


def of_a_vector() -> LLMDPD:
    return make_model(spaces.Box(-np.inf, np.inf, (3,)), "MlpPolicy", features_extractor_class=Learned)


@pytest.mark.parametrize("name", ["actor", "actor_target"])
def test_an_extractor_that_learns_reads_standardised_vectors(name):
    model = of_a_vector()
    actor = getattr(model, name)
    actor.encode_observations(model.replay_buffer.some_observations(1000))
    read = actor.features_extractor.read
    assert_close(read.mean(dim=0), th.zeros(3), atol=1e-4, rtol=0)
    assert_close(read.std(dim=0, correction=0), th.ones(3), atol=1e-4, rtol=0)


def test_in_a_dict_vectors_are_standardised_and_images_and_categories_left():
    model = of_a_dict()
    observations = model.replay_buffer.some_observations(1000)
    normaliser = model.actor_target.observation_normaliser
    assert normaliser is not None
    read = normaliser(observations)
    assert_close(read["joints"].std(dim=0, correction=0), th.ones(2), atol=1e-4, rtol=0)
    for name in ("camera", "mode"):
        assert read[name] is observations[name]


def test_the_example_is_standardised_like_the_observation():
    model = of_a_vector()
    prompts = model.replay_buffer.sample(4).prompts
    model.actor.encode_prompts(prompts)
    assert model.actor.features_extractor.read.abs().max() < 10  # and not around 100


@pytest.mark.parametrize("make", [of_a_vector, of_a_dict])
def test_the_statistics_are_in_the_model_file_and_stay(make, tmp_path):
    model = make().learn(2)
    model.save(tmp_path / "model")
    own = dict(custom_objects=dict(features_extractor_class=Learned)) if make is of_a_vector else {}
    loaded = LLMDPD.load(tmp_path / "model", device="cpu", **own)
    expected = model.actor_target.observation_normaliser.state_dict()
    assert set(expected) == {"normalisers.0.mean", "normalisers.0.scale"}
    assert_close(loaded.actor_target.observation_normaliser.state_dict(), expected, rtol=0, atol=0)
    assert expected["normalisers.0.mean"].mean() > 90


def test_where_nothing_learns_the_features_are_standardised_instead():
    model = tiny_model()
    assert model.actor.observation_normaliser is None
    assert model.actor.feature_normaliser.scale.std() > 0
