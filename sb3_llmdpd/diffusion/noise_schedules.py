"""Noise schedules: how much noise each diffusion step adds."""

import math
from collections.abc import Callable

import torch as th


def vp_betas(n_steps: int, beta_min: float = 0.1, beta_max: float = 10.0) -> th.Tensor:
    """Discretise the variance-preserving SDE: Diffusion-QL's schedule.

    alpha_k = exp(-beta_min / K - 0.5 (beta_max - beta_min) (2k - 1) / K^2), k = 1..K.

    :param n_steps: K.
    :param beta_min: rate of the SDE at its start.
    :param beta_max: rate of the SDE at its end.
    :return: (K,), float64, beta_k = 1 - alpha_k.
    """
    k = th.arange(1, n_steps + 1, dtype=th.float64)
    return 1.0 - th.exp(-beta_min / n_steps - 0.5 * (beta_max - beta_min) * (2 * k - 1) / n_steps**2)


def linear_betas(n_steps: int, beta_min: float = 1e-4, beta_max: float = 0.02) -> th.Tensor:
    """Space the betas evenly: DDPM's schedule (Ho et al., 2020), meant for hundreds of steps.

    :param n_steps: K.
    :param beta_min: beta_1.
    :param beta_max: beta_K.
    :return: (K,), float64.
    """
    return th.linspace(beta_min, beta_max, n_steps, dtype=th.float64)


def cosine_betas(n_steps: int, offset: float = 0.008, beta_max: float = 0.999) -> th.Tensor:
    """Compute the cosine schedule (Nichol and Dhariwal, 2021, Eq. 17).

    :param n_steps: K.
    :param offset: s, which keeps the first betas away from zero.
    :param beta_max: upper bound of a beta.
    :return: (K,), float64.
    """
    k = th.arange(n_steps + 1, dtype=th.float64)
    alphas_bar = th.cos((k / n_steps + offset) / (1 + offset) * math.pi / 2) ** 2
    return (1.0 - alphas_bar[1:] / alphas_bar[:-1]).clamp(max=beta_max)


NOISE_SCHEDULES: dict[str, Callable[[int], th.Tensor]] = {
    "vp": vp_betas,
    "linear": linear_betas,
    "cosine": cosine_betas,
}
