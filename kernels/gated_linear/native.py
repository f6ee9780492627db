"""Calls the C++ routines through opaque custom ops with a backward op of their own."""

from functools import partial
from typing import Optional

import torch
from torch import Tensor

from ..native import call, library, watch, watched_gradients
from .rotation import in_turning_frame, packed_angles

KEEP = 64  # steps between the states that the forward keeps for the backward, as in the C++ source


def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    state: Tensor,
    *,
    bonus: Tensor | None,
    scale: float,
    cu_seqlens: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """q, k: [B, T, H, K]; v: [B, T, H, V]; log_decay: None, [B, T, H] or [B, T, H, K]; bonus: None or [H, K]; state: [S, H, K, V]
    → o [B, T, H, V], final state."""
    keep = torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in (q, k, v, log_decay, bonus, state))
    return _gated_linear(q, k, v, log_decay, bonus, state, cu_seqlens, scale, reverse, keep)[:2]


def complex_gated_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, *, scale: float, cu_seqlens: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    """As :func:`gated_linear_attention` with complex log_decay [B, T, H, K] and state [S, H, K, V]: real routines with 2 K keys."""
    attend = partial(gated_linear_attention, bonus=None, scale=scale, cu_seqlens=cu_seqlens, reverse=reverse)
    return in_turning_frame(attend, q, k, v, log_decay, state, packed_angles(log_decay.imag, cu_seqlens, reverse))


def max_plus_scan(x: Tensor, log_decay: Tensor, state: Tensor, *, cu_seqlens: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """m_t = max(log_decay_t + m_{t-1}, x_t), not differentiable. x, log_decay: [B, T, H]; state: [S, H] → m, final."""
    return _max_plus_scan(x, log_decay, state, cu_seqlens, reverse)


def _sizes(k: Tensor, v: Tensor, log_decay: Tensor | None) -> tuple[int, int, int, int]:
    """Heads, keys, values, numbers of log_decay per step and head."""
    heads, keys = k.shape[-2:]
    return heads, keys, v.shape[-1], 0 if log_decay is None else 1 if log_decay.dim() == 3 else keys


@torch.library.custom_op("visionrnn::gated_linear", mutates_args=(), device_types="cpu")
def _gated_linear(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Optional[Tensor],  # noqa: UP045 (schema inference reads this form)
    bonus: Optional[Tensor],  # noqa: UP045
    state: Tensor,
    cu_seqlens: Tensor,
    scale: float,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    o, final = torch.empty_like(v), torch.empty_like(state)
    kept = state.new_empty(k.shape[0] * k.shape[1] // KEEP + len(state), *state.shape[1:]) if keep else None
    sizes = _sizes(k, v, log_decay)
    call("gated_linear_forward", q, k, v, log_decay, bonus, state, cu_seqlens, o, final, kept, scale, len(state), *sizes, reverse)
    return o, final, state.new_empty(0) if kept is None else kept


@_gated_linear.register_fake
def _(q, k, v, log_decay, bonus, state, cu_seqlens, scale, reverse, keep):
    kept = (k.shape[0] * k.shape[1] // KEEP + state.shape[0], *state.shape[1:]) if keep else (0,)
    return v.new_empty(v.shape), state.new_empty(state.shape), state.new_empty(kept)


@torch.library.custom_op("visionrnn::gated_linear_backward", mutates_args=(), device_types="cpu")
def _gated_linear_backward(
    grad_o: Tensor,
    grad_final: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Optional[Tensor],  # noqa: UP045
    bonus: Optional[Tensor],  # noqa: UP045
    kept: Tensor,
    cu_seqlens: Tensor,
    scale: float,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    parts, sequences = library().gated_linear_parts(v.shape[-1]), len(grad_final)
    grad_q, grad_k = q.new_empty(parts, *q.shape), k.new_empty(parts, *k.shape)
    grad_decay = q.new_empty(0) if log_decay is None else log_decay.new_empty(parts, *log_decay.shape)
    grad_bonus = q.new_empty(0) if bonus is None else bonus.new_empty(sequences * parts, *bonus.shape)
    grad_v, grad_state = torch.empty_like(v), grad_final.new_empty(grad_final.shape)
    sizes = _sizes(k, v, log_decay)
    call(
        "gated_linear_backward", q, k, v, log_decay, bonus, kept, grad_o.contiguous(), grad_final.contiguous(), cu_seqlens,
        grad_q, grad_k, grad_v, grad_decay, grad_bonus, grad_state, scale, sequences, *sizes, reverse,
    )  # fmt: skip
    grad_q, grad_k, grad_decay = (_sum_parts(value, parts) for value in (grad_q, grad_k, grad_decay))
    return grad_q, grad_k, grad_v, grad_decay, grad_bonus if bonus is None else grad_bonus.sum(0), grad_state


def _sum_parts(value: Tensor, parts: int) -> Tensor:
    return value.sum(0) if parts > 1 and value.numel() else value.view(value.shape[1:]) if value.dim() > 1 else value


@_gated_linear_backward.register_fake
def _(grad_o, grad_final, q, k, v, log_decay, bonus, kept, cu_seqlens, scale, reverse):
    optional = (q.new_empty(0) if value is None else value.new_empty(value.shape) for value in (log_decay, bonus))
    return *(value.new_empty(value.shape) for value in (q, k, v)), *optional, grad_final.new_empty(grad_final.shape)


def _setup(ctx, inputs, output):
    q, k, v, log_decay, bonus, _, cu_seqlens, ctx.scale, ctx.reverse, _ = inputs
    ctx.save_for_backward(q, k, v, log_decay, bonus, output[2], cu_seqlens)
    watch(ctx, output[:2])


def _backward(ctx, *given):
    saved = ctx.saved_tensors
    grad_q, grad_k, grad_v, grad_decay, grad_bonus, grad_state = _gated_linear_backward(
        *watched_gradients(ctx, given), *saved, ctx.scale, ctx.reverse
    )
    _, _, _, log_decay, bonus, *_ = saved
    grad_decay, grad_bonus = None if log_decay is None else grad_decay, None if bonus is None else grad_bonus
    return grad_q, grad_k, grad_v, grad_decay, grad_bonus, grad_state, None, None, None, None


_gated_linear.register_autograd(_backward, setup_context=_setup)


@torch.library.custom_op("visionrnn::max_plus_scan", mutates_args=(), device_types="cpu")
def _max_plus_scan(x: Tensor, log_decay: Tensor, state: Tensor, cu_seqlens: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    m, final = torch.empty_like(x), torch.empty_like(state)
    call("max_plus_scan", x, log_decay, state, cu_seqlens, m, final, len(state), x.shape[-1], reverse)
    return m, final


@_max_plus_scan.register_fake
def _(x, log_decay, state, cu_seqlens, reverse):
    return x.new_empty(x.shape), state.new_empty(state.shape)


def _not_differentiable(ctx, inputs, output):
    ctx.mark_non_differentiable(*output)


_max_plus_scan.register_autograd(lambda ctx, *grads: (None,) * 5, setup_context=_not_differentiable)
