"""Calls the C++ routine of TTT-Linear, in both of its forms, through an opaque custom op with a backward op of its own."""

import torch
from torch import Tensor

from ..native import call, watch, watched_gradients

CHUNK = 64  # at least so many steps lie between the states that the forward keeps, as in the C++ source


def ttt_linear(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    learning_rate: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    token_scale: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    mini_batch_size: int,
    eps: float,
    cu_seqlens: Tensor,
    reverse: bool,
    late: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v: [B, T, H, D]; learning_rate: [B, T, H]; norm_*: [H, D]; token_scale: [mini_batch_size]; weight: [S, H, D, D];
    bias: [S, H, D] → o [B, T, H, D], final weight, final bias.

    ``late``: the learning rate of the query's step counts, and the residual is around the inner output.
    """
    values = (q, k, v, learning_rate, norm_weight, norm_bias, token_scale, weight, bias)
    keep = torch.is_grad_enabled() and any(value.requires_grad for value in values)
    return _ttt_linear(*values, eps, cu_seqlens, reverse, late, keep)[:3]


def ttt_linear_fla(*arguments: Tensor, **named) -> tuple[Tensor, Tensor, Tensor]:
    """The same with the learning rate of the query's step, and the residual around the inner output."""
    return ttt_linear(*arguments, **named, late=True)


@torch.library.custom_op("visionrnn::ttt_linear", mutates_args=(), device_types="cpu")
def _ttt_linear(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    learning_rate: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    token_scale: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    cu_seqlens: Tensor,
    reverse: bool,
    late: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    o, final_weight, final_bias = torch.empty_like(q), torch.empty_like(weight), torch.empty_like(bias)
    kept, z, y = _kept(q, weight, token_scale, keep)
    call(
        "ttt_linear_forward", q, k, v, learning_rate, norm_weight, norm_bias, token_scale, weight, bias, cu_seqlens, o,
        final_weight, final_bias, *((kept, z, y) if keep else (None, None, None)), eps, *bias.shape, len(token_scale), late, reverse,
    )  # fmt: skip
    return o, final_weight, final_bias, kept, z, y


def _kept(q: Tensor, weight: Tensor, token_scale: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Room for states between mini-batches, and the inner model's outputs for keys and for queries; empty without ``keep``."""
    if not keep:
        return q.new_empty(0), q.new_empty(0), q.new_empty(0)
    size = token_scale.shape[0]
    slots = q.shape[0] * q.shape[1] // ((CHUNK + size - 1) // size * size) + weight.shape[0]
    return weight.new_zeros(slots, *weight.shape[1:]), q.new_empty(q.shape), q.new_empty(q.shape)


@_ttt_linear.register_fake
def _(q, k, v, learning_rate, norm_weight, norm_bias, token_scale, weight, bias, eps, cu_seqlens, reverse, late, keep):
    return *(value.new_empty(value.shape) for value in (q, weight, bias)), *_kept(q, weight, token_scale, keep)


@torch.library.custom_op("visionrnn::ttt_linear_backward", mutates_args=(), device_types="cpu")
def _ttt_linear_backward(
    grad_o: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    learning_rate: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    token_scale: Tensor,
    kept: Tensor,
    z: Tensor,
    y: Tensor,
    eps: float,
    cu_seqlens: Tensor,
    reverse: bool,
    late: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = (q, k, v, learning_rate, norm_weight, norm_bias, token_scale)
    sequences, heads, width = grad_bias.shape
    timed = [torch.empty_like(value) for value in inputs[:4]]
    norms = [q.new_empty(sequences, heads, width) for _ in range(2)]
    scales = q.new_empty(sequences, heads, len(token_scale))
    states = [value.new_empty(value.shape) for value in (grad_weight, grad_bias)]
    call(
        "ttt_linear_backward", *inputs, cu_seqlens, kept, z, y, grad_o.contiguous(), grad_weight.contiguous(), grad_bias.contiguous(),
        *timed, *norms, scales, *states, eps, sequences, heads, width, len(token_scale), late, reverse,
    )  # fmt: skip
    return timed[0], timed[1], timed[2], timed[3], norms[0].sum(0), norms[1].sum(0), scales.sum((0, 1)), states[0], states[1]


@_ttt_linear_backward.register_fake
def _(grad_o, grad_weight, grad_bias, q, k, v, learning_rate, norm_weight, norm_bias, token_scale, *_):
    values = (q, k, v, learning_rate, norm_weight, norm_bias, token_scale, grad_weight, grad_bias)
    return tuple(value.new_empty(value.shape) for value in values)


def _setup(ctx, inputs, output):
    *values, _, _, ctx.eps, cu_seqlens, ctx.reverse, ctx.late, _ = inputs
    ctx.save_for_backward(*values, *output[3:], cu_seqlens)
    watch(ctx, output[:3])


def _backward(ctx, *given):
    *saved, cu_seqlens = ctx.saved_tensors
    grads = _ttt_linear_backward(*watched_gradients(ctx, given), *saved, ctx.eps, cu_seqlens, ctx.reverse, ctx.late)
    return *grads, None, None, None, None, None


_ttt_linear.register_autograd(_backward, setup_context=_setup)
