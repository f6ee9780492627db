"""Calls the C++ routines through opaque custom ops with a backward op of their own."""

import torch
from torch import Tensor

from ..native import call, library, watch, watched_gradients
from .native_scans import complex_diagonal_scan, diagonal_scan
from .native_softmax import prefix_softmax

__all__ = ["complex_diagonal_scan", "diagonal_scan", "prefix_softmax", "selective_scan"]

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
    watch(ctx, output[:2])


def _backward(ctx, *grads):
    *saved, cu_seqlens = ctx.saved_tensors
    return *_selective_scan_backward(*watched_gradients(ctx, grads), *saved, cu_seqlens, ctx.reverse), None, None, None


_selective_scan.register_autograd(_backward, setup_context=_setup)
