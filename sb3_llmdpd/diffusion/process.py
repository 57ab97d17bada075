"""The diffusion process over one action: adding noise, and the chain that removes it (DDPM)."""

from collections.abc import Callable, Sequence

import torch as th
from torch import nn

from sb3_llmdpd.diffusion.noise_schedules import NOISE_SCHEDULES
from sb3_llmdpd.diffusion.samplers import ChainStep, make_chain

NoisePredictor = Callable[[th.Tensor, int], th.Tensor]
"""eps_theta: (noisy actions of shape (..., action_dim), step index in [0, K)) -> predicted noise of the same shape."""

STEP_DISTRIBUTIONS = ("uniform", "signal")
"""How the steps are drawn that noise is added for; see `DiffusionProcess`."""


class DiffusionProcess(nn.Module):
    """Denoising diffusion of actions in [-1, 1] with noise prediction.

    Steps are counted from 0 (nearly clean) to K - 1 (nearly pure noise). The constants are float32 buffers computed in
    float64 from the constructor's arguments; they are not part of the state dict, since no weight file may change them.

    :param n_steps: K, at least 1.
    :param noise_schedule: one of ``"vp"``, ``"linear"``, ``"cosine"``.
    :param step_distribution: ``"uniform"``: training draws all steps alike, as DDPM. ``"signal"``: in proportion to abar_k,
        what is left of the action in a_k. A noisier step teaches little about the action, and the last of the chain decide it.
    :raises ValueError: on an unknown schedule or distribution, or K < 1.
    """

    alphas_bar: th.Tensor
    _draw_ends: th.Tensor

    def __init__(
        self, n_steps: int = 5, noise_schedule: str = "vp", step_distribution: str = "uniform"
    ) -> None:
        super().__init__()
        if noise_schedule not in NOISE_SCHEDULES:
            raise ValueError(
                f"`noise_schedule` must be one of {sorted(NOISE_SCHEDULES)}, got {noise_schedule!r}"
            )
        if step_distribution not in STEP_DISTRIBUTIONS:
            raise ValueError(
                f"`step_distribution` must be one of {STEP_DISTRIBUTIONS}, got {step_distribution!r}"
            )
        if n_steps < 1:
            raise ValueError(f"a diffusion process needs at least one step, got n_steps={n_steps}")
        self.n_steps = n_steps
        with th.device("cpu"):  # numbers, even where a network is built of shapes alone
            betas = NOISE_SCHEDULES[noise_schedule](n_steps)
        alphas = 1.0 - betas
        alphas_bar = th.cumprod(alphas, dim=0)
        self.register_buffer("alphas_bar", alphas_bar.float(), persistent=False)
        self.step_distribution = step_distribution
        # Where the shares of the steps end in [0, 1); that of the last one ends at 1.
        self.register_buffer(
            "_draw_ends", (alphas_bar.cumsum(0) / alphas_bar.sum())[:-1].float(), persistent=False
        )
        # Python floats: a chain visits the steps in a fixed order, so no gather is needed there.
        self._alphas_bar: list[float] = alphas_bar.tolist()
        self._chains: dict[tuple[str, int | None], list[ChainStep]] = {}
        self.ddpm = self.chain()
        """DDPM's own chain, in which the method trains and, unless told otherwise, acts."""

    def chain(self, sampler: str = "ddpm", n_steps: int | None = None) -> list[ChainStep]:
        """A chain from noise to actions, see `make_chain`; made once."""
        if (sampler, n_steps) not in self._chains:
            self._chains[sampler, n_steps] = make_chain(self._alphas_bar, sampler, n_steps)
        return self._chains[sampler, n_steps]

    def draw_steps(self, shape: Sequence[int], generator: th.Generator) -> th.Tensor:
        """Steps to learn at.

        :param shape: of the result.
        :param generator: for the draw.
        :return: int64 in [0, K), as ``step_distribution`` says.
        """
        device = self.alphas_bar.device
        if self.step_distribution == "uniform":
            return th.randint(self.n_steps, shape, generator=generator, device=device)
        return th.bucketize(th.rand(shape, generator=generator, device=device), self._draw_ends, right=True)

    def add_noise(self, actions: th.Tensor, noise: th.Tensor, steps: th.Tensor) -> th.Tensor:
        """a_k = sqrt(abar_k) a_0 + sqrt(1 - abar_k) eps (Ho et al., 2020, Eq. 4).

        :param actions: (..., action_dim), clean, in [-1, 1].
        :param noise: (..., action_dim), standard normal.
        :param steps: (...), int64 in [0, K).
        :return: (..., action_dim).
        """
        alphas_bar = self.alphas_bar[steps].unsqueeze(-1)
        return alphas_bar.sqrt() * actions + (1.0 - alphas_bar).sqrt() * noise

    def predict_start(self, noisy_actions: th.Tensor, noise: th.Tensor, steps: th.Tensor) -> th.Tensor:
        """a_0 from a_k and its noise, clipped to [-1, 1]: `add_noise` solved for the action.

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
        :param noise: (S, ..., action_dim): the start of the chain, then the noise of each but the last step, if it has any.
            Standard normal for a sample of the policy; zeros for its deterministic action, which then does not depend on
            what else is in the batch (a seeded draw would).
        :param chain: S steps of `chain`; DDPM's by default, of which there are K.
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
