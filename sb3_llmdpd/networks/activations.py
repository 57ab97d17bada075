"""Mish, the activation of Diffusion-QL, computed without its slow softplus and tanh."""

from typing import Any

import torch as th
from torch import nn
from torch.nn import functional as F

_SMALL = 3_072
"""Numbers up to which one slow operation takes less time than seven fast ones."""


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
        if (
            th.is_grad_enabled()
        ):  # a second derivative is wanted, and what was saved does not know that it came from x
            p, w = _gate(x)
        return grads[0] * (w + x * p * (1.0 - w * w))  # d mish / dx, since dw/dx = p (1 - w^2)


def _gate(x: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    p = th.sigmoid(x)
    q = p * (2.0 - p)
    return p, q / (2.0 - q)


class Mish(nn.Module):
    """x tanh(softplus(x)) (Misra, 2020), without the softplus and tanh that make ``nn.Mish`` slow on a CPU."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Apply the activation.

        :param x: any shape.
        :return: the same shape.
        """
        if th.compiler.is_exporting() or x.numel() <= _SMALL:  # a program is for inputs of any size
            return F.mish(x)
        if not th.is_grad_enabled():
            p = th.sigmoid(x)
            q = p.mul_(2.0 - p)
            return q.div_(2.0 - q).mul_(x)
        return _FastMish.apply(x)  # type: ignore[no-untyped-call]  # torch
