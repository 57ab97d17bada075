"""Chains from noise to actions: DDPM's own, and those that take fewer steps (DDIM, DPM-Solver++)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

SAMPLERS = ("ddpm", "ddim", "dpm_solver++")
"""Names of the ways down a chain; all but the first are without noise on the way."""


class ChainStep(NamedTuple):
    """One step of a chain, from a_k to a_j with j < k. With s the action that the network sees in a_k (clipped to [-1, 1]) and
    s' what it saw in the step before, a_j = of_start (s + of_change (s - s')) + of_noisy a_k + std eps.
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


def make_chain(
    alphas_bar: Sequence[float], sampler: str = "ddpm", n_steps: int | None = None
) -> list[ChainStep]:
    r"""The steps of a chain from pure noise to a clean action.

    DDPM draws a_{k-1} from q(a_{k-1} | a_k, a_0 = s) (Ho et al., 2020, Eq. 7). DDIM (Song et al., 2021, Eq. 12 with
    :math:`\sigma = 0`) keeps the noise that it sees. DPM-Solver++ (Lu et al., 2022, Algorithm 2, 2M) goes on along the line
    through what the network saw in this step and in the last; in its first and its last step it is DDIM.

    :param alphas_bar: (K,), abar of each training step.
    :param sampler: one of ``SAMPLERS``.
    :param n_steps: S, steps of the chain, spread evenly over the K; None for all. DDPM takes all.
    :return: S steps.
    :raises ValueError: on an unknown sampler, S outside [1, K], or DDPM with fewer.
    """
    n_steps = check_sampler(sampler, n_steps, len(alphas_bar))
    last = len(alphas_bar) - 1  # the noisiest, where a single step starts, too
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


def check_sampler(sampler: str, n_steps: int | None, n_training_steps: int) -> int:
    """Refuse chains that cannot be.

    :param sampler: one of ``SAMPLERS``.
    :param n_steps: S, or None for K.
    :param n_training_steps: K.
    :return: S.
    :raises ValueError: on an unknown sampler, S outside [1, K], or DDPM with fewer than K.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"`sampler` must be one of {SAMPLERS}, got {sampler!r}")
    steps = n_training_steps if n_steps is None else n_steps
    if not 1 <= steps <= n_training_steps:
        raise ValueError(
            f"`n_sampling_steps` must be in [1, {n_training_steps}], the diffusion steps that the model learned, got {n_steps}"
        )
    if sampler == "ddpm" and steps != n_training_steps:
        raise ValueError(
            f"`sampler='ddpm'` takes all {n_training_steps} steps, got n_sampling_steps={n_steps}: take 'ddim' or"
            " 'dpm_solver++' for fewer"
        )
    return steps


def _log_snr(alpha_bar: float) -> float:
    return 0.5 * math.log(alpha_bar / (1.0 - alpha_bar))
