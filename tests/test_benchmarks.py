"""The references of `make bench` do the same as what they are compared with."""

import pytest
from benchmarks.reference import Draws, ReferenceStep
from factories import TINY_POLICY, tiny_model
from torch.testing import assert_close

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.benchmarks.common.variants import merged
from sb3_llmdpd.llmdpd.losses import StepNoise
from sb3_llmdpd.presets import PAPER


def draws_of(noise: StepNoise) -> Draws:
    """The same draws, row after row."""
    assert noise.next_actions is not None
    assert noise.new_actions is not None
    chains = (noise.next_actions.flatten(1, 2), noise.new_actions.flatten(1, 2))
    return Draws(chains[0], noise.actions.flatten(0, 1), noise.times.flatten(), chains[1], noise.head)


def without_prompts(model: LLMDPD) -> LLMDPD:
    """Whose prompts say nothing, and never will."""
    networks = [net.denoiser for net in (model.actor, model.actor_target)]
    networks += [net.q_networks for net in (model.critic, model.critic_target)]
    for network in networks:
        network.from_prompt.weight.requires_grad_(False).zero_()
    return model


@pytest.mark.parametrize("prompted", [False, True], ids=["without prompts", "with prompts"])
def test_the_reference_has_our_losses_with_the_same_weights_and_noise(prompted: bool) -> None:
    """Over three steps, so that gradients, clipping, optimisers and averages are the same, too."""
    dropout = 0.0 if prompted else 1.0
    shown = {"text_dropout": dropout, "trajectory_dropout": dropout}
    model = tiny_model(**merged(PAPER, {**shown, "max_grad_norm": 0.5, "policy_kwargs": TINY_POLICY}))
    model = model if prompted else without_prompts(model)
    reference = ReferenceStep(model, prompted)
    for number in range(3):
        batch, noise = model.replay_buffer.sample(24), model.losses.draw_noise(3, 8, 8, model.generator)
        losses = reference.step(reference.rows_of(batch), reference.prompts_of(batch), draws_of(noise))
        metrics = model.gradient_step.update(batch, noise, (2 + number) / (11 + number))
        for name, loss in losses.items():
            assert_close(loss, metrics[name].detach())
    assert_close(reference.actor_target.from_state.weight, model.actor_target.denoiser.from_state.weight)
    assert_close(reference.critic_target.weights[0], model.critic_target.q_networks.trunk[1].weight)
