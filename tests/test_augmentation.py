"""Augmented batches: turned scenes of Meta-World in which examples and transitions still agree."""

import io
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch as th
from expect import refused
from factories import differing, make_buffer, make_episodes, tiny_model
from gymnasium import spaces
from torch.testing import assert_close

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.llmdpd.augmentation import AUGMENTATIONS, N_DRAWS, metaworld_turns
from sb3_llmdpd.networks.features import MetaWorldRelativeExtractor
from sb3_llmdpd.type_aliases import PromptReplayBufferSamples

PLACES = (0, 4, 11, 18, 22, 29, 36)
"""First entries of the positions of hand, object and other object, now and before, and of the goal."""
OTHERS = sorted(set(range(39)) - {place + axis for place in PLACES for axis in range(3)})
ROWS = 6
"""Transitions of each prompt."""


def episodes() -> list[Any]:
    return make_episodes(observation_dim=39, action_dim=4)


def batch_of(n_prompts: int = 8) -> PromptReplayBufferSamples:
    buffer = make_buffer(episodes(), prompts_per_batch=n_prompts, examples_per_prompt=(1, 3))
    return buffer.sample(n_prompts * ROWS)


def turned(batch: PromptReplayBufferSamples, seed: int = 0) -> PromptReplayBufferSamples:
    draws = th.rand((N_DRAWS, len(batch.prompts.has_text)), generator=th.Generator().manual_seed(seed))
    return metaworld_turns(batch, draws)


def all_turns() -> list[th.Tensor]:
    """The eight turns and reflections of a square, as maps of rows (x, y, z)."""
    signs, turns = list(product((1.0, -1.0), repeat=2)), []
    for (x, y), swaps in product(signs, (False, True)):
        turn = th.diag(th.tensor([x, y, 1.0]))
        turns.append(turn[[1, 0, 2]] if swaps else turn)
    return turns


def by_hand(observations: th.Tensor, turn: th.Tensor) -> th.Tensor:
    expected = observations.clone()
    for place in PLACES:
        expected[..., place : place + 3] = observations[..., place : place + 3] @ turn
    return expected


def turn_of(before: th.Tensor, after: th.Tensor) -> int:
    """Find the one turn that makes the observations of a prompt what they are."""
    fitting = [i for i, turn in enumerate(all_turns()) if th.allclose(by_hand(before, turn), after)]
    assert len(fitting) == 1
    return fitting[0]


def by_prompt(rows: th.Tensor, n_prompts: int = 8) -> th.Tensor:
    return rows.unflatten(0, (n_prompts, -1))


def turns_of(before: PromptReplayBufferSamples, after: PromptReplayBufferSamples) -> list[int]:
    n_prompts = len(before.prompts.has_text)
    pairs = (by_prompt(each.observations, n_prompts) for each in (before, after))
    return [turn_of(*pair) for pair in zip(*pairs, strict=True)]


def test_all_scenes_of_a_prompt_are_turned_alike():
    before = batch_of()
    after = turned(before)
    for m, i in enumerate(turns_of(before, after)):
        turn = all_turns()[i]
        for one, other in (
            (before.next_observations, after.next_observations),
            (before.prompts.observations, after.prompts.observations),
        ):
            assert_close(by_prompt(other)[m], by_hand(by_prompt(one)[m], turn))


def test_actions_move_the_hand_in_the_turned_direction_and_keep_their_grip():
    before = batch_of()
    after = turned(before)
    for m, i in enumerate(turns_of(before, after)):
        turn = all_turns()[i]
        pairs = [(by_prompt(each.actions)[m], each.prompts.actions[m]) for each in (before, after)]
        for one, other in zip(*pairs, strict=True):
            assert_close(other[..., :3], one[..., :3] @ turn)
            assert th.equal(other[..., 3], one[..., 3])


def test_every_turn_is_as_likely_as_any_other():
    before = batch_of(n_prompts=32)
    found = [turn for seed in range(40) for turn in turns_of(before, turned(before, seed))]
    assert_close(th.tensor(found).bincount(minlength=8) / len(found), th.full((8,), 1 / 8), rtol=0, atol=0.04)


def test_heights_gripper_and_orientations_stay():
    before = batch_of()
    after = turned(before)
    kept = [*OTHERS, *(place + 2 for place in PLACES)]
    for one, other in (
        (before.observations, after.observations),
        (before.prompts.observations, after.prompts.observations),
    ):
        assert th.equal(other[:, kept], one[:, kept])


def positions(observations: th.Tensor) -> th.Tensor:
    """(B, 7, 3)."""
    return th.stack([observations[:, place : place + 3] for place in PLACES], dim=1)


def test_all_distances_are_kept():
    before = batch_of()
    after = turned(before)
    distances = [th.cdist(*[positions(each.observations)] * 2) for each in (before, after)]
    assert_close(*distances, atol=1e-4, rtol=1e-4)
    steps = [each.next_observations[:, :3] - each.observations[:, :3] for each in (before, after)]
    for before_step, after_step, one, other in zip(*steps, before.actions, after.actions, strict=True):
        assert_close(before_step @ one[:3], after_step @ other[:3], atol=1e-5, rtol=1e-4)


def test_relative_features_of_turned_scenes_are_the_turned_features():
    """Twelve differences of positions come first, at three scales, then two displacements; the rest stays."""
    extractor = MetaWorldRelativeExtractor(spaces.Box(-np.inf, np.inf, (39,), np.float32))
    before = batch_of()
    after = turned(before)
    features = [by_prompt(extractor(each.observations)) for each in (before, after)]
    for m, i in enumerate(turns_of(before, after)):
        one, other = (each[m] for each in features)
        directions = one[:, :42].unflatten(1, (14, 3)) @ all_turns()[i]
        assert_close(other[:, :42], directions.flatten(1))
        assert th.equal(other[:, 42:], one[:, 42:])


