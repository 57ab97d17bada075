"""The diffusion process over one action: adding noise, and the chains that remove it."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_llmdpd.diffusion.noise_schedules import NOISE_SCHEDULES

NoisePredictor = Callable[[th.Tensor, Any], th.Tensor]
"""eps_theta: (noisy actions (..., action_dim), step in [0, K), one for all rows or int64 (...) for each) ->
predicted noise of the shape of the actions."""

ACTORS = ("ddpm", "one_step_flow")
"""Names of the processes from noise to an action: the one of this module, and that of `flow`."""

STEP_DISTRIBUTIONS = ("uniform", "signal")
"""Distributions of the steps that training adds noise for; see `DiffusionProcess`."""

SAMPLERS = ("ddpm", "ddim", "dpm_solver++")
"""Names of the chains from noise to actions; only ``"ddpm"`` adds noise after its start."""


class ChainStep(NamedTuple):
    """One step of a chain, from a_k to a_j with j < k.

    With s the clean action that the network sees in a_k (clipped to [-1, 1]) and s' what it saw in the step
    before, a_j = of_start (s + of_change (s - s')) + of_noisy a_k + std eps.
    """

    k: int
    """Index of a_k, in [0, K)."""
    signal: float
    """sqrt(abar_k)."""
    noise: float
    """sqrt(1 - abar_k)."""
    of_start: float
    of_noisy: float
    of_change: float
    std: float


class DiffusionProcess(nn.Module):
    """Denoising diffusion of actions in [-1, 1] with noise prediction.

    Steps are counted from 0 (nearly clean) to K - 1 (nearly pure noise). The constants are float32 buffers,
    computed in float64. The state dict leaves them out: no weight file may change them.

    :param n_steps: K, at least 1.
    :param noise_schedule: one of ``"vp"``, ``"linear"``, ``"cosine"``.
    :param step_distribution: ``"uniform"``: training draws all steps alike, as DDPM. ``"signal"``: in
        proportion to abar_k, the share of the action in a_k: a noisier step teaches little about the action.
    :raises ValueError: on an unknown schedule or distribution, or K < 1.
    """

    alphas_bar: th.Tensor
    _draw_ends: th.Tensor
    estimates_actions = True
    """Cloning sees an estimate of the action beside the noise, see `cloning_loss`."""

    def __init__(
        self, n_steps: int = 5, noise_schedule: str = "vp", step_distribution: str = "uniform"
    ) -> None:
        super().__init__()
        schedules = sorted(NOISE_SCHEDULES)
        if noise_schedule not in schedules:
            raise ValueError(f"`noise_schedule` must be one of {schedules}, got {noise_schedule!r}")
        if step_distribution not in STEP_DISTRIBUTIONS:
            raise ValueError(
                f"`step_distribution` must be one of {STEP_DISTRIBUTIONS}, got {step_distribution!r}"
            )
        if n_steps < 1:
            raise ValueError(f"a diffusion process needs at least one step, got n_steps={n_steps}")
        self.n_steps = n_steps
        self.step_distribution = step_distribution
        with th.device("cpu"):  # numbers, even where a network is built of shapes alone
            alphas_bar = th.cumprod(1.0 - NOISE_SCHEDULES[noise_schedule](n_steps), dim=0)
        # Where the shares of the steps end in [0, 1); that of the last one ends at 1.
        draw_ends = (alphas_bar.cumsum(0) / alphas_bar.sum())[:-1]
        self.register_buffer("alphas_bar", alphas_bar.float(), persistent=False)
        self.register_buffer("_draw_ends", draw_ends.float(), persistent=False)
        # Python floats: a chain visits the steps in a fixed order, so no gather is needed there.
        self._alphas_bar: list[float] = alphas_bar.tolist()
        self._chains: dict[tuple[str, int | None], list[ChainStep]] = {}
        self.ddpm = self.chain()
        """DDPM's own chain, in which the method trains and, unless told otherwise, acts."""

    def chain(self, sampler: str | None = None, n_steps: int | None = None) -> list[ChainStep]:
        """Make a chain from noise to actions, once (see `make_chain`); DDPM's where no sampler is named."""
        sampler = sampler or "ddpm"
        if (sampler, n_steps) not in self._chains:
            self._chains[sampler, n_steps] = make_chain(self._alphas_bar, sampler, n_steps)
        return self._chains[sampler, n_steps]

    def draw_times(self, shape: Sequence[int], generator: th.Generator, evenly: bool = False) -> th.Tensor:
        """Draw the steps to learn at.

        :param shape: shape of the result.
        :param generator: source of the draw.
        :param evenly: draw all steps alike, whatever ``step_distribution`` says.
        :return: int64 in [0, K), distributed by ``step_distribution``.
        """
        device = generator.device
        if evenly or self.step_distribution == "uniform":
            return th.randint(self.n_steps, shape, generator=generator, device=device)
        draws = th.rand(shape, generator=generator, device=device, dtype=self._draw_ends.dtype)
        return th.bucketize(draws, self._draw_ends, right=True)

    def cloning_loss(
        self,
        network: Callable[[slice], NoisePredictor],
        actions: th.Tensor,
        noise: th.Tensor,
        times: th.Tensor,
    ) -> tuple[th.Tensor, th.Tensor | None]:
        """Predict the noise in noised actions of the data (Ho et al., 2020, Eq. 14).

        :param network: gives eps_theta for a part of the rows.
        :param actions: (B, action_dim), of the data, in [-1, 1].
        :param noise: (B, action_dim), standard normal.
        :param times: (B,), steps of `draw_times`.
        :return: scalar, the mean square; and the actions that the prediction amounts to, (B, action_dim), see
            `predict_start` (EDP, https://arxiv.org/abs/2305.20081).
        """
        noisy_actions = self.add_noise(actions, noise, times)
        predicted = network(slice(None))(noisy_actions, times)
        return F.mse_loss(predicted, noise), self.predict_start(noisy_actions, predicted, times)

    def add_noise(self, actions: th.Tensor, noise: th.Tensor, steps: th.Tensor) -> th.Tensor:
        """Compute a_k = sqrt(abar_k) a_0 + sqrt(1 - abar_k) eps (Ho et al., 2020, Eq. 4).

        :param actions: (..., action_dim), clean, in [-1, 1].
        :param noise: (..., action_dim), standard normal.
        :param steps: (...), int64 in [0, K).
        :return: (..., action_dim).
        """
        alphas_bar = self.alphas_bar[steps].unsqueeze(-1)
        return alphas_bar.sqrt() * actions + (1.0 - alphas_bar).sqrt() * noise

    def predict_start(self, noisy_actions: th.Tensor, noise: th.Tensor, steps: th.Tensor) -> th.Tensor:
        """Solve `add_noise` for a_0, clipped to [-1, 1].

        :param noisy_actions: (..., action_dim).
        :param noise: (..., action_dim), true or predicted.
        :param steps: (...), int64 in [0, K).
        :return: (..., action_dim), in [-1, 1].
        """
        alphas_bar = self.alphas_bar[steps].unsqueeze(-1)
        return ((noisy_actions - (1.0 - alphas_bar).sqrt() * noise) / alphas_bar.sqrt()).clamp(-1.0, 1.0)

    def sample(
        self, predict_noise: NoisePredictor, noise: th.Tensor, chain: Sequence[ChainStep] | None = None
    ) -> th.Tensor:
        """Run the whole chain from noise to actions; gradients flow through it.

        :param predict_noise: eps_theta.
        :param noise: (S, ..., action_dim): the start of the chain, then the noise of each step but the last.
            Standard normal for a sample of the policy; zeros for its deterministic action, which then does
            not depend on the rest of the batch (a seeded draw would).
        :param chain: S steps of `chain`; DDPM's K steps by default.
        :return: (..., action_dim), in [-1, 1].
        """
        actions, start = noise[0], None
        for number, step in enumerate(self.ddpm if chain is None else chain, 1):
            # Few operations: for a single observation each costs nearly as much as a layer.
            before, predicted = start, predict_noise(actions, step.k)
            start = th.add(actions, predicted, alpha=-step.noise).div(step.signal).clamp(-1.0, 1.0)
            if step.of_noisy == 0:
                return start  # the last step, to a clean action
            actions = th.add(step.of_noisy * actions, start, alpha=step.of_start)
            if step.of_change and before is not None:
                actions = th.add(actions, start - before, alpha=step.of_start * step.of_change)
            if step.std:
                actions = th.add(actions, noise[number], alpha=step.std)
        return actions


def make_chain(
    alphas_bar: Sequence[float], sampler: str = "ddpm", n_steps: int | None = None
) -> list[ChainStep]:
    r"""Compute the steps of a chain from pure noise to a clean action.

    DDPM draws a_{k-1} from q(a_{k-1} | a_k, a_0 = s) (Ho et al., 2020, Eq. 7). DDIM keeps the noise that it
    sees (Song et al., 2021, Eq. 12 with :math:`\sigma = 0`). DPM-Solver++ goes on along the line through the
    clean actions of this step and the last (Lu et al., 2022, Algorithm 2, 2M); at both ends it is DDIM.

    Worked example: K = 5 and S = 3 visit the steps 4, 2, 0; a single step starts at 4, too.

    :param alphas_bar: (K,), abar of each training step.
    :param sampler: one of ``SAMPLERS``.
    :param n_steps: S, steps of the chain, spread evenly over the K; None for all. DDPM takes all.
    :return: S steps.
    :raises ValueError: on an unknown sampler, S outside [1, K], or DDPM with fewer than K.
    """
    n_steps = _checked_length(sampler, n_steps, len(alphas_bar))
    last = len(alphas_bar) - 1
    downwards = [round(i * last / (n_steps - 1)) for i in reversed(range(n_steps))] if n_steps > 1 else [last]
    levels = [alphas_bar[k] for k in downwards] + [1.0]  # 1: clean
    steps: list[ChainStep] = []
    for i, k in enumerate(downwards):
        here, there = levels[i], levels[i + 1]
        signal, noise = math.sqrt(here), math.sqrt(1.0 - here)
        change = std = 0.0
        if sampler == "ddpm":
            alpha = here / there
            start = math.sqrt(there) * (1.0 - alpha) / (1.0 - here)
            noisy = math.sqrt(alpha) * (1.0 - there) / (1.0 - here)
            std = math.sqrt((1.0 - alpha) * (1.0 - there) / (1.0 - here))
        else:
            noisy = math.sqrt((1.0 - there) / (1.0 - here))
            start = math.sqrt(there) - noisy * signal
            if sampler == "dpm_solver++" and 0 < i < n_steps - 1:
                before, now, then = (_log_snr(level) for level in levels[i - 1 : i + 2])
                change = 0.5 * (then - now) / (now - before)
        steps.append(ChainStep(k, signal, noise, start, noisy, change, std))
    return steps


def _checked_length(sampler: str, n_steps: int | None, n_training_steps: int) -> int:
    if sampler not in SAMPLERS:
        raise ValueError(f"`sampler` must be one of {SAMPLERS}, got {sampler!r}")
    steps = n_training_steps if n_steps is None else n_steps
    if not 1 <= steps <= n_training_steps:
        raise ValueError(
            f"`n_sampling_steps` must be in [1, {n_training_steps}], the diffusion steps that the model"
            f" learned, got {n_steps}"
        )
    if sampler == "ddpm" and steps != n_training_steps:
        raise ValueError(
            f"`sampler='ddpm'` takes all {n_training_steps} steps, got n_sampling_steps={n_steps}:"
            " take 'ddim' or 'dpm_solver++' for fewer"
        )
    return steps


def _log_snr(alpha_bar: float) -> float:
    return 0.5 * math.log(alpha_bar / (1.0 - alpha_bar))
