"""Watches the metrics of a training: their means for the log, and whether the training has diverged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch as th

from sb3_llmdpd.common.endings import Ending
from sb3_llmdpd.type_aliases import Metrics

CHECK_EVERY = 100
"""Gradient steps from one look at the losses to the next, after one at the first step: a look waits."""
ACTOR_LOSS_LIMIT = 1e6
"""Largest sane loss per unit of (1 + eta): denoising error and normalised Q term are of the order of 1."""
VALUE_LIMIT = 10.0
"""Largest sane value, as a multiple of any value that the data's rewards allow."""


class TrainingDiverged(Ending, RuntimeError):
    """A loss or a weight is no longer a sane number, and nothing that is learned from here on is worth
    anything.
    """


def loss_limits(largest_reward: float, gamma: float, n_critics: int, eta: float) -> dict[str, float]:
    """Limit the losses, beyond which the training counts as diverged.

    No policy's value exceeds r_max / (1 - gamma). Values ``VALUE_LIMIT`` times as large come from
    bootstrapping on themselves.

    :param largest_reward: r_max, the largest magnitude of a (scaled) reward.
    :param gamma: discount; 1 bounds no value, and so no critic loss.
    :param n_critics: critics over which the critic's loss is summed.
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
    :param device: device of the losses.
    :param n_steps_before: gradient steps before the first that is watched.
    """

    def __init__(self, limits: Mapping[str, float], device: th.device, n_steps_before: int = 0) -> None:
        self.names = tuple(limits)
        self._limits = th.tensor([limits[name] for name in self.names], device=device)
        self._sane = th.ones(len(self.names), dtype=th.bool, device=device)
        self._n_sane = th.zeros(len(self.names), dtype=th.int64, device=device)
        self._losses = th.zeros(len(self.names), device=device)
        self._n_seen, self._n_before = 0, n_steps_before

    def see(self, metrics: Metrics) -> None:
        """Look at the losses of one step; the host does not wait for them.

        :param metrics: metrics of the step; a loss that it lacks counts as 0.
        """
        absent = self._losses.new_zeros(())
        losses = th.stack([metrics.get(name, absent).detach() for name in self.names])
        self._losses = th.where(self._sane, losses, self._losses)  # stays at the first that is not sane
        self._sane &= losses.abs() <= self._limits  # NaN is not <= anything
        self._n_sane += self._sane
        self._n_seen += 1

    def first_insane(self) -> tuple[int, str, float] | None:
        """Find what went wrong first; waits for the device.

        :return: number of gradient steps before it, name of the loss, and its value; None when all is well.
        """
        counts: Sequence[int] = self._n_sane.tolist()
        n_sane, loss = min(zip(counts, range(len(counts)), strict=True))
        if n_sane == self._n_seen:
            return None
        return self._n_before + n_sane, self.names[loss], self._losses[loss].item()


def first_bad_weight(weights: Mapping[str, th.Tensor]) -> str | None:
    """Name the first weight that is not finite.

    :param weights: by name.
    :return: the name, or None.
    """
    return next((name for name, weight in weights.items() if not weight.isfinite().all()), None)


@dataclass
class MetricMeans:
    """Sums the metrics of the steps that are not logged yet, on the device."""

    sums: Metrics = field(default_factory=dict)
    n_steps: int = 0

    def add(self, metrics: Metrics) -> None:
        """Add the metrics of one step; the host does not wait for them.

        :param metrics: scalars by name.
        """
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()
        self.n_steps += 1

    def pop(self) -> dict[str, float]:
        """Take the means and start anew; waits for the device.

        :return: means over the steps since the last call, by name.
        """
        means = {name: total.item() / self.n_steps for name, total in self.sums.items()}
        self.sums, self.n_steps = {}, 0
        return means
