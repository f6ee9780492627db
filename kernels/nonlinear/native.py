"""Calls the C++ routines through opaque custom ops with a backward op of their own."""

import torch
from torch import Tensor

from ..native import call, watch, watched_gradients

CHUNK = 16  # steps between the states that the forward keeps for the backward, as in the C++ source
NUMBERS = {"elman": 0, "gru": 1, "lstm": 2, "slstm": 3, "slstm_floor": 4}  # of the cells, as there


def nonlinear_rnn(
    x: Tensor,
    R: Tensor,
    bias: Tensor | None,
    valid: None,
    state: Tensor,
    *,
    cell: str,
    normalizer_floor: bool,
    cu_seqlens: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """x: [B, T, G, H, D]; R: [G, H, D_out, D_in]; bias: [G, H, D]; state: [S, states, H, D] → y [B, T, H, D], final state."""
    keep = torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in (x, R, bias, state))
    number = NUMBERS["slstm_floor" if cell == "slstm" and normalizer_floor else cell]
    return _nonlinear_rnn(x, R, bias, state, cu_seqlens, number, reverse, keep)[:2]


@torch.library.custom_op("visionrnn::nonlinear_rnn", mutates_args=(), device_types="cpu")
def _nonlinear_rnn(
    x: Tensor, R: Tensor, bias: Tensor | None, state: Tensor, cu_seqlens: Tensor, cell: int, reverse: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    heads, width = x.shape[3:]
    y, final = x.new_empty(*x.shape[:2], heads, width), state.new_empty(state.shape)
    kept = x.new_zeros(_kept_shape(x, state)) if keep else x.new_zeros(0)
    call(
        "nonlinear_rnn_forward", x, R, bias, state, cu_seqlens, y, final, kept if keep else None,
        cell, len(state), heads, width, reverse,
    )  # fmt: skip
    return y, final, kept


def _kept_shape(x, state):
    return x.shape[0] * x.shape[1] // CHUNK + state.shape[0], state.shape[1] - 1, state.shape[2], state.shape[3]


@_nonlinear_rnn.register_fake
def _(x, R, bias, state, cu_seqlens, cell, reverse, keep):
    kept = x.new_empty(_kept_shape(x, state) if keep else (0,))
    return x.new_empty(x.shape[0], x.shape[1], x.shape[3], x.shape[4]), state.new_empty(state.shape), kept


@torch.library.custom_op("visionrnn::nonlinear_rnn_backward", mutates_args=(), device_types="cpu")
def _nonlinear_rnn_backward(
    grad_y: Tensor,
    grad_final: Tensor,
    x: Tensor,
    R: Tensor,
    bias: Tensor | None,
    state: Tensor,
    y: Tensor,
    kept: Tensor,
    cu_seqlens: Tensor,
    cell: int,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    heads, width = x.shape[3:]
    grad_x, grad_R, grad_state = x.new_empty(x.shape), R.new_empty(R.shape), state.new_empty(state.shape)
    grad_bias = R.new_empty(0) if bias is None else bias.new_empty(bias.shape)
    candidate = y.new_empty(y.shape if cell == NUMBERS["gru"] else 0)  # gradient of the part of R y that a gate of a GRU multiplies
    call(
        "nonlinear_rnn_backward", x, R, bias, state, y, kept, grad_y.contiguous(), grad_final.contiguous(), cu_seqlens,
        grad_x, candidate, grad_state, grad_R, None if bias is None else grad_bias, cell, len(state), heads, width, reverse,
    )  # fmt: skip
    return grad_x, grad_R, grad_bias, grad_state


@_nonlinear_rnn_backward.register_fake
def _(grad_y, grad_final, x, R, bias, state, y, kept, cu_seqlens, cell, reverse):
    grad_bias = R.new_empty(0) if bias is None else bias.new_empty(bias.shape)
    return x.new_empty(x.shape), R.new_empty(R.shape), grad_bias, state.new_empty(state.shape)


def _setup(ctx, inputs, output):
    x, R, bias, state, cu_seqlens, ctx.cell, ctx.reverse, _ = inputs
    y, _, kept = output
    ctx.save_for_backward(x, R, bias, state, y, kept, cu_seqlens)
    watch(ctx, output[:2])


def _backward(ctx, *given):
    given, saved = watched_gradients(ctx, given), ctx.saved_tensors
    grad_x, grad_R, grad_bias, grad_state = _nonlinear_rnn_backward(*given, *saved, ctx.cell, ctx.reverse)
    return grad_x, grad_R, None if saved[2] is None else grad_bias, grad_state, None, None, None, None


_nonlinear_rnn.register_autograd(_backward, setup_context=_setup)
