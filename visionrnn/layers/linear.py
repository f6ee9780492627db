"""Linear maps for long sequences of narrow vectors, by the faster of the two libraries that torch has for a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK = 1024  # rows of a weight's gradient at a time: both operands fit the processor's cache

enabled = True
"""False: all is left to torch, as it is with ``torch.backends.mkldnn.enabled = False``, which concerns convolutions too."""


class Linear(nn.Linear):
    """nn.Linear with :func:`linear`; the same weights under the same names."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear. In float32 on a CPU by oneDNN, at full precision: torch itself asks MKL, which leaves half of an AMD processor unused."""
    if not _fits(x, weight):
        return F.linear(x, weight, bias)
    wanted = torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in (x, weight, bias))
    return _Linear.apply(x, weight, bias) if wanted else _product(x, weight, bias)


def _fits(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()  # first: the compiler cannot follow what comes after
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.dim() > 1
        and x.numel() > 0
        and torch.backends.mkldnn.is_available()
        and enabled
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = torch.ops.mkldnn._linear_pointwise(_on_grid(x.flatten(0, -2)), _dense(weight), bias, "none", [], "")
    return out.resize_(*x.shape[:-1], len(weight))  # not a slice: views that an autograd function returns cannot be changed in place


def _on_grid(rows: Tensor) -> Tensor:
    """The rows, with zeros behind them up to one of a few numbers: a multiple of 16, at most a sixteenth more beyond 256.

    oneDNN compiles its product anew for every number of rows (0.6 ms, 0.6 MB kept), and no two frames have equally many voxels.
    """
    number = len(rows)
    step = max(16, 1 << max(number.bit_length() - 5, 0))
    return F.pad(rows, (0, 0, 0, -number % step)) if number % step else rows


def _dense(matrix: Tensor) -> Tensor:
    """The matrix without gaps between its rows or columns: as a weight with gaps oneDNN takes it number by number, 1 000 times slower."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """gradᵀ x of [N, O] and [N, I], summed over chunks of rows in their order."""
    if torch.is_grad_enabled() or not _fits(x, grad):  # a second derivative is wanted, or torch was told not to use oneDNN meanwhile
        return grad.t() @ x
    narrow = grad.shape[1] <= x.shape[1]  # the operand that oneDNN reads transposed should be the narrower one
    total: Tensor | None = None
    for g, values in zip(grad.split(CHUNK), x.split(CHUNK), strict=True):
        first, second = (g, values) if narrow else (values, g)
        product = torch.ops.mkldnn._linear_pointwise(_on_grid(first).t(), _dense(_on_grid(second)).t(), None, "none", [], "")
        total = product if total is None else total.add_(product)
    assert total is not None
    return total if narrow else total.t()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # by differentiable operations
        x, weight = ctx.saved_tensors
        grad, needs = grads[0], ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            linear(grad, weight.t()) if needs[0] else None,
            weight_gradient(rows, x.flatten(0, -2)) if needs[1] else None,
            rows.sum(0) if needs[2] else None,
        )
