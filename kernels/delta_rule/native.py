"""Calls the C++ routines of the delta rules through opaque custom ops with backward ops of their own."""

import torch
from torch import Tensor

from ..native import call, watch, watched_gradients

CHUNK = 64  # steps between the states that the forward keeps for the backward, as in the C++ source


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    state: Tensor,
    *,
    scale: float,
    cu_seqlens: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """q: [B, T, H, K]; k, v, beta: [B, T, steps, H, K | V | -]; log_decay: None, [B, T, H] or [B, T, H, K]; state: [S, H, K, V]."""
    keep = _any_gradient(q, k, v, beta, log_decay, state)
    return _delta_rule(q, k, v, beta, log_decay, state, scale, cu_seqlens, reverse, keep)[:2]


def generalized_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    log_decay: Tensor,
    state: Tensor,
    *,
    scale: float,
    cu_seqlens: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """q, k, a, b, log_decay: [B, T, H, K]; v: [B, T, H, V]; state: [S, H, K, V] → o [B, T, H, V], final state."""
    keep = _any_gradient(q, k, v, a, b, log_decay, state)
    return _generalized_delta_rule(q, k, v, a, b, log_decay, state, scale, cu_seqlens, reverse, keep)[:2]


def _any_gradient(*values: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in values)


def _kept(v: Tensor, state: Tensor, rows: int, keep: bool) -> tuple[Tensor, Tensor]:
    """Room for the states before every chunk and for what was read at every step; empty without ``keep``."""
    if not keep:
        return v.new_empty(0), v.new_empty(0)
    return state.new_zeros(rows // CHUNK + state.shape[0], *state.shape[1:]), v.new_empty(v.shape)


@torch.library.custom_op("visionrnn::delta_rule", mutates_args=(), device_types="cpu")
def _delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    state: Tensor,
    scale: float,
    cu_seqlens: Tensor,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    final, o = torch.empty_like(state), v.new_empty(*q.shape[:-1], v.shape[-1])
    kept, residual = _kept(v, state, beta[..., 0].numel(), keep)
    call(
        "delta_rule_forward", q, k, v, beta, log_decay, state, cu_seqlens, o, final, kept if keep else None, residual if keep else None,
        *_sizes(k, log_decay, state, scale, reverse),
    )  # fmt: skip
    return o, final, kept, residual


def _sizes(k: Tensor, log_decay: Tensor | None, state: Tensor, scale: float, reverse: bool) -> tuple[float | int, ...]:
    return scale, *state.shape, k.shape[2], 0 if log_decay is None else log_decay.dim() - 2, reverse


@_delta_rule.register_fake
def _(q, k, v, beta, log_decay, state, scale, cu_seqlens, reverse, keep):
    rows = k.shape[0] * k.shape[1] * k.shape[2]
    return v.new_empty((*q.shape[:-1], v.shape[-1])), state.new_empty(state.shape), *_kept(v, state, rows, keep)


@torch.library.custom_op("visionrnn::delta_rule_backward", mutates_args=(), device_types="cpu")
def _delta_rule_backward(
    grad_o: Tensor,
    grad_final: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    kept: Tensor,
    residual: Tensor,
    scale: float,
    cu_seqlens: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    grads = [torch.empty_like(value) for value in (q, k, v, beta, grad_o.new_empty(0) if log_decay is None else log_decay)]
    grad_state = grad_final.new_empty(grad_final.shape)
    call(
        "delta_rule_backward", q, k, v, beta, log_decay, cu_seqlens, kept, residual, grad_o.contiguous(), grad_final.contiguous(),
        *grads, grad_state, *_sizes(k, log_decay, grad_final, scale, reverse),
    )  # fmt: skip
    return grads[0], grads[1], grads[2], grads[3], grads[4], grad_state


@_delta_rule_backward.register_fake
def _(grad_o, grad_final, q, k, v, beta, log_decay, kept, residual, scale, cu_seqlens, reverse):
    decays = grad_o.new_empty(0) if log_decay is None else log_decay.new_empty(log_decay.shape)
    return *(value.new_empty(value.shape) for value in (q, k, v, beta)), decays, grad_final.new_empty(grad_final.shape)


def _setup(ctx, inputs, output):
    *timed, _, ctx.scale, cu_seqlens, ctx.reverse, _ = inputs
    ctx.save_for_backward(*timed, *output[2:], cu_seqlens)
    watch(ctx, output[:2])


def _backward(ctx, *given):
    *saved, cu_seqlens = ctx.saved_tensors
    given = watched_gradients(ctx, given)
    *grads, grad_decay, grad_state = _delta_rule_backward(*given, *saved, ctx.scale, cu_seqlens, ctx.reverse)
    return *grads, None if saved[4] is None else grad_decay, grad_state, None, None, None, None


_delta_rule.register_autograd(_backward, setup_context=_setup)


@torch.library.custom_op("visionrnn::generalized_delta_rule", mutates_args=(), device_types="cpu")
def _generalized_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    log_decay: Tensor,
    state: Tensor,
    scale: float,
    cu_seqlens: Tensor,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    final, o = torch.empty_like(state), torch.empty_like(v)
    kept, residual = _kept(v, state, v.shape[0] * v.shape[1], keep)
    call(
        "generalized_delta_rule_forward", q, k, v, a, b, log_decay, state, cu_seqlens, o, final, kept if keep else None,
        residual if keep else None, scale, *state.shape, reverse,
    )  # fmt: skip
    return o, final, kept, residual


@_generalized_delta_rule.register_fake
def _(q, k, v, a, b, log_decay, state, scale, cu_seqlens, reverse, keep):
    return v.new_empty(v.shape), state.new_empty(state.shape), *_kept(v, state, v.shape[0] * v.shape[1], keep)


@torch.library.custom_op("visionrnn::generalized_delta_rule_backward", mutates_args=(), device_types="cpu")
def _generalized_delta_rule_backward(
    grad_o: Tensor,
    grad_final: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    log_decay: Tensor,
    kept: Tensor,
    residual: Tensor,
    scale: float,
    cu_seqlens: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    grads = [torch.empty_like(value) for value in (q, k, v, a, b, log_decay, grad_final)]
    call(
        "generalized_delta_rule_backward", q, k, v, a, b, log_decay, cu_seqlens, kept, residual, grad_o.contiguous(),
        grad_final.contiguous(), *grads, scale, *grad_final.shape, reverse,
    )  # fmt: skip
    return grads[0], grads[1], grads[2], grads[3], grads[4], grads[5], grads[6]


@_generalized_delta_rule_backward.register_fake
def _(grad_o, grad_final, q, k, v, a, b, log_decay, kept, residual, scale, cu_seqlens, reverse):
    return tuple(value.new_empty(value.shape) for value in (q, k, v, a, b, log_decay, grad_final))


def _backward_general(ctx, *given):
    *saved, cu_seqlens = ctx.saved_tensors
    grads = _generalized_delta_rule_backward(*watched_gradients(ctx, given), *saved, ctx.scale, cu_seqlens, ctx.reverse)
    return *grads, None, None, None, None


_generalized_delta_rule.register_autograd(_backward_general, setup_context=_setup)


from .native_test_time import ttt_linear, ttt_linear_fla  # noqa: E402, F401
