"""Calls the C++ convolution through an opaque custom op with a backward op of its own."""

import torch
from torch import Tensor

from ..native import call, watch, watched_gradients


def causal_conv(
    u: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, *, activation: str | None, cu_seqlens: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    """u: [B, T, C]; weight: [taps, C]; state: [S, taps - 1, C] → out [B, T, C], final state."""
    return _causal_conv(u, weight, bias, state, cu_seqlens, reverse, activation == "silu")


@torch.library.custom_op("visionrnn::causal_conv", mutates_args=(), device_types="cpu")
def _causal_conv(
    u: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, cu_seqlens: Tensor, reverse: bool, silu: bool
) -> tuple[Tensor, Tensor]:
    out, final = torch.empty_like(u), torch.empty_like(state)
    call("causal_conv_forward", u, weight, bias, state, cu_seqlens, out, final, len(state), u.shape[2], len(weight), reverse, silu)
    return out, final


@_causal_conv.register_fake
def _(u, weight, bias, state, cu_seqlens, reverse, silu):
    return u.new_empty(u.shape), state.new_empty(state.shape)


@torch.library.custom_op("visionrnn::causal_conv_backward", mutates_args=(), device_types="cpu")
def _causal_conv_backward(
    grad_out: Tensor,
    grad_final: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    cu_seqlens: Tensor,
    reverse: bool,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of u, of the taps and the bias [taps + 1, C], and of the state."""
    grad_u, grad_state, sums = torch.empty_like(u), torch.empty_like(state), weight.new_empty(len(weight) + 1, u.shape[2])
    call(
        "causal_conv_backward", u, weight, bias, state, grad_out.contiguous(), grad_final.contiguous(), cu_seqlens,
        grad_u, sums, grad_state, len(state), u.shape[2], len(weight), reverse, silu,
    )  # fmt: skip
    return grad_u, sums, grad_state


@_causal_conv_backward.register_fake
def _(grad_out, grad_final, u, weight, bias, state, cu_seqlens, reverse, silu):
    return u.new_empty(u.shape), weight.new_empty(weight.shape[0] + 1, u.shape[2]), state.new_empty(state.shape)


def _setup(ctx, inputs, output):
    *saved, ctx.reverse, ctx.silu = inputs
    ctx.save_for_backward(*saved)
    watch(ctx, output)


def _backward(ctx, *grads):
    saved = ctx.saved_tensors
    grad_u, sums, grad_state = _causal_conv_backward(*watched_gradients(ctx, grads), *saved, ctx.reverse, ctx.silu)
    return grad_u, sums[:-1], None if saved[2] is None else sums[-1], grad_state, None, None, None


_causal_conv.register_autograd(_backward, setup_context=_setup)
