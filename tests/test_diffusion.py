"""The diffusion process: its constants against the paper's, its chain against Bayes' rule and diffusers."""

import math

import pytest
import torch as th
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch.testing import assert_close

from sb3_llmdpd.diffusion.noise_schedules import NOISE_SCHEDULES, cosine_betas, linear_betas, vp_betas
from sb3_llmdpd.diffusion.process import SAMPLERS, DiffusionProcess

K = 5
# Diffusion-QL's official schedule, K = 5: computed once with numpy from the closed form of its code.
VP = {
    "alpha": [0.80413, 0.54118, 0.36422, 0.24512, 0.16497],
    "beta": [0.19587, 0.45882, 0.63578, 0.75488, 0.83503],
    "alpha_bar": [0.80413, 0.43518, 0.15850, 0.03885, 0.00641],
    "signal": [0.89673, 0.65968, 0.39812, 0.19711, 0.08006],
    "noise": [0.44258, 0.75155, 0.91733, 0.98038, 0.99679],
    "posterior_std": [0.0, 0.39889, 0.65325, 0.81296, 0.89876],
    "start": [1.0, 0.72844, 0.49841, 0.31268, 0.16565],
    "noisy": [0.0, 0.25512, 0.40508, 0.43347, 0.39290],
}


def assert_close_to_table(values: object, row: str) -> None:
    """Compare five digits, as the table has them."""
    expected = th.tensor(VP[row], dtype=th.float64)
    assert_close(th.as_tensor(values, dtype=th.float64), expected, rtol=0, atol=6e-6)


def drift(actions: th.Tensor, k: int) -> th.Tensor:
    """A noise predictor that depends on action and step, and keeps the chain away from the clip."""
    return 0.9 * actions + 0.1 * th.sin(3.0 * actions + k)


def predicted_noise(process: DiffusionProcess, noisy: th.Tensor, start: th.Tensor, k: int) -> th.Tensor:
    """Predict the noise of a denoiser that knows the clean action."""
    return (noisy - process.alphas_bar[k].sqrt() * start) / (1.0 - process.alphas_bar[k]).sqrt()


def test_vp_betas_and_the_products_of_their_alphas_are_those_of_diffusion_ql():
    assert_close_to_table(vp_betas(K), "beta")
    assert_close_to_table(1.0 - vp_betas(K), "alpha")
    assert_close_to_table(DiffusionProcess(K).alphas_bar, "alpha_bar")


def test_posterior_constants_are_those_of_diffusion_ql():
    upwards = DiffusionProcess(K).ddpm[::-1]
    assert [step.k for step in upwards] == list(range(K))
    assert_close_to_table([step.std for step in upwards], "posterior_std")
    assert_close_to_table([step.of_start for step in upwards], "start")
    assert_close_to_table([step.of_noisy for step in upwards], "noisy")


def test_add_noise_mixes_signal_and_noise_as_the_step_says():
    steps = th.arange(K)
    process = DiffusionProcess(K)
    assert_close_to_table(process.add_noise(th.ones(K, 1), th.zeros(K, 1), steps).squeeze(1), "signal")
    assert_close_to_table(process.add_noise(th.zeros(K, 1), th.ones(K, 1), steps).squeeze(1), "noise")


@pytest.mark.parametrize(
    ("distribution", "shares"),
    # VP's alpha_bar over its sum
    [("uniform", [0.2] * 5), ("signal", [0.5572, 0.3016, 0.1098, 0.0269, 0.0044])],
)
def test_steps_are_drawn_alike_or_by_the_signal_that_is_left(distribution, shares):
    process = DiffusionProcess(K, step_distribution=distribution)
    steps = process.draw_times((100, 400), th.Generator().manual_seed(0))
    assert (steps.shape, steps.dtype) == ((100, 400), th.int64)
    found = th.bincount(steps.ravel(), minlength=K) / 40_000
    assert_close(found, th.tensor(shares), rtol=0, atol=0.008)  # > 3 sigma


def test_the_only_step_of_a_chain_is_always_drawn():
    steps = DiffusionProcess(1, step_distribution="signal").draw_times((2, 50), th.Generator().manual_seed(0))
    assert (steps == 0).all()


