"""Ways to train faster that help only some machines, or whose numbers differ slightly from plain float32."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, Self

import torch as th
from torch.utils._pytree import tree_leaves, tree_map_only

MATMUL_PRECISIONS = ("highest", "high", "medium")

_WARM_UP = 3
"""Updates before the capture: they allocate the memory that later updates use again."""

Tree = Any
"""A tensor, or tuples and dicts of trees."""


@dataclass(frozen=True)
class Acceleration:
    """The argument ``acceleration`` of `LLMDPD`, checked. Nothing of it is on by default.

    :param matmul_precision: precision of float32 matrix products while a model learns: ``"highest"``,
        ``"high"`` or ``"medium"``, see `torch.set_float32_matmul_precision`. On a GPU it allows TF32; on a
        CPU it may use bfloat16, which gains nothing without units for it. None leaves the current setting.
    :param compile: apply `torch.compile` to the losses; needs a C++ compiler, and a minute in the first step
    :param bfloat16: compute in bfloat16 inside the losses; weights, gradients and optimisers stay float32
    :param cuda_graph: capture the whole update as a CUDA graph and replay it, so that a GPU does not wait for
        Python; needs a CUDA device and Adam
    :raises TypeError: when a switch is no bool
    :raises ValueError: on an unknown precision
    """

    matmul_precision: str | None = None
    compile: bool = False
    bfloat16: bool = False
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        precision = self.matmul_precision
        if precision is not None and precision not in MATMUL_PRECISIONS:
            raise ValueError(
                "`acceleration`: matmul_precision must be None or one of"
                f" {MATMUL_PRECISIONS}, got {precision!r}"
            )
        for name in ("compile", "bfloat16", "cuda_graph"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"`acceleration`: {name} must be True or False, got {getattr(self, name)!r}")

    @classmethod
    def of(cls, given: dict[str, Any] | None) -> Self:
        """Read the argument.

        :param given: settings by name; None for the defaults
        :return: the same settings, checked
        :raises TypeError: when the argument is no dict, or a switch no bool
        :raises ValueError: on an unknown name or precision
        """
        given = {} if given is None else given
        if not isinstance(given, dict):
            raise TypeError(
                f"`acceleration` must be None or a dict such as {{'compile': True}}, got {given!r}"
            )
        known = [field.name for field in fields(cls)]
        unknown = sorted(map(str, given.keys() - known))
        if unknown:
            raise ValueError(f"`acceleration` knows {', '.join(known)}; got {', '.join(map(repr, unknown))}")
        return cls(**given)

    def of_loss(self, loss: Callable[..., Any], device: th.device) -> Callable[..., Any]:
        """Compile a loss, or let it compute in bfloat16, as the settings say.

        :param loss: a function of tensors
        :param device: device of the tensors
        :return: a function of the same tensors
        """
        if self.bfloat16:
            loss = _in_bfloat16(loss, device)
        return th.compile(loss) if self.compile else loss

    @contextmanager
    def matmuls(self) -> Iterator[None]:
        """Set the precision of matrix products inside the block."""
        before = th.get_float32_matmul_precision()
        th.set_float32_matmul_precision(self.matmul_precision or before)
        try:
            yield
        finally:
            th.set_float32_matmul_precision(before)

    @contextmanager
    def graph(
        self, update: Callable[..., Tree], optimizers: Sequence[th.optim.Optimizer], device: th.device
    ) -> Iterator["GraphedUpdate | None"]:
        """Make a CUDA graph of an update when the settings say so.

        :param update: the update, as for `GraphedUpdate`
        :param optimizers: optimisers of the update, whose learning rates are tensors inside the block
        :param device: device of all tensors
        :return: a context that yields the graph, or None
        :raises ValueError: when the device or an optimiser allows no graph
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

    The first calls run without a graph, on the stream of the capture. New shapes start over with such calls.

    :param update: a function from trees of tensors and numbers (which become tensors) to a tree of tensors.
        Other tensors that it changes keep their memory; other values that it reads are those of the capture.
    :param device: device of all tensors
    """

    def __init__(self, update: Callable[..., Tree], device: th.device) -> None:
        self._update, self._device, self._stream = update, device, th.cuda.Stream(device)
        self._n_calls = 0
        self._shapes: list[Any] = []
        self._inputs: Tree = None
        self._outputs: Tree = None
        self._graph: th.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tree) -> Tree:
        """Update once.

        :param inputs: arguments of the update
        :return: result of the update
        """
        inputs = tree_map_only(float, lambda number: th.tensor(number, device=self._device), inputs)
        shapes = [(leaf.shape, leaf.dtype) for leaf in tree_leaves(inputs) if leaf is not None]
        if shapes != self._shapes:
            self._n_calls, self._shapes, self._graph = 0, shapes, None
        self._n_calls += 1
        if self._n_calls <= _WARM_UP:
            return self._update_without_graph(inputs)
        if self._graph is None:
            self._inputs = tree_map_only(th.Tensor, th.clone, inputs)
            self._graph = th.cuda.CUDAGraph()
            with th.cuda.graph(self._graph, stream=self._stream):  # records the calls without running them
                self._outputs = self._update(*self._inputs)
        else:
            for fixed, latest in zip(tree_leaves(self._inputs), tree_leaves(inputs), strict=True):
                if isinstance(fixed, th.Tensor):
                    fixed.copy_(latest, non_blocking=True)
        self._graph.replay()
        return tree_map_only(th.Tensor, lambda output: output.detach().clone(), self._outputs)

    def _update_without_graph(self, inputs: Tree) -> Tree:
        """Update on the stream of the capture, in order with the work of the current stream."""
        self._stream.wait_stream(th.cuda.current_stream(self._device))
        with th.cuda.stream(self._stream):
            outputs = self._update(*inputs)
        th.cuda.current_stream(self._device).wait_stream(self._stream)
        return outputs


def _in_bfloat16(loss: Callable[..., Any], device: th.device) -> Callable[..., Any]:
    @wraps(loss)
    def autocast(*args: Any) -> Any:
        with th.autocast(device.type, th.bfloat16):
            return loss(*args)

    return autocast
