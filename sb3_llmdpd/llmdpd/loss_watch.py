"""Notices that a training has diverged, without waiting for the device at each step."""

from collections.abc import Mapping, Sequence

import torch as th

from sb3_llmdpd.type_aliases import Metrics

ACTOR_LOSS_LIMIT = 1e6
"""Per unit of (1 + eta): denoising error and normalised Q term are of the order of 1, whatever the data."""
VALUE_LIMIT = 10.0
"""How many times larger than any value that the data's rewards allow."""


class TrainingDiverged(RuntimeError):
    """A loss or a weight is no longer a sane number, and nothing that is learned from here on would be worth anything."""


def loss_limits(largest_reward: float, gamma: float, n_critics: int, eta: float) -> dict[str, float]:
    """How large the losses may become before the training counts as diverged.

    No policy's value exceeds r_max / (1 - gamma). Values ``VALUE_LIMIT`` times as large come from bootstrapping on themselves.

    :param largest_reward: r_max, the largest magnitude of a (scaled) reward.
    :param gamma: discount; 1 bounds no value, and so no critic loss.
    :param n_critics: over which the critic's loss is summed.
    :param eta: weight of the Q term.
    :return: limit of each loss by its name.
    """
    largest_value = max(largest_reward, 1.0) / (1.0 - gamma) if gamma < 1 else float("inf")
    return {
        "actor_loss": ACTOR_LOSS_LIMIT * (1.0 + eta),
        "critic_loss": n_critics * (2.0 * VALUE_LIMIT * largest_value) ** 2,
        "value_loss": (2.0 * VALUE_LIMIT * largest_value) ** 2,
    }


class LossWatch:
    """Remembers, on the device, the first step at which a loss was not sane.

    :param limits: largest sane magnitude by the name of the loss.
    :param device: of the losses.
    """

    def __init__(self, limits: Mapping[str, float], device: th.device) -> None:
        self.names = tuple(limits)
        self._limits = th.tensor([limits[name] for name in self.names], device=device)
        self._sane = th.ones(len(self.names), dtype=th.bool, device=device)
        self._n_sane = th.zeros(len(self.names), dtype=th.int64, device=device)
        self._losses = th.zeros(len(self.names), device=device)
        self._n_seen = 0

    def see(self, metrics: Metrics) -> None:
        """Look at the losses of one step; the host does not wait for them.

        :param metrics: of the step; a loss that it lacks counts as 0.
        """
        absent = self._losses.new_zeros(())
        losses = th.stack([metrics.get(name, absent).detach() for name in self.names])
        self._losses = th.where(self._sane, losses, self._losses)  # stays at the first that is not sane
        self._sane &= losses.abs() <= self._limits  # NaN is not <= anything
        self._n_sane += self._sane
        self._n_seen += 1

    def first_insane(self) -> tuple[int, str, float] | None:
        """What went wrong first; waits for the device.

        :return: how many steps were sane before it, the name of the loss and its value; None when all is well.
        """
        counts: Sequence[int] = self._n_sane.tolist()
        n_sane, loss = min(zip(counts, range(len(counts)), strict=True))
        return None if n_sane == self._n_seen else (n_sane, self.names[loss], self._losses[loss].item())


def first_bad_weight(weights: Mapping[str, th.Tensor]) -> str | None:
    """The name of a weight that is not finite.

    :param weights: by name.
    :return: the first, or None.
    """
    return next((name for name, weight in weights.items() if not weight.isfinite().all()), None)
