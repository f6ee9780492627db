"""Calls the C++ routines through opaque custom ops with a backward op of their own."""

import torch
from torch import Tensor

from ..native import call, library

CHUNK = 32  # steps between the states that the forward keeps for the backward, as in the C++ source


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, *, cu_seqlens: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    """u, delta: [B, T, D]; A: [D, N]; B, C: [B, T, G, N]; state: [S, D, N] → y [B, T, D], final state."""
    keep = torch.is_grad_enabled() and any(value.requires_grad for value in (u, delta, A, B, C, state))
    return _selective_scan(u, delta, A, B, C, state, cu_seqlens, reverse, keep)[:2]


@torch.library.custom_op("visionrnn::selective_scan", mutates_args=(), device_types="cpu")
def _selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, cu_seqlens: Tensor, reverse: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    groups, states = B.shape[-2:]
    y, final = torch.empty_like(u), torch.empty_like(state)
    kept = u.new_empty(u.shape[0] * u.shape[1] // CHUNK + len(state), states, u.shape[-1]) if keep else None
    call("selective_scan_forward", u, delta, A, B, C, state, cu_seqlens, y, final, kept, len(state), u.shape[-1], groups, states, reverse)
    return y, final, u.new_empty(0) if kept is None else kept


@_selective_scan.register_fake
def _(u, delta, A, B, C, state, cu_seqlens, reverse, keep):
    kept = (u.shape[0] * u.shape[1] // CHUNK + state.shape[0], B.shape[-1], u.shape[-1]) if keep else (0,)
    return u.new_empty(u.shape), state.new_empty(state.shape), u.new_empty(kept)


@torch.library.custom_op("visionrnn::selective_scan_backward", mutates_args=(), device_types="cpu")
def _selective_scan_backward(
    grad_y: Tensor,
    grad_final: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    kept: Tensor,
    cu_seqlens: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    groups, states = B.shape[-2:]
    parts = library().selective_scan_parts(u.shape[-1], groups)
    grad_u, grad_delta, grad_state = torch.empty_like(u), torch.empty_like(delta), grad_final.new_empty(grad_final.shape)
    grad_A = A.new_empty(len(grad_state), *A.shape)
    grad_B, grad_C = B.new_empty(parts, *B.shape), C.new_empty(parts, *C.shape)
    call(
        "selective_scan_backward",
        u,
        delta,
        A,
        B,
        C,
        kept,
        grad_y.contiguous(),
        grad_final.contiguous(),
        cu_seqlens,
        grad_u,
        grad_delta,
        grad_A,
        grad_B,
        grad_C,
        grad_state,
        len(grad_state),
        u.shape[-1],
        groups,
        states,
        reverse,
    )
    return grad_u, grad_delta, grad_A.sum(0), grad_B.sum(0), grad_C.sum(0), grad_state


@_selective_scan_backward.register_fake
def _(grad_y, grad_final, u, delta, A, B, C, kept, cu_seqlens, reverse):
    return tuple(value.new_empty(value.shape) for value in (u, delta, A, B, C, grad_final))


def _setup(ctx, inputs, output):
    u, delta, A, B, C, _, cu_seqlens, ctx.reverse, _ = inputs
    ctx.save_for_backward(u, delta, A, B, C, output[2], cu_seqlens)


def _backward(ctx, grad_y, grad_final, _):
    *saved, cu_seqlens = ctx.saved_tensors
    return *_selective_scan_backward(grad_y, grad_final, *saved, cu_seqlens, ctx.reverse), None, None, None


_selective_scan.register_autograd(_backward, setup_context=_setup)


def diagonal_scan(
    x: Tensor, log_decay: Tensor, sign: Tensor | None, state: Tensor, *, cu_seqlens: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    """x, log_decay, sign: [B, T, ...]; state: [S, ...] → h [B, T, ...], final state."""
    return _diagonal_scan(x, log_decay, sign, state, cu_seqlens, reverse)


@torch.library.custom_op("visionrnn::diagonal_scan", mutates_args=(), device_types="cpu")
def _diagonal_scan(
    x: Tensor, log_decay: Tensor, sign: Tensor | None, state: Tensor, cu_seqlens: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    h, final = x.new_empty(x.shape), state.new_empty(state.shape)
    call("diagonal_scan_forward", x, log_decay, sign, state, cu_seqlens, h, final, len(state), state.shape[1:].numel(), reverse)
    return h, final


@_diagonal_scan.register_fake
def _(x, log_decay, sign, state, cu_seqlens, reverse):
    return x.new_empty(x.shape), state.new_empty(state.shape)


@torch.library.custom_op("visionrnn::diagonal_scan_backward", mutates_args=(), device_types="cpu")
def _diagonal_scan_backward(
    grad_h: Tensor, grad_final: Tensor, log_decay: Tensor, sign: Tensor | None, state: Tensor, h: Tensor, cu_seqlens: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x, grad_log_decay, grad_state = h.new_empty(h.shape), h.new_empty(h.shape), state.new_empty(state.shape)
    call(
        "diagonal_scan_backward", log_decay, sign, state, h, grad_h.contiguous(), grad_final.contiguous(), cu_seqlens,
        grad_x, grad_log_decay, grad_state, len(state), state.shape[1:].numel(), reverse,
    )  # fmt: skip
    return grad_x, grad_log_decay, grad_state


@_diagonal_scan_backward.register_fake
def _(grad_h, grad_final, log_decay, sign, state, h, cu_seqlens, reverse):
    return h.new_empty(h.shape), h.new_empty(h.shape), state.new_empty(state.shape)


def _setup_scan(ctx, inputs, output):
    _, log_decay, sign, state, cu_seqlens, ctx.reverse = inputs
    ctx.save_for_backward(log_decay, sign, state, output[0], cu_seqlens)


def _backward_scan(ctx, grad_h, grad_final):
    grad_x, grad_log_decay, grad_state = _diagonal_scan_backward(grad_h, grad_final, *ctx.saved_tensors, ctx.reverse)
    return grad_x, grad_log_decay, None, grad_state, None, None


_diagonal_scan.register_autograd(_backward_scan, setup_context=_setup_scan)


def complex_diagonal_scan(x: Tensor, decay: Tensor, state: Tensor, *, cu_seqlens: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """x, decay: [B, T, ...], state: [S, ...], complex → h [B, T, ...], final state. The ops see pairs (real, imaginary) of float32."""
    x, decay, state = (torch.view_as_real(value.resolve_conj()) for value in (x, decay, state))
    h, final = _complex_diagonal_scan(x, decay, state, cu_seqlens, reverse)
    return torch.view_as_complex(h), torch.view_as_complex(final)


@torch.library.custom_op("visionrnn::complex_diagonal_scan", mutates_args=(), device_types="cpu")
def _complex_diagonal_scan(x: Tensor, decay: Tensor, state: Tensor, cu_seqlens: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    h, final = x.new_empty(x.shape), state.new_empty(state.shape)
    call("complex_diagonal_scan_forward", x, decay, state, cu_seqlens, h, final, len(state), state.shape[1:-1].numel(), reverse)
    return h, final


@_complex_diagonal_scan.register_fake
def _(x, decay, state, cu_seqlens, reverse):
    return x.new_empty(x.shape), state.new_empty(state.shape)


@torch.library.custom_op("visionrnn::complex_diagonal_scan_backward", mutates_args=(), device_types="cpu")
def _complex_diagonal_scan_backward(
    grad_h: Tensor, grad_final: Tensor, decay: Tensor, state: Tensor, h: Tensor, cu_seqlens: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x, grad_decay, grad_state = h.new_empty(h.shape), h.new_empty(h.shape), state.new_empty(state.shape)
    call(
        "complex_diagonal_scan_backward", decay, state, h, grad_h.contiguous(), grad_final.contiguous(), cu_seqlens,
        grad_x, grad_decay, grad_state, len(state), state.shape[1:-1].numel(), reverse,
    )  # fmt: skip
    return grad_x, grad_decay, grad_state


@_complex_diagonal_scan_backward.register_fake
def _(grad_h, grad_final, decay, state, h, cu_seqlens, reverse):
    return h.new_empty(h.shape), h.new_empty(h.shape), state.new_empty(state.shape)


def _setup_complex(ctx, inputs, output):
    _, decay, state, cu_seqlens, ctx.reverse = inputs
    ctx.save_for_backward(decay, state, output[0], cu_seqlens)


def _backward_complex(ctx, grad_h, grad_final):
    return *_complex_diagonal_scan_backward(grad_h, grad_final, *ctx.saved_tensors, ctx.reverse), None, None


_complex_diagonal_scan.register_autograd(_backward_complex, setup_context=_setup_complex)
