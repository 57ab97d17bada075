"""The layers of actor and critic: standardisation, activation, and perceptrons for noise and values."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any, TypeGuard

import torch as th
from gymnasium import spaces
from torch import nn
from torch.nn import functional as F

from sb3_llmdpd.type_aliases import TensorObs

FLOAT = th.float32
"""Type of all numbers in the networks, whatever ``torch.set_default_dtype`` says."""

CLIP = 10.0
"""Largest standardised magnitude: values far outside of the training data must not blow up a network."""

_SMALL = 3_072
"""Size of input up to which one slow operation takes less time than seven fast ones."""


@contextmanager
def floats_by_default() -> Iterator[None]:
    """Let PyTorch make tensors of the type ``FLOAT`` where none is named, as layers are."""
    before = th.get_default_dtype()
    th.set_default_dtype(FLOAT)
    try:
        yield
    finally:
        th.set_default_dtype(before)


class Normaliser(nn.Module):
    """(x - mean) / scale, clipped; the identity until `fit`.

    :param dim: size of the last axis.
    """

    mean: th.Tensor
    scale: th.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", th.zeros(dim))
        self.register_buffer("scale", th.ones(dim))

    def fit(self, data: th.Tensor) -> None:
        """Take mean and standard deviation from data. An entry that never varies is centred but not scaled.

        :param data: (n, dim), training data only.
        """
        deviation = data.double().std(dim=0, correction=0)
        self.mean.copy_(data.double().mean(dim=0))
        self.scale.copy_(th.where(deviation > 1e-6, deviation, 1.0))

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Standardise vectors.

        :param x: (..., dim).
        :return: (..., dim), in [-10, 10].
        """
        return ((x - self.mean) / self.scale).clamp(-CLIP, CLIP)


class ObservationNormaliser(nn.Module):
    """Standardises the vectors of real numbers in an observation, for an extractor that learns.

    Everything else stays as it is: images, categories, and any space but a one-dimensional Box of floats.

    :param observation_space: Dict, or any other.
    """

    def __init__(self, observation_space: spaces.Space) -> None:  # type: ignore[type-arg]  # of any kind
        super().__init__()
        parts = {"": observation_space}
        if isinstance(observation_space, spaces.Dict):
            parts = observation_space.spaces
        vectors = {key: space for key, space in parts.items() if _is_vector(space)}
        self.keys = list(vectors)
        # By number, since a key may hold what the name of a module may not.
        self.normalisers = nn.ModuleList(Normaliser(space.shape[0]) for space in vectors.values())

    def fit(self, observations: TensorObs) -> None:
        """Take mean and standard deviation from data.

        :param observations: (n, *obs_shape), training data only.
        """
        for key, normaliser in zip(self.keys, self.normalisers, strict=True):
            rows = observations[key] if isinstance(observations, dict) else observations
            normaliser.fit(rows)  # type: ignore[operator]

    def forward(self, observations: TensorObs) -> TensorObs:
        """Standardise observations.

        :param observations: (n, *obs_shape).
        :return: the same, its vectors standardised.
        """
        if not isinstance(observations, dict):
            return self.normalisers[0](observations) if self.keys else observations
        pairs = zip(self.keys, self.normalisers, strict=True)
        return {**observations, **{key: normaliser(observations[key]) for key, normaliser in pairs}}


def _is_vector(space: spaces.Space) -> TypeGuard[spaces.Box]:  # type: ignore[type-arg]  # of any kind
    return isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype.kind == "f"


class Mish(nn.Module):
    """x tanh(softplus(x)) (Misra, 2020), without the functions that make ``nn.Mish`` slow on a CPU."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Apply the activation.

        :param x: any shape.
        :return: the same shape.
        """
        if th.compiler.is_exporting() or x.numel() <= _SMALL:  # a program is for any size
            return F.mish(x)
        if not th.is_grad_enabled():
            p = th.sigmoid(x)
            q = p.mul_(2.0 - p)
            return q.div_(2.0 - q).mul_(x)
        return _FastMish.apply(x)  # type: ignore[no-untyped-call]  # torch


class _FastMish(th.autograd.Function):
    """With p = sigmoid(x) and q = p (2 - p): tanh(softplus(x)) = q / (2 - q) =: w, and mish(x) = x w."""

    @staticmethod
    def forward(ctx: Any, x: th.Tensor) -> th.Tensor:
        p, w = _gate(x)
        ctx.save_for_backward(x, p, w)
        return x * w

    @staticmethod
    def backward(ctx: Any, *grads: th.Tensor) -> th.Tensor:
        x, p, w = ctx.saved_tensors
        if th.is_grad_enabled():  # for a second derivative: what was saved does not know that it came from x
            p, w = _gate(x)
        return grads[0] * (w + x * p * (1.0 - w * w))  # d mish / dx, since dw/dx = p (1 - w^2)


