"""The flow over one action that is learned as jumps, and acts in one: BFQ's actor (arXiv 2606.10613)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch as th

N_TIMES = 128
"""T, intervals of the grid of times."""

FLOW_SAMPLER = "jumps"
"""Name of the only way from noise to actions."""

Place = int | th.Tensor
"""Place i of a time i / T in the grid: one for all rows, or int64 of the shape of the rows."""

Velocity = Callable[[th.Tensor, Any, Any], th.Tensor]
"""v: (noisy actions (..., action_dim), `Place` of t, `Place` of r <= t) -> average velocity, same shape."""


class Jump(NamedTuple):
    """One step of the flow, from time t to an earlier time r, as places i in the grid of times i / T."""

    t: int
    r: int


class FlowProcess:
    r"""A flow from noise at time 1 to an action in [-1, 1] at time 0, by its average velocity.

    The noised action is :math:`a_t = (1 - t) a + t \epsilon`. The network v(a_t, r, t) is the average
    velocity from t to r, so that one jump goes the whole way:
    :math:`\pi(a_t, r, t) = a_t - (t - r) v(a_t, r, t)`. Two losses teach it. *Boundary*: without distance it
    is the velocity of the straight line, :math:`v(a_t, t, t) = \epsilon - a`. *Composition*: one jump is two
    jumps, :math:`\pi(a_t, r, t) = \pi(\pi(a_t, m, t), r, m)` for r < m < t, whose right side is held
    constant. Half of the rows of the composition teach the whole jump, from noise to action: that is the one
    that acts and that the Q term moves, and evenly drawn times hardly ever teach it.

    Times lie on a grid, so that their embeddings are computed once for all rows.
    """

    n_steps = 1
    """Jumps of `chain` unless told otherwise."""
    estimates_actions = False
    """Cloning sees no estimate of the action: it is one jump away."""

    def chain(self, sampler: str | None = None, n_steps: int | None = None) -> list[Jump]:
        """Make jumps of equal length from noise to a clean action.

        :param sampler: None, or ``"jumps"``.
        :param n_steps: S, number of jumps; None for one.
        :return: S jumps.
        :raises ValueError: on another sampler, or S outside [1, T].
        """
        if sampler not in (None, FLOW_SAMPLER):
            raise ValueError(
                f"`sampler` must be {FLOW_SAMPLER!r} or None for actor='one_step_flow', got {sampler!r}"
            )
        n_jumps = self.n_steps if n_steps is None else n_steps
        if not 1 <= n_jumps <= N_TIMES:
            raise ValueError(f"`n_sampling_steps` must be in [1, {N_TIMES}] for a flow, got {n_steps}")
        places = [round(i * N_TIMES / n_jumps) for i in range(n_jumps + 1)]
        return [Jump(places[i + 1], places[i]) for i in reversed(range(n_jumps))]

    def draw_times(self, shape: Sequence[int], generator: th.Generator, evenly: bool = True) -> th.Tensor:
        """Draw three times for each row, as places in the grid, in no order.

        :param shape: of the rows.
        :param generator: source of the draw.
        :param evenly: read by other processes; these times are even.
        :return: (*shape, 3), int64 in [0, T].
        """
        return th.randint(N_TIMES + 1, (*shape, 3), generator=generator, device=generator.device)

    def cloning_loss(
        self, network: Callable[[slice], Velocity], actions: th.Tensor, noise: th.Tensor, times: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor | None]:
        """Compute the boundary loss on every second row, and the composition loss on the others.

        :param network: gives v for a part of the rows.
        :param actions: (B, action_dim), of the data, in [-1, 1].
        :param noise: (B, action_dim), standard normal.
        :param times: (B, 3), from `draw_times`.
        :return: scalar, the mean square over both; and no estimate of the actions.
        """
        every, others = slice(0, None, 2), slice(1, None, 2)
        number = th.arange(len(times), device=times.device).unsqueeze(1)
        single = times[:, :1]  # even, as the latest of three is not
        whole = th.cat([th.zeros_like(single), single, th.full_like(single, N_TIMES)], dim=1)
        composed = th.where(number % 4 == 3, whole, times.sort(dim=1).values)
        r, m, t = th.where(number % 2 == 0, single, composed).unbind(1)
        noisy_actions = self.add_noise(actions, noise, t)
        velocities = network(slice(None))(noisy_actions, t, r)
        jumped = _moved(noisy_actions, velocities, t, r)
        with th.no_grad():
            velocity = network(others)
            halfway = jump(velocity, noisy_actions[others], t[others], m[others])
            arrived = jump(velocity, halfway, m[others], r[others])
        boundary = velocities[every] - (noise - actions)[every]
        return th.cat([boundary, jumped[others] - arrived]).square().mean(), None

    def add_noise(self, actions: th.Tensor, noise: th.Tensor, t: th.Tensor) -> th.Tensor:
        """Compute a_t = (1 - t) a + t eps.

        :param actions: (..., action_dim), in [-1, 1].
        :param noise: (..., action_dim), standard normal.
        :param t: (...), places in the grid of times.
        :return: (..., action_dim).
        """
        return actions + _share(t, actions) * (noise - actions)

    def sample(self, velocity: Velocity, noise: th.Tensor, chain: Sequence[Jump] | None = None) -> th.Tensor:
        """Jump from noise to actions; gradients flow through all jumps.

        :param velocity: v.
        :param noise: (S, ..., action_dim), of which the first alone is read: the flow draws noise once.
        :param chain: S jumps of `chain`; one by default.
        :return: (..., action_dim), in [-1, 1].
        """
        actions = noise[0]
        for t, r in self.chain() if chain is None else chain:
            actions = jump(velocity, actions, t, r)
        return actions.clamp(-1.0, 1.0)


def jump(velocity: Velocity, noisy_actions: th.Tensor, t: Place, r: Place) -> th.Tensor:
    """Go from time t to time r at once: pi(a_t, r, t).

    :param velocity: v.
    :param noisy_actions: (..., action_dim), at time t.
    :param t: place of t in the grid, one for all rows or (...) for each.
    :param r: place of r.
    :return: (..., action_dim), at time r.
    """
    return _moved(noisy_actions, velocity(noisy_actions, t, r), t, r)


def _moved(noisy_actions: th.Tensor, velocities: th.Tensor, t: Place, r: Place) -> th.Tensor:
    return noisy_actions - _share(t - r, noisy_actions) * velocities


def _share(places: Place, like: th.Tensor) -> float | th.Tensor:
    """Divide places by T: a number, or (..., 1) of the type of other numbers, whatever PyTorch's default."""
    if isinstance(places, int):
        return places / N_TIMES
    return (places.unsqueeze(-1) / N_TIMES).to(like.dtype)
