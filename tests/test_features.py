"""Inputs of networks: features of observations, standardised with statistics of the training data."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common import torch_layers
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from torch.testing import assert_close

from sb3_llmdpd.networks.features import CombinedExtractor, features_extractor_named, is_fixed_function
from sb3_llmdpd.networks.features import MetaWorldRelativeExtractor as Relative
from sb3_llmdpd.networks.layers import Normaliser

# Normaliser


def fitted(data: th.Tensor) -> Normaliser:
    normaliser = Normaliser(data.shape[1])
    normaliser.fit(data)
    return normaliser


def test_an_unfitted_normaliser_does_nothing():
    x = th.randn(10, 3)
    assert th.equal(Normaliser(3)(x), x)


def test_fitted_data_have_mean_zero_and_deviation_one():
    data = th.randn(500, 3, dtype=th.float64) * th.tensor([0.01, 1.0, 50.0]) + th.tensor([100.0, 0.0, -3.0])
    standardised = fitted(data)(data)
    assert_close(standardised.mean(dim=0), th.zeros(3, dtype=th.float64), rtol=0, atol=1e-3)
    assert_close(standardised.std(dim=0, correction=0), th.ones(3, dtype=th.float64), rtol=0, atol=1e-4)


def test_statistics_survive_a_mean_that_dwarfs_the_deviation():
    """In float32 the sum of a million numbers near 1000 would lose the third digit of the deviation."""
    data = 1000.0 + 0.01 * th.randn(200_000, 1)
    normaliser = fitted(data)
    assert normaliser.scale.item() == pytest.approx(data.numpy().astype(np.float64).std(), rel=1e-4)


def test_what_never_varied_is_centred_but_not_scaled():
    normaliser = fitted(th.tensor([[0.1, 1.0], [0.1, 3.0], [0.1, 5.0]]))
    assert_close(normaliser(th.tensor([[0.6, 3.0]])), th.tensor([[0.5, 0.0]]))


def test_far_out_values_are_clipped_at_ten_deviations():
    normaliser = fitted(th.tensor([[-1.0], [1.0]]))
    assert_close(normaliser(th.tensor([[-1e6], [9.5], [30.0]])), th.tensor([[-10.0], [9.5], [10.0]]))


def test_statistics_are_in_the_state_dict():
    loaded = Normaliser(2)
    loaded.load_state_dict(fitted(th.tensor([[0.0, 1.0], [4.0, 7.0]])).state_dict())
    assert_close(loaded.mean, th.tensor([2.0, 4.0]))
    assert_close(loaded.scale, th.tensor([2.0, 3.0]))


# Features extractors

METAWORLD = spaces.Box(-np.inf, np.inf, (39,), np.float32)


def scene() -> th.Tensor:
    """One observation of Meta-World, with positions and, as every other number, a hundredth of its index."""
    observation = th.arange(39.0)[None] / 100
    observation[0, 0:3] = th.tensor([0.1, 0.2, 0.3])  # hand
    observation[0, 4:7] = th.tensor([0.5, 0.5, 0.5])  # object
    observation[0, 11:14] = th.tensor([1.0, 2.0, 3.0])  # other object
    observation[0, 18:21] = th.tensor([0.0, 0.2, 0.4])  # hand, one step earlier
    observation[0, 22:25] = th.tensor([0.5, 0.4, 0.5])  # object, one step earlier
    observation[0, 36:39] = th.tensor([-1.0, 0.0, 1.0])  # goal
    return observation


OFFSETS = [
    [0.4, 0.3, 0.2],  # object - hand
    [-1.1, -0.2, 0.7],  # goal - hand
    [-1.5, -0.5, 0.5],  # goal - object
    [0.9, 1.8, 2.7],  # other object - hand
]
DISPLACEMENTS = [0.1, 0.0, -0.1, 0.0, 0.1, 0.0]  # of hand and object, since the last step


def test_metaworld_relative_writes_out_the_geometry():
    features = Relative(METAWORLD)(scene())[0]
    assert_close(features[:12].view(4, 3), th.tensor(OFFSETS))
    assert_close(features[36:42], th.tensor(DISPLACEMENTS))
    height_gripper_orientations = [0.3, 0.03, 0.07, 0.08, 0.09, 0.10, 0.14, 0.15, 0.16, 0.17]
    assert_close(features[42:], th.tensor(height_gripper_orientations))


def test_metaworld_relative_shows_distances_of_a_grasp_at_their_own_scale():
    close = scene()
    close[0, 4:7] = close[0, 0:3] + th.tensor([0.0, 0.03, -0.003])
    finest, fine = Relative(METAWORLD)(close)[0, 12:36].view(2, 12)
    assert_close(finest[:3], th.tensor([0.0, 1.0, -0.1]).tanh())
    assert_close(fine[:3], th.tensor([0.0, 0.3, -0.03]).tanh())
    assert_close(finest[9:], th.ones(3))  # the other object is far away in every direction


def test_metaworld_relative_means_the_same_wherever_the_table_stands():
    extractor, moved = Relative(METAWORLD), scene()
    for position in (0, 4, 11, 18, 22, 36):
        moved[0, position : position + 2] += th.tensor([0.25, -0.5])
    assert_close(extractor(moved), extractor(scene()))


def test_metaworld_relative_can_have_positions_beside_the_relations():
    bare, extended = Relative(METAWORLD), Relative(METAWORLD, positions=True)
    features = extended(scene())
    assert_close(features[0, 52:], th.tensor([0.1, 0.2, 0.3, 0.5, 0.5, 0.5, 1.0, 2.0, 3.0]))
    assert th.equal(features[:, :52], bare(scene()))
    assert (bare.features_dim, extended.features_dim) == (52, features.shape[1])


def test_a_goal_or_object_that_is_not_there_is_nowhere_relative_to_the_hand():
    """Meta-World writes zeros for it; minus the hand they would be a place that moves with the hand."""
    hidden = scene()
    hidden[0, 36:39] = hidden[0, 11:14] = 0.0
    offsets = Relative(METAWORLD)(hidden)[0, :24].view(2, 4, 3)  # coarse and fine
    assert th.equal(offsets[:, 1:], th.zeros(2, 3, 3))
    assert_close(offsets[0, 0], th.tensor(OFFSETS[0]))


def test_metaworld_relative_refuses_other_spaces():
    with pytest.raises(ValueError, match=r"Box of shape \(39,\); got Box\(.*\(38,\)"):
        Relative(spaces.Box(-1.0, 1.0, (38,)))


def test_names_stand_for_features_extractors_and_a_class_for_itself():
    names = ("flatten", "combined", "nature_cnn", "metaworld_relative")
    classes = [FlattenExtractor, CombinedExtractor, NatureCNN, Relative]
    assert [features_extractor_named(name) for name in (*names, Relative)] == [*classes, Relative]


IMAGE, VECTOR = spaces.Box(0, 255, (3, 36, 36), np.uint8), spaces.Box(-1.0, 1.0, (2,))


def test_sb3s_extractor_of_dicts_is_ours_with_the_same_weights():
    space = spaces.Dict(img=IMAGE, vec=VECTOR)
    assert features_extractor_named(torch_layers.CombinedExtractor) is CombinedExtractor
    ours, sb3s = CombinedExtractor(space, 8), torch_layers.CombinedExtractor(space, 8)
    sb3s.load_state_dict(ours.state_dict())
    observations = {"img": th.rand(2, 3, 36, 36), "vec": th.rand(2, 2)}
    assert th.equal(ours(observations), sb3s(observations))


@pytest.mark.parametrize(
    "keys",
    [
        ("observation.state", "observation.images.top"),  # LeRobot's
        ("a.b", "a_b", "a_b_"),
        ("", "_"),
        ("keys", "type", "training", "forward", "__class__"),
    ],
)
def test_any_key_of_a_dict_is_read(keys):
    space = spaces.Dict(dict.fromkeys(keys, VECTOR))
    extractor = CombinedExtractor(space)
    features = extractor({key: th.full((1, 2), float(number)) for number, key in enumerate(space.spaces)})
    assert features.tolist() == [[float(number) for number in range(len(keys)) for _ in range(2)]]
    assert extractor.features_dim == 2 * len(keys)


def test_an_unknown_features_extractor_is_answered_with_the_known_ones():
    message = r"'combined', 'flatten', 'metaworld_relative', 'nature_cnn'\], got 'flat'"
    with pytest.raises(ValueError, match=message):
        features_extractor_named("flat")


def test_only_extractors_without_weights_are_fixed_functions():
    image = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    assert is_fixed_function(FlattenExtractor(image))
    assert is_fixed_function(Relative(METAWORLD))
    assert not is_fixed_function(NatureCNN(image))
