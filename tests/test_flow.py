"""The flow that acts in one jump: its losses by hand, what it learns, and a model whose actor it is."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch as th
from factories import tiny_model
from torch.testing import assert_close

from sb3_llmdpd import LLMDPD, presets
from sb3_llmdpd.diffusion.flow import N_TIMES, FlowProcess, Jump, jump
from sb3_llmdpd.diffusion.process import DiffusionProcess
from sb3_llmdpd.llmdpd.actor import PromptedActor
from sb3_llmdpd.networks.layers import AverageVelocity, Denoiser, Mish

FLOW = {"actor": "one_step_flow"}
TOLD = {"task_text": "do task number 0", "deterministic": True}
TARGET = th.tensor([0.5, -0.25])


def to_one_action(noisy: th.Tensor, t: int | th.Tensor, r: int | th.Tensor) -> th.Tensor:
    """Exact average velocity towards `TARGET`: all ways are straight, so it is the same for each r."""
    share = t / N_TIMES if isinstance(t, int) else (t / N_TIMES).unsqueeze(-1)
    return (noisy - TARGET) / share


def drawn(n: int) -> tuple[th.Tensor, th.Tensor]:
    generator = th.Generator().manual_seed(0)
    times = FlowProcess().draw_times((n,), generator).clamp(min=1)  # at 0 there is no way left
    return th.randn(n, 2, generator=generator), times


def test_the_exact_velocity_has_no_loss():
    noise, times = drawn(64)
    loss, estimated = FlowProcess().cloning_loss(lambda _: to_one_action, TARGET.expand(64, 2), noise, times)
    assert_close(loss, th.tensor(0.0), atol=1e-9, rtol=0)
    assert estimated is None


def test_one_jump_of_the_exact_velocity_is_any_two_jumps():
    noise, _ = drawn(10)
    for t, m, r in ((128, 64, 1), (100, 99, 2), (3, 2, 1)):
        halfway = jump(to_one_action, noise, t, m)
        assert_close(jump(to_one_action, halfway, m, r), jump(to_one_action, noise, t, r))


@pytest.mark.parametrize("n_steps", [None, 1, 2, 4, N_TIMES])
def test_any_number_of_jumps_ends_at_the_action(n_steps):
    process, noise = FlowProcess(), th.randn(1, 20, 2, generator=th.Generator().manual_seed(0))
    actions = process.sample(to_one_action, noise, process.chain(n_steps=n_steps))
    assert_close(actions, TARGET.expand(20, 2), atol=1e-5, rtol=0)


def test_a_chain_goes_from_noise_to_action_without_a_gap():
    assert FlowProcess().chain() == [Jump(N_TIMES, 0)]
    chain = FlowProcess().chain("jumps", 3)
    assert (chain[0].t, chain[-1].r) == (N_TIMES, 0)
    assert all(before.r == after.t for before, after in pairwise(chain))


@pytest.mark.parametrize(
    ("sampler", "n_steps", "message"),
    [
        ("ddim", None, "`sampler` must be 'jumps' or None for actor='one_step_flow', got 'ddim'"),
        (None, 0, r"`n_sampling_steps` must be in \[1, 128\] for a flow, got 0"),
        (None, N_TIMES + 1, r"`n_sampling_steps` must be in \[1, 128\] for a flow, got 129"),
    ],
)
def test_a_chain_that_cannot_be_is_refused(sampler, n_steps, message):
    with pytest.raises(ValueError, match=message):
        FlowProcess().chain(sampler, n_steps)


def test_actions_never_leave_the_unit_box():
    actions = FlowProcess().sample(lambda noisy, t, r: -9.0 * noisy, th.randn(1, 50, 2))
    assert actions.abs().max() == 1.0


def network(seed: int = 0) -> AverageVelocity:
    th.manual_seed(seed)
    return AverageVelocity(2, 1, 1, N_TIMES + 1, [16, 16], Mish, True)


def by_hand(net: AverageVelocity, noisy: th.Tensor, t: int, r: int, condition: th.Tensor) -> th.Tensor:
    """Evaluate v in one row."""
    return net(noisy, net.step_embeddings()[t] + net.from_end(net.step_table)[r], condition)


def test_the_loss_is_that_of_the_paper_row_by_row():
    net, (noise, times) = network(), drawn(9)
    actions, conditions = th.rand(9, 2) * 2 - 1, th.randn(9, 16)
    loss, _ = FlowProcess().cloning_loss(lambda rows: net.given(conditions[rows]), actions, noise, times)
    errors = []
    for row in range(9):
        a, eps, c = actions[row], noise[row], conditions[row]
        if row % 2 == 0:  # boundary: v(a_t, t, t) = eps - a
            t = int(times[row, 0])
            at = (1 - t / N_TIMES) * a + t / N_TIMES * eps
            errors.append(by_hand(net, at, t, t, c) - (eps - a))
        else:  # composition: pi(a_t, r, t) = pi(pi(a_t, m, t), r, m)
            whole = [0, int(times[row, 0]), N_TIMES]
            r, m, t = whole if row % 4 == 3 else (int(each) for each in sorted(times[row]))
            at = (1 - t / N_TIMES) * a + t / N_TIMES * eps
            am = at - (t - m) / N_TIMES * by_hand(net, at, t, m, c)
            ar = am - (m - r) / N_TIMES * by_hand(net, am, m, r, c)
            errors.append(at - (t - r) / N_TIMES * by_hand(net, at, t, r, c) - ar.detach())
    expected = th.stack(errors).square().mean()
    assert_close(loss, expected)
    weights = list(net.from_end.parameters())
    for ours, theirs in zip(
        th.autograd.grad(loss, weights), th.autograd.grad(expected, weights), strict=True
    ):
        assert_close(ours, theirs)


def test_times_are_drawn_evenly_from_both_ends_on():
    times = FlowProcess().draw_times((40_000,), th.Generator().manual_seed(0))
    counts = th.bincount(times.flatten(), minlength=N_TIMES + 1)
    assert len(counts) == N_TIMES + 1
    assert counts.float().std() < 2 * math.sqrt(counts.float().mean())


def around(n: int) -> th.Tensor:
    """Draw n points of four modes on a circle."""
    angles = th.randint(4, (n,)) * math.pi / 2
    return 0.7 * th.stack([angles.cos(), angles.sin()], dim=1) + 0.03 * th.randn(n, 2)


def distance(x: th.Tensor, y: th.Tensor) -> float:
    """Sliced Wasserstein distance of two samples of one size."""
    directions = th.nn.functional.normalize(th.randn(2, 64), dim=0)
    return float(((x @ directions).sort(0).values - (y @ directions).sort(0).values).square().mean().sqrt())


def learned(process: FlowProcess | DiffusionProcess, net: Denoiser, n_updates: int = 1500):
    optimizer, generator = th.optim.Adam(net.parameters(), 2e-3), th.Generator().manual_seed(0)
    condition = th.zeros(2000, 64)
    for _ in range(n_updates):
        times = process.draw_times((256,), generator)
        loss, _ = process.cloning_loss(
            lambda rows: net.given(condition[:256][rows]), around(256), th.randn(256, 2), times
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return th.no_grad()(
        lambda chain: process.sample(net.given(condition), th.randn(len(chain), 2000, 2), chain)
    )


@pytest.mark.slow
def test_one_jump_reaches_modes_that_one_step_of_a_cut_chain_misses():
    th.manual_seed(0)
    flow, diffusion = FlowProcess(), DiffusionProcess(5)
    jumped = learned(flow, AverageVelocity(2, 1, 1, N_TIMES + 1, [64, 64], Mish, False))(flow.chain())
    cut = learned(diffusion, Denoiser(2, 1, 1, 5, [64, 64], Mish, False))(diffusion.chain("ddim", 1))
    assert distance(jumped, around(2000)) < 0.24
    assert distance(cut, around(2000)) > 0.28


def flow_model(**kwargs) -> LLMDPD:
    return tiny_model(policy_kwargs=FLOW, **kwargs)


@pytest.fixture(scope="module")
def trained() -> LLMDPD:
    return flow_model(eta=0.1).learn(30)


def observations(model: LLMDPD, n: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, *model.observation_space.shape)).astype(np.float32)


def test_a_file_of_a_flow_acts_as_the_model(trained, tmp_path):
    trained.save(tmp_path / "model.zip")
    seen = observations(trained, 3)
    loaded = LLMDPD.load(tmp_path / "model.zip")
    np.testing.assert_array_equal(loaded.predict(seen, **TOLD)[0], trained.predict(seen, **TOLD)[0])
    assert loaded.policy_kwargs["actor"] == "one_step_flow"


def test_an_actor_of_a_file_that_names_no_process_is_a_diffusion(tmp_path, monkeypatch):
    before = tiny_model().actor
    monkeypatch.delitem(before._arguments, "actor")
    before.save(tmp_path / "actor.zip")
    assert isinstance(PromptedActor.load(tmp_path / "actor.zip", device="cpu").process, DiffusionProcess)


def test_a_training_of_a_flow_goes_on_as_if_it_had_not_stopped(tmp_path):
    whole, stopped = flow_model().learn(10), flow_model().learn(5)
    stopped.save(tmp_path / "model.zip")
    resumed = LLMDPD.load(tmp_path / "model.zip", dataset=stopped.replay_buffer)
    resumed.learn(5, reset_num_timesteps=False)
    for name, weights in whole.actor.state_dict().items():
        assert_close(resumed.actor.state_dict()[name], weights, rtol=0, atol=0)


def test_the_action_of_a_row_does_not_depend_on_the_others(trained):
    seen = observations(trained, 4)
    alone = [trained.predict(row, **TOLD)[0] for row in seen]
    np.testing.assert_allclose(trained.predict(seen, **TOLD)[0], alone, atol=1e-6)


@pytest.mark.parametrize("n_steps", [1, 2, 4])
def test_a_flow_acts_in_the_jumps_that_it_is_told(trained, n_steps, monkeypatch):
    calls = []
    forward = trained.actor_target.denoiser.forward
    monkeypatch.setattr(
        trained.actor_target.denoiser, "forward", lambda *given: calls.append(1) or forward(*given)
    )
    monkeypatch.setattr(trained.acting, "n_sampling_steps", n_steps)
    trained.predict(observations(trained, 2), **TOLD)
    assert len(calls) == n_steps


@pytest.mark.parametrize("objective", ["diffusion_ql", "action_approximation"])
def test_the_q_term_sees_the_action_of_one_jump(objective):
    model = flow_model(eta=1.0, policy_objective=objective)
    batch = model.replay_buffer.sample(24)
    noise = model.losses.draw_noise(3, 8, 8, model.generator)
    encoded = model.losses.encode_for_critic(batch)
    _, metrics = model.losses.actor_loss(batch, encoded, noise)
    features = model.actor.encode_observations(batch.observations).unflatten(0, (3, 8))
    condition = model.actor.condition(features, model.actor.encode_prompts(batch.prompts))
    velocity = model.actor.denoiser.given(condition)(noise.new_actions[0], N_TIMES, 0)
    expected = model.losses.q_loss((noise.new_actions[0] - velocity).clamp(-1, 1), encoded, noise.head)
    assert_close(metrics["q_loss"], expected)


def test_a_program_of_a_flow_acts_as_the_model(trained, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    seen = observations(trained, 3)
    path = trained.export(tmp_path / "actor.onnx", TOLD["task_text"])
    acted = onnxruntime.InferenceSession(path).run(None, {"observations": seen})[0]
    np.testing.assert_allclose(acted, trained.predict(seen, **TOLD)[0], atol=1e-5)


@pytest.mark.parametrize("kwargs", [dict(n_diffusion_steps=4), dict(noise_schedule="cosine")])
def test_a_flow_refuses_settings_of_a_diffusion(kwargs):
    with pytest.raises(
        ValueError, match=f"`{next(iter(kwargs))}` is a setting of actor='ddpm', and 'one_step_flow' has"
    ):
        tiny_model(policy_kwargs={**FLOW, **kwargs})


def test_a_flow_refuses_a_sampler_of_a_diffusion():
    with pytest.raises(ValueError, match="`sampler` must be 'jumps' or None"):
        flow_model(sampler="ddim")


def test_an_unknown_actor_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"`actor` must be one of \('ddpm', 'one_step_flow'\), got 'flow'"):
        tiny_model(policy_kwargs={"actor": "flow"})


def test_the_papers_preset_takes_a_flow():
    policy_kwargs = {**presets.PAPER["policy_kwargs"], **FLOW}
    assert isinstance(tiny_model(policy_kwargs=policy_kwargs).actor.process, FlowProcess)