def test_add_noise_takes_a_step_of_its_own_for_each_row():
    steps = th.tensor([[0, 1, 2], [3, 4, 0]])
    noised = DiffusionProcess(K).add_noise(th.ones(2, 3, 2), th.zeros(2, 3, 2), steps)
    signal = th.tensor(VP["signal"])[steps]
    assert_close(noised, signal.unsqueeze(-1).expand(2, 3, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("schedule", sorted(NOISE_SCHEDULES))
def test_the_step_by_step_forward_process_has_the_variance_of_the_direct_one(schedule):
    betas = NOISE_SCHEDULES[schedule](K)
    variance = th.zeros((), dtype=th.float64)
    for k in range(K):  # a_k = sqrt(1 - beta) a_{k-1} + sqrt(beta) eps
        variance = (1.0 - betas[k]) * variance + betas[k]
        assert_close(variance.float(), 1.0 - DiffusionProcess(K, schedule).alphas_bar[k], rtol=0, atol=1e-6)


@pytest.mark.parametrize("schedule", sorted(NOISE_SCHEDULES))
def test_predict_start_undoes_add_noise(schedule):
    process = DiffusionProcess(K, schedule)
    actions, noise = th.rand(40, 3) * 2 - 1, th.randn(40, 3)
    steps = th.arange(40) % K
    # The action's share in the cosine schedule's last step is a few float32 roundings of the noise.
    atol = 2e-2 if schedule == "cosine" else 1e-4
    noisy = process.add_noise(actions, noise, steps)
    assert_close(process.predict_start(noisy, noise, steps), actions, rtol=0, atol=atol)


def test_predict_start_clips_to_the_actions_there_are():
    start = DiffusionProcess(K).predict_start(th.tensor([[9.0, -9.0]]), th.zeros(1, 2), th.tensor([2]))
    assert_close(start, th.tensor([[1.0, -1.0]]))


@pytest.mark.parametrize("schedule", sorted(NOISE_SCHEDULES))
@pytest.mark.parametrize("k", range(1, K))
def test_posterior_is_what_bayes_rule_gives_on_a_grid(schedule, k):
    betas = NOISE_SCHEDULES[schedule](K)
    previous = th.cumprod(1.0 - betas, dim=0)[k - 1]
    start, noisy = 0.37, -0.81
    grid = th.linspace(-9.0, 9.0, 200_001, dtype=th.float64)  # a_{k-1}
    log_prior = -((grid - previous.sqrt() * start) ** 2) / (2 * (1.0 - previous))  # q(a_{k-1} | a_0)
    log_likelihood = -((noisy - (1.0 - betas[k]).sqrt() * grid) ** 2) / (2 * betas[k])  # q(a_k | a_{k-1})
    posterior = th.softmax(log_prior + log_likelihood, dim=0)
    mean = (posterior * grid).sum()
    std = (posterior * (grid - mean) ** 2).sum().sqrt()

    step = DiffusionProcess(K, schedule).ddpm[K - 1 - k]
    assert step.of_start * start + step.of_noisy * noisy == pytest.approx(mean.item(), abs=1e-6)
    assert step.std == pytest.approx(std.item(), abs=1e-6)


def test_the_chain_is_the_loop_of_the_paper():
    """Ho et al. (2020), Algorithm 2, with the clipped start of Diffusion-QL, written out in float64."""
    noise = th.randn(K, 6, 2, dtype=th.float64)
    betas = vp_betas(K)
    alphas_bar = th.cumprod(1.0 - betas, dim=0)
    actions = noise[0]
    for i, k in enumerate((4, 3, 2, 1, 0)):
        previous = alphas_bar[k - 1] if k > 0 else th.ones((), dtype=th.float64)
        beta, alpha_bar = betas[k], alphas_bar[k]
        start = ((actions - (1 - alpha_bar).sqrt() * drift(actions, k)) / alpha_bar.sqrt()).clamp(-1, 1)
        mean = previous.sqrt() * beta * start + (1 - beta).sqrt() * (1 - previous) * actions
        actions = mean / (1 - alpha_bar)
        if k > 0:
            actions = actions + (beta * (1 - previous) / (1 - alpha_bar)).sqrt() * noise[i + 1]
    assert_close(DiffusionProcess(K).sample(drift, noise), actions)


@pytest.mark.parametrize("schedule", sorted(NOISE_SCHEDULES))
def test_the_chain_agrees_with_diffusers(schedule):
    betas = NOISE_SCHEDULES[schedule](K).numpy()
    scheduler = DDPMScheduler(K, trained_betas=betas, clip_sample=True, variance_type="fixed_small")
    scheduler.set_timesteps(K)
    generator = th.Generator().manual_seed(3)
    expected = th.randn(32, 4, generator=generator)
    for k in scheduler.timesteps:
        expected = scheduler.step(drift(expected, int(k)), int(k), expected, generator=generator).prev_sample

    # The same generator: the start of the chain, then noise for each step but the last.
    generator.manual_seed(3)
    noise = th.stack([th.randn(32, 4, generator=generator) for _ in range(K)])
    assert_close(DiffusionProcess(K, schedule).sample(drift, noise), expected, rtol=1e-3, atol=1e-4)


def test_add_noise_agrees_with_diffusers():
    scheduler = DDPMScheduler(num_train_timesteps=K, trained_betas=vp_betas(K).numpy())
    actions, noise, steps = th.rand(20, 3) * 2 - 1, th.randn(20, 3), th.arange(20) % K
    expected = scheduler.add_noise(actions, noise, steps)
    assert_close(DiffusionProcess(K).add_noise(actions, noise, steps), expected)


def test_a_chain_of_one_step_is_the_predicted_start():
    process, noise = DiffusionProcess(1), th.randn(1, 8, 2)
    expected = process.predict_start(noise[0], drift(noise[0], 0), th.zeros(8, dtype=th.int64))
    assert_close(process.sample(drift, noise), expected)


@pytest.mark.parametrize(
    ("schedule", "sampler", "n_steps"),
    [
        *((schedule, "ddpm", K) for schedule in sorted(NOISE_SCHEDULES)),
        *(("vp", sampler, n_steps) for sampler in SAMPLERS[1:] for n_steps in (1, 2, 3, 5)),
    ],
)
def test_a_perfect_denoiser_of_a_single_action_finds_it(schedule, sampler, n_steps):
    process, action = DiffusionProcess(K, schedule), th.tensor([0.3, -0.7])
    chain, noise = process.chain(sampler, n_steps), th.randn(K, 10, 2)
    actions = process.sample(lambda noisy, k: predicted_noise(process, noisy, action, k), noise, chain)
    assert_close(actions, action.expand(10, 2), rtol=0, atol=1e-4)


def test_a_perfect_denoiser_of_two_actions_finds_each_as_often_as_it_occurs():
    """E[eps | a_k] of two points has a closed form; the chain must end at the points, in their shares."""
    process = DiffusionProcess(50)
    points, shares = th.tensor([-0.8, 0.6]), th.tensor([0.25, 0.75])

    def perfect(noisy: th.Tensor, k: int) -> th.Tensor:
        alpha_bar = process.alphas_bar[k]
        distances = (noisy - alpha_bar.sqrt() * points) ** 2 / (2.0 * (1.0 - alpha_bar))  # (n, 2)
        start = ((shares.log() - distances).softmax(dim=1) * points).sum(dim=1, keepdim=True)
        return predicted_noise(process, noisy, start, k)

    samples = process.sample(perfect, th.randn(50, 4_000, 1)).squeeze(1)
    distance, nearest = (samples[:, None] - points).abs().min(dim=1)
    assert (distance < 0.05).float().mean() > 0.98
    assert (nearest == 1).float().mean().item() == pytest.approx(0.75, abs=0.04)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_actions_never_leave_the_unit_box(sampler):
    process = DiffusionProcess(K)
    actions = process.sample(lambda noisy, k: -5.0 * noisy, 3.0 * th.randn(K, 200, 2), process.chain(sampler))
    assert actions.abs().max() == 1.0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_without_noise_each_row_is_alone(sampler):
    """A row of a batch equals, to the bit, the same row alone."""
    offsets, process = th.randn(7, 2), DiffusionProcess(K)

    def chain(rows: th.Tensor) -> th.Tensor:
        noise = th.zeros(K, *rows.shape)
        return process.sample(lambda noisy, k: drift(noisy, k) + rows, noise, process.chain(sampler))

    together = chain(offsets)
    assert all(th.equal(together[i], chain(offsets[i : i + 1])[0]) for i in range(7))


def test_every_noise_but_that_of_the_start_enters_scaled_by_its_posterior():
    """With nothing predicted or clipped the chain is linear: the response to each noise is a product."""
    process = DiffusionProcess(K)
    quiet = th.zeros(K, K, 1, dtype=th.float64)
    for row in range(K):
        quiet[row, row] = 1e-3  # row i of the batch hears only noise i
    response = process.sample(lambda noisy, k: th.zeros_like(noisy), quiet).squeeze(1) / 1e-3
    gains = [step.of_start / math.sqrt(VP["alpha_bar"][step.k]) + step.of_noisy for step in process.ddpm]
    # Noise i > 0 is added after the i-th step, and passes those that follow.
    expected = [math.prod(gains)] + [process.ddpm[i - 1].std * math.prod(gains[i:]) for i in range(1, K)]
    assert_close(response, th.tensor(expected, dtype=th.float64), rtol=1e-3, atol=0)


def test_gradients_flow_through_every_step_of_the_chain():
    scales = th.full((K,), 0.9, dtype=th.float64, requires_grad=True)
    process, noise = DiffusionProcess(K), 0.1 * th.randn(K, 4, 2, dtype=th.float64)
    assert th.autograd.gradcheck(lambda s: process.sample(lambda noisy, k: s[k] * noisy, noise), (scales,))
    process.sample(lambda noisy, k: scales[k] * noisy, noise).square().sum().backward()
    assert scales.grad is not None
    assert (scales.grad.abs() > 1e-6).all()


def test_the_start_of_the_chain_is_the_first_noise():
    seen = []
    noise = th.randn(K, 3, 2)
    DiffusionProcess(K).sample(lambda noisy, k: seen.append((k, noisy)) or th.zeros_like(noisy), noise)
    assert [k for k, _ in seen] == [4, 3, 2, 1, 0]
    assert th.equal(seen[0][1], noise[0])


def gentle(actions: th.Tensor, k: int) -> th.Tensor:
    """A noise predictor of a clean action near zero, so that nothing is clipped."""
    return actions / math.sqrt(1.0 - VP["alpha_bar"][k]) - 0.05 * th.cos(3.0 * actions + k)


def test_ddim_agrees_with_diffusers():
    scheduler = DDIMScheduler(num_train_timesteps=K, trained_betas=vp_betas(K).numpy(), clip_sample=False)
    scheduler.set_timesteps(K)
    start = expected = th.randn(32, 4)
    for k in scheduler.timesteps:
        expected = scheduler.step(gentle(expected, int(k)), int(k), expected).prev_sample
    process = DiffusionProcess(K)
    assert_close(process.sample(gentle, start[None], process.chain("ddim")), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers with numpy 2
@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("dpm_solver++", 2)])
@pytest.mark.parametrize("steps", [[4, 3, 2, 1, 0], [4, 3, 1, 0], [4, 2, 0], [4, 0]])
def test_fewer_steps_agree_with_diffusers(sampler, order, steps):
    how = dict(trained_betas=vp_betas(K).numpy(), solver_order=order, final_sigmas_type="zero")
    scheduler = DPMSolverMultistepScheduler(K, **how)
    scheduler.set_timesteps(timesteps=steps)
    start = expected = th.randn(32, 4)
    for k in steps:
        expected = scheduler.step(gentle(expected, k), k, expected).prev_sample
    process = DiffusionProcess(K)
    chain = process.chain(sampler, len(steps))
    assert [step.k for step in chain] == steps
    assert_close(process.sample(gentle, start[None], chain), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("sampler", "n_steps", "message"),
    [
        ("euler", None, r"`sampler` must be one of \('ddpm', 'ddim', 'dpm_solver\+\+'\), got 'euler'"),
        ("ddim", 6, r"must be in \[1, 5\], the diffusion steps that the model learned, got 6"),
        ("dpm_solver++", 0, r"`n_sampling_steps` must be in \[1, 5\].*got 0"),
        ("ddpm", 3, r"`sampler='ddpm'` takes all 5 steps, got n_sampling_steps=3: take 'ddim' or"),
    ],
)
def test_a_chain_that_cannot_be_is_refused(sampler, n_steps, message):
    with pytest.raises(ValueError, match=message):
        DiffusionProcess(K).chain(sampler, n_steps)


def test_linear_betas_are_evenly_spaced():
    assert_close(linear_betas(5), th.tensor([1e-4, 0.005075, 0.01005, 0.015025, 0.02], dtype=th.float64))


def test_cosine_betas_are_those_of_diffusers():
    expected = DDPMScheduler(num_train_timesteps=10, beta_schedule="squaredcos_cap_v2").betas
    assert_close(cosine_betas(10).float(), expected)


@pytest.mark.parametrize("n_steps", [1, 2, 5, 100])
@pytest.mark.parametrize("schedule", sorted(NOISE_SCHEDULES))
def test_betas_are_shares_of_noise(schedule, n_steps):
    betas = NOISE_SCHEDULES[schedule](n_steps)
    assert (betas.shape, betas.dtype) == ((n_steps,), th.float64)
    assert ((betas > 0) & (betas < 1)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(noise_schedule="sigmoid"), r"one of \['cosine', 'linear', 'vp'\], got 'sigmoid'"),
        (dict(step_distribution="late"), r"one of \('uniform', 'signal'\), got 'late'"),
        (dict(n_steps=0), "at least one step, got n_steps=0"),
    ],
)
def test_an_impossible_process_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DiffusionProcess(**arguments)


def test_no_weight_file_can_change_the_constants():
    assert DiffusionProcess(K).state_dict() == {}