def _gate(x: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    p = th.sigmoid(x)
    q = p * (2.0 - p)
    return p, q / (2.0 - q)


class PromptedPerceptron(nn.Module):
    """A multilayer perceptron whose first layer is a sum of linear maps, one for each input.

    That is the same function as one linear map of the concatenation. But the state's share is computed once
    for all actions and steps of a chain, and the prompt's once for all transitions that share it.

    The arguments of its kinds are: ``feature_dim`` and ``prompt_dim``, as here; ``action_dim``, size of an
    action; ``net_arch``, widths of the hidden layers (without any it is a linear map); ``activation_fn``,
    class of the activations; ``layer_norm``, True to put a layer norm before each of them.

    :param feature_dim: size of what is read of a state, see `StateReader`.
    :param prompt_dim: size of a prompt vector.
    :param width: size of the first layer.
    """

    def __init__(self, feature_dim: int, prompt_dim: int, width: int) -> None:
        super().__init__()
        self.from_state = nn.Linear(feature_dim, width)
        self.from_prompt = nn.Linear(prompt_dim, width, bias=False)

    def condition(self, state: th.Tensor, prompt_vectors: th.Tensor) -> th.Tensor:
        """Add the shares of state and prompt in the first layer, which are the same for every action.

        :param state: (M, N, width), the states after ``from_state``.
        :param prompt_vectors: (M, prompt_dim).
        :return: (M, N, width).
        """
        return state + self.from_prompt(prompt_vectors).unsqueeze(1)


_STEP_DIM = 16
"""Size of the sinusoidal embedding of a step or a time."""


class Denoiser(PromptedPerceptron):
    """The noise predictor eps_theta(a_k, k, state, prompt); arguments as in `PromptedPerceptron`.

    :param n_steps: K.
    """

    step_table: th.Tensor

    def __init__(
        self,
        action_dim: int,
        feature_dim: int,
        prompt_dim: int,
        n_steps: int,
        net_arch: list[int],
        activation_fn: type[nn.Module],
        layer_norm: bool,
    ) -> None:
        sizes = [*net_arch, action_dim]
        super().__init__(feature_dim, prompt_dim, sizes[0])
        self.action_dim = action_dim
        self.from_action = nn.Linear(action_dim, sizes[0], bias=False)
        self.from_step = _from_step(sizes[0], activation_fn)
        self.register_buffer("step_table", sinusoidal_embedding(n_steps, _STEP_DIM), persistent=False)
        self.trunk = _trunk(sizes, activation_fn, nn.LayerNorm if layer_norm else None)

    def step_embeddings(self) -> th.Tensor:
        """Compute the share of each diffusion step in the first layer.

        :return: (K, width).
        """
        return self.from_step(self.step_table)

    def given(self, condition: th.Tensor) -> Callable[..., th.Tensor]:
        """Give eps_theta as a function of noisy actions and step; what else it depends on is computed once.

        :param condition: (..., width), from `condition`.
        """
        table = self.step_embeddings()
        return lambda noisy_actions, k: self(noisy_actions, _rows(table, k), condition)

    def forward(self, noisy_actions: th.Tensor, step_embedding: th.Tensor, condition: th.Tensor) -> th.Tensor:
        """Predict the noise in actions.

        :param noisy_actions: (M, N, action_dim).
        :param step_embedding: (M, N, width) or (width,): rows of `step_embeddings`.
        :param condition: (M, N, width), from `condition`.
        :return: (M, N, action_dim).
        """
        return self.trunk(self.from_action(noisy_actions) + step_embedding + condition)


_WAVES = 10
"""Half waves over all times of a flow in the fastest entry of their embedding; the slowest has one."""


class AverageVelocity(Denoiser):
    """The average velocity v(a_t, r, t, state, prompt) of a flow between two times of a grid.

    Its first layer reads the embeddings of both times; arguments as in `Denoiser`.

    :param n_steps: number of times in the grid.
    """

    def __init__(
        self,
        action_dim: int,
        feature_dim: int,
        prompt_dim: int,
        n_steps: int,
        net_arch: list[int],
        activation_fn: type[nn.Module],
        layer_norm: bool,
    ) -> None:
        super().__init__(action_dim, feature_dim, prompt_dim, n_steps, net_arch, activation_fn, layer_norm)
        half_a_wave = math.pi / (n_steps - 1)  # over all times
        table = sinusoidal_embedding(n_steps, _STEP_DIM, _WAVES * half_a_wave, half_a_wave)
        self.register_buffer("step_table", table, persistent=False)
        self.from_end = _from_step(self.from_action.out_features, activation_fn)

    def given(self, condition: th.Tensor) -> Callable[..., th.Tensor]:
        """Give v as a function of noisy actions, t and r.

        :param condition: (..., width), from `condition`.
        """

        def velocity(noisy_actions: th.Tensor, t: int | th.Tensor, r: int | th.Tensor) -> th.Tensor:
            times = self._embedded(self.from_step, t) + self._embedded(self.from_end, r)
            return self(noisy_actions, times, condition)

        return velocity

    def _embedded(self, layers: nn.Module, place: int | th.Tensor) -> th.Tensor:
        """Compute the share of a time in the first layer: of one time, or of the whole grid for many."""
        if isinstance(place, int):
            return layers(self.step_table[place])
        return _rows(layers(self.step_table), place)


class QEnsemble(PromptedPerceptron):
    """Q_j(s, a, prompt), j = 1..n, in one batched product per layer; arguments as in `PromptedPerceptron`.

    The layer norms have no learned scale.

    :param n_critics: number of members, which are independent; 2 for the usual twin critic.
    """

    def __init__(
        self,
        action_dim: int,
        feature_dim: int,
        prompt_dim: int,
        n_critics: int,
        net_arch: list[int],
        activation_fn: type[nn.Module],
        layer_norm: bool,
    ) -> None:
        sizes = [*net_arch, 1]
        super().__init__(feature_dim, prompt_dim, n_critics * sizes[0])
        self.n_critics = n_critics
        self.from_action = nn.Linear(action_dim, n_critics * sizes[0], bias=False)
        norm = _PLAIN_NORM if layer_norm else None
        self.trunk = _trunk(sizes, activation_fn, norm, partial(EnsembleLinear, n_critics))

    def forward(self, condition: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Compute the value of each action under each member.

        :param condition: (M, N, n_critics * width), from `condition`.
        :param actions: (M, N, action_dim), in [-1, 1].
        :return: (n_critics, M, N).
        """
        first = condition + self.from_action(actions)
        # (M, N, n_critics * width) -> (n_critics, M * N, width)
        hidden = first.reshape(-1, self.n_critics, first.shape[-1] // self.n_critics).transpose(0, 1)
        return self.trunk(hidden).view(self.n_critics, *actions.shape[:-1])


class EnsembleLinear(nn.Module):
    """One linear map for each member of an ensemble.

    :param n_members: size of the ensemble.
    :param n_in: input size.
    :param n_out: output size.
    """

    def __init__(self, n_members: int, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(n_in)  # the default of nn.Linear
        self.weight = nn.Parameter(th.empty(n_members, n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(th.empty(n_members, 1, n_out).uniform_(-bound, bound))

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Apply each member's map to its own rows.

        :param x: (n_members, B, n_in).
        :return: (n_members, B, n_out).
        """
        return th.baddbmm(self.bias, x, self.weight)


class StateValue(PromptedPerceptron):
    """V(s, prompt), the value of a state whatever is done in it; arguments as in `PromptedPerceptron`.

    The layer norms have no learned scale.
    """

    def __init__(
        self,
        feature_dim: int,
        prompt_dim: int,
        net_arch: list[int],
        activation_fn: type[nn.Module],
        layer_norm: bool,
    ) -> None:
        sizes = [*net_arch, 1]
        super().__init__(feature_dim, prompt_dim, sizes[0])
        self.trunk = _trunk(sizes, activation_fn, _PLAIN_NORM if layer_norm else None)

    def forward(self, condition: th.Tensor) -> th.Tensor:
        """Compute the value of each state.

        :param condition: (M, N, width), from `condition`.
        :return: (M, N).
        """
        return self.trunk(condition).squeeze(-1)


_PLAIN_NORM = partial(nn.LayerNorm, elementwise_affine=False)


def _from_step(width: int, activation_fn: type[nn.Module]) -> nn.Sequential:
    """Make the layers from the embedding of a step to its share in the first layer."""
    hidden = nn.Linear(_STEP_DIM, 2 * _STEP_DIM)
    return nn.Sequential(hidden, activation_fn(), nn.Linear(2 * _STEP_DIM, width, bias=False))


def _rows(table: th.Tensor, place: int | th.Tensor) -> th.Tensor:
    """Take one row of a table for all, or a row for each place: (width,) or (..., width)."""
    # Not by indexing: several threads sum its gradient in no fixed order, and trainings would differ.
    return table[place] if isinstance(place, int) else F.embedding(place, table)


def _trunk(
    sizes: Sequence[int],
    activation_fn: type[nn.Module],
    norm: Callable[[int], nn.Module] | None,
    linear: Callable[[int, int], nn.Module] = nn.Linear,
) -> nn.Sequential:
    """Make the layers after the first one."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [] if norm is None else [norm(n_in)]
        layers += [activation_fn(), linear(n_in, n_out)]
    return nn.Sequential(*layers)


def sinusoidal_embedding(
    n_positions: int, dim: int, fastest: float = 1.0, slowest: float = 1e-4
) -> th.Tensor:
    """Compute sines and cosines of geometrically spaced frequencies (Vaswani et al., 2017).

    :param n_positions: n, for the positions 0 .. n - 1.
    :param dim: size of an embedding, even, at least 4.
    :param fastest: largest frequency, in radians a position.
    :param slowest: smallest one.
    :return: (n_positions, dim).
    """
    half = dim // 2
    frequencies = fastest * th.exp(-math.log(fastest / slowest) / (half - 1) * th.arange(half))
    angles = th.arange(n_positions)[:, None] * frequencies[None]
    return th.cat([angles.sin(), angles.cos()], dim=1)