def test_what_is_not_there_stays_nowhere():
    before = batch_of()
    before.observations[:, 11:14] = before.observations[:, 36:39] = 0.0
    after = turned(before)
    assert after.observations[:, [*range(11, 14), *range(36, 39)]].eq(0).all()


def test_actions_stay_in_their_bounds():
    before = batch_of()
    before.actions[:] = before.actions.sign()
    assert turned(before).actions.abs().eq(1.0).all()


def test_sentences_rewards_and_which_steps_are_shown_stay():
    before = batch_of()
    after = turned(before)
    assert after.rewards is before.rewards
    assert after.dones is before.dones
    changed = ("observations", "actions")
    for name, part in after.prompts._asdict().items():
        assert name in changed or part is getattr(before.prompts, name)


def test_the_batch_before_is_left_as_it_was():
    before, again = batch_of(), batch_of()
    turned(before)
    for one, other in ((before, again), (before.prompts, again.prompts)):
        assert all(th.equal(a, b) for a, b in zip(one, other, strict=True) if isinstance(a, th.Tensor))


@pytest.mark.parametrize("as_dict", [False, True])
def test_other_observations_are_refused(as_dict):
    batch = make_buffer(make_episodes(observation_dim=38)).sample(8)
    if as_dict:
        batch = batch._replace(observations={"a": th.zeros(8, 39)})
    with refused("'metaworld_turns' turns Meta-World's observations, arrays of 39 numbers"):
        turned(batch)


def test_a_prompt_without_an_example_stays_as_it_is():
    """A sentence does not turn."""
    batch = batch_of(n_prompts=32)
    is_alone = th.arange(32) % 2 == 0
    before = batch._replace(prompts=batch.prompts.dropped(th.zeros(32, dtype=th.bool), is_alone))
    after = turned(before)
    turns = th.tensor(turns_of(before, after))
    as_it_is = turn_of(before.observations, before.observations)
    assert (turns[is_alone] == as_it_is).all()
    assert (turns[~is_alone] != as_it_is).any()
    assert th.equal(*(by_prompt(each.actions, 32)[is_alone] for each in (before, after)))


def test_a_batch_without_any_example_stays_as_it_is():
    batch = batch_of()
    before = batch._replace(prompts=batch.prompts.without_examples())
    after = turned(before)
    assert th.equal(after.observations, before.observations)
    assert after.prompts.observations.shape == (0, 39)


# In a model


def test_a_gradient_step_learns_from_the_augmented_batch_after_prompts_were_dropped():
    augmenting, plain = (tiny_model(dataset=episodes(), augmentation=a) for a in ("metaworld_turns", None))
    batch = augmenting.replay_buffer.sample(24)
    dropout = th.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]])  # text of the third, example of the second
    noise = augmenting.losses.draw_noise(3, 8, 8, augmenting.generator)._replace(dropout=dropout)
    dropped = batch.prompts.dropped(*(dropout < 0.1))
    expected = metaworld_turns(batch._replace(prompts=dropped), noise.augmentation)
    augmenting.gradient_step.update(batch, noise, 1.0)
    plain.gradient_step.update(expected, noise._replace(augmentation=None), 1.0)
    assert differing(augmenting.policy, plain.policy) == set()


def test_without_an_augmentation_nothing_is_drawn_for_it():
    model = tiny_model()
    assert model.losses.draw_noise(3, 8, 8, model.generator).augmentation is None


def halved(batch: PromptReplayBufferSamples, draws: th.Tensor) -> PromptReplayBufferSamples:
    """An augmentation of one's own."""
    assert draws.shape == (N_DRAWS, len(batch.prompts.has_text))
    return batch._replace(actions=batch.actions / 2)


def test_a_function_of_ones_own_is_an_augmentation():
    own, plain = (tiny_model(augmentation=augmentation) for augmentation in (halved, None))
    batch = own.replay_buffer.sample(24)
    noise = own.losses.draw_noise(3, 8, 8, own.generator)
    own.gradient_step.update(batch, noise, 1.0)
    expected = batch._replace(actions=batch.actions / 2)
    plain.gradient_step.update(expected, noise._replace(augmentation=None), 1.0)
    assert differing(own.policy, plain.policy) == set()


def test_an_unknown_augmentation_is_answered_with_the_known_ones():
    message = r"`augmentation` must be a function or one of \['metaworld_turns'\], got 'turns'"
    assert list(AUGMENTATIONS) == ["metaworld_turns"]
    with refused(message):
        tiny_model(augmentation="turns")


def test_what_is_neither_a_name_nor_a_function_is_refused():
    with pytest.raises((TypeError, ValueError), match="`augmentation` must be a function or one of"):
        tiny_model(augmentation=3)


def file_of(model: LLMDPD) -> bytes:
    file = io.BytesIO()
    model.save(file)
    return file.getvalue()


def test_a_loaded_model_augments_as_the_saved_one():
    content = file_of(tiny_model(dataset=episodes(), augmentation="metaworld_turns"))
    loaded = LLMDPD.load(io.BytesIO(content), device="cpu", dataset=episodes())
    assert loaded.augmentation == "metaworld_turns"
    assert loaded.losses.draw_noise(3, 8, 8, loaded.generator).augmentation.shape == (N_DRAWS, 3)


def test_a_function_of_ones_own_is_asked_back_when_a_model_is_loaded():
    content = file_of(tiny_model(augmentation=halved))
    with refused("`augmentation`|'augmentation'"):
        LLMDPD.load(io.BytesIO(content), device="cpu")
    loaded = LLMDPD.load(io.BytesIO(content), device="cpu", custom_objects={"augmentation": halved})
    assert loaded.augmentation is halved
