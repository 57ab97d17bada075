"""Ways to train faster that not every machine gains by, or whose numbers are not quite those of plain float32."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, Self

import torch as th
from torch.utils._pytree import tree_leaves, tree_map_only

MATMUL_PRECISIONS = ("highest", "high", "medium")

_WARM_UP = 3
"""Updates before the capture, in which all that is allocated once is allocated."""

Tree = Any
"""A tensor, or tuples and dicts of trees."""


@dataclass(frozen=True)
class Acceleration:
    """What `LLMDPD` is asked for in its argument ``acceleration``. Nothing of it is on by default.

    :param matmul_precision: of products of float32 matrices while a model learns: ``"highest"``, ``"high"`` or ``"medium"``,
        see `torch.set_float32_matmul_precision`; it is set back behind. What it does depends on the machine: TF32 on a GPU;
        on a CPU another library of products, which takes bfloat16 where the CPU has units for such matrices, and may gain
        nothing where it has none. None for what is set.
    :param compile: whether the losses are compiled by `torch.compile`. That needs a C++ compiler, and up to a minute in the
        first step.
    :param bfloat16: whether the networks compute in bfloat16 inside the losses; weights, gradients and optimisers stay
        float32.
    :param cuda_graph: whether the whole update is captured as a CUDA graph and replayed, so that a GPU does not wait for
        Python. Needs a CUDA device and Adam.
    :raises TypeError: when a switch is no bool.
    :raises ValueError: on an unknown precision.
    """

    matmul_precision: str | None = None
    compile: bool = False
    bfloat16: bool = False
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        if self.matmul_precision is not None and self.matmul_precision not in MATMUL_PRECISIONS:
            raise ValueError(
                f"`acceleration`: matmul_precision must be None or one of {MATMUL_PRECISIONS}, got {self.matmul_precision!r}"
            )
        for name in ("compile", "bfloat16", "cuda_graph"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"`acceleration`: {name} must be True or False, got {getattr(self, name)!r}")

    @classmethod
    def of(cls, given: dict[str, Any] | None) -> Self:
        """Read the argument.

        :param given: what is asked for, by name; None for nothing.
        :return: the same, checked.
        :raises TypeError: when it is no dict, or a switch no bool.
        :raises ValueError: on an unknown name or precision.
        """
        if given is not None and not isinstance(given, dict):
            raise TypeError(
                f"`acceleration` must be None or a dict such as {{'compile': True}}, got {given!r}"
            )
        known = [field.name for field in fields(cls)]
        unknown = sorted(map(str, set(given or {}) - set(known)))
        if unknown:
            raise ValueError(f"`acceleration` knows {', '.join(known)}; got {', '.join(map(repr, unknown))}")
        return cls(**(given or {}))

    def of_loss(self, loss: Callable[..., Any], device: th.device) -> Callable[..., Any]:
        """A loss as it was asked for.

        :param loss: a function of tensors.
        :param device: where they are.
        :return: the same function of the same tensors, compiled or in bfloat16 or as it is.
        """
        if self.bfloat16:
            loss = _in_bfloat16(loss, device)
        return th.compile(loss) if self.compile else loss

    @contextmanager
    def matmuls(self) -> Iterator[None]:
        """Products of matrices at the precision that was asked for, inside the block."""
        before = th.get_float32_matmul_precision()
        if self.matmul_precision is not None:
            th.set_float32_matmul_precision(self.matmul_precision)
        try:
            yield
        finally:
            th.set_float32_matmul_precision(before)

    @contextmanager
    def graph(
        self, update: Callable[..., Tree], optimizers: Sequence[th.optim.Optimizer], device: th.device
    ) -> Iterator["GraphedUpdate | None"]:
        """An update as a CUDA graph, if that was asked for.

        :param update: see `GraphedUpdate`.
        :param optimizers: that it steps. Inside the block their learning rates are tensors, which the graph reads anew.
        :param device: where everything is.
        :return: a context that yields the graph, or None.
        :raises ValueError: when it was asked for and cannot be had.
        """
        if not self.cuda_graph:
            yield None
            return
        if device.type != "cuda":
            raise ValueError(
                f"`acceleration`: cuda_graph needs a CUDA device, and the model is on {device.type!r}"
            )
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        if not all("capturable" in group for group in groups):
            raise ValueError(
                "`acceleration`: cuda_graph needs an optimiser that can be captured, such as Adam"
            )
        for group in groups:
            group |= {"capturable": True, "lr": th.tensor(float(group["lr"]), device=device)}
        try:
            yield GraphedUpdate(update, device)
        finally:
            for group in groups:
                group |= {"capturable": False, "lr": float(group["lr"])}


class GraphedUpdate:
    """An update that is captured once as a CUDA graph, and then replayed on the tensors of each call.

    The first calls run as they are, on the stream of the capture. When the shapes change, it is captured again.

    :param update: a function of trees of tensors and numbers, which become tensors; it gives a tree of tensors. What it
        changes besides has to stay where it is in memory, and what it reads besides is what it was at the capture.
    :param device: where everything is.
    """

    def __init__(self, update: Callable[..., Tree], device: th.device) -> None:
        self._update = update
        self._device = device
        self._stream = th.cuda.Stream(device)
        self._n_calls = 0
        self._shapes: list[Any] = []
        self._inputs: Tree = None
        self._outputs: Tree = None
        self._graph: th.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tree) -> Tree:
        """Update once.

        :param inputs: of the update.
        :return: what the update gives.
        """
        inputs = tree_map_only(float, lambda number: th.tensor(number, device=self._device), inputs)
        shapes = [(leaf.shape, leaf.dtype) for leaf in tree_leaves(inputs) if leaf is not None]
        if shapes != self._shapes:
            self._n_calls, self._shapes, self._graph = 0, shapes, None
        self._n_calls += 1
        if self._n_calls <= _WARM_UP:
            return self._beside(inputs)
        if self._graph is None:
            self._inputs = tree_map_only(th.Tensor, th.clone, inputs)
            self._graph = th.cuda.CUDAGraph()
            with th.cuda.graph(
                self._graph, stream=self._stream
            ):  # what is called here is recorded, and not done
                self._outputs = self._update(*self._inputs)
        else:
            for fixed, latest in zip(_tensors(self._inputs), _tensors(inputs), strict=True):
                fixed.copy_(latest, non_blocking=True)
        self._graph.replay()
        return tree_map_only(th.Tensor, lambda output: output.detach().clone(), self._outputs)

    def _beside(self, inputs: Tree) -> Tree:
        """One update on the stream of the capture, between what came before and what follows."""
        self._stream.wait_stream(th.cuda.current_stream(self._device))
        with th.cuda.stream(self._stream):
            outputs = self._update(*inputs)
        th.cuda.current_stream(self._device).wait_stream(self._stream)
        return outputs


def _tensors(tree: Tree) -> list[th.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, th.Tensor)]


def _in_bfloat16(loss: Callable[..., Any], device: th.device) -> Callable[..., Any]:
    @wraps(loss)
    def autocast(*args: Any) -> Any:
        with th.autocast(device.type, th.bfloat16):
            return loss(*args)

    return autocast
