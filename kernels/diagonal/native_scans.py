"""The C++ diagonal scans, real and complex, as custom ops."""

import torch
from torch import Tensor

from ..native import call


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
