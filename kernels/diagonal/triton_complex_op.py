"""Launches the Triton kernels of the complex diagonal scan, as a custom op with a backward op of its own."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from ..native import watch, watched_gradients
from ..spans import Spans
from .triton_plan import Plan

MODULE = "diagonal.triton_complex_kernels.complex_diagonal_scan"


def complex_diagonal_scan(
    x: Tensor, decay: Tensor, state: Tensor, *, cu_seqlens: Tensor | None, index: Tensor | None, direction: int, own: bool
) -> tuple[Tensor, Tensor]:
    """x, decay: [B, T, ...], state: [S, ...], complex → h [B, T, ...], final state. The ops see pairs (real, imaginary) of float32."""
    x, decay, state = (torch.view_as_real(value.resolve_conj()) for value in (x, decay, state))
    h, final = _complex_diagonal_scan(x, decay, state, cu_seqlens, index, direction, own)
    return torch.view_as_complex(h), torch.view_as_complex(final)


@torch.library.custom_op("visionrnn::triton_complex_diagonal_scan", mutates_args=(), device_types=("cpu", "cuda"))
def _complex_diagonal_scan(
    x: Tensor, decay: Tensor, state: Tensor, cu_seqlens: Optional[Tensor], index: Optional[Tensor], direction: int, own: bool,  # noqa: UP045
) -> tuple[Tensor, Tensor]:  # fmt: skip
    spans = Spans.of(x, cu_seqlens, index, direction, own)
    plan, kept = Plan(spans, state, MODULE, 2), None
    h, final = x.new_empty(*spans.output(x), *x.shape[2:]), torch.empty_like(state)
    if plan.chunked:
        kept = plan.before(state, {"x": x, "decay": decay}, final, False)
    arguments = {"x": x, "decay": decay, "state": state, "kept": kept, "h": h, "final": final}
    plan.run("forward", arguments, 1, plan.chunked, CHUNKED=plan.chunked)
    return h, final


@_complex_diagonal_scan.register_fake
def _(x, decay, state, cu_seqlens, index, direction, own):
    spans = Spans.of(x, cu_seqlens, index, direction, own)
    return x.new_empty(*spans.output(x), *x.shape[2:]), torch.empty_like(state)


@torch.library.custom_op("visionrnn::triton_complex_diagonal_scan_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _complex_diagonal_scan_backward(
    grad_h: Tensor, grad_final: Tensor, decay: Tensor, state: Tensor, h: Tensor, cu_seqlens: Optional[Tensor],  # noqa: UP045
    index: Optional[Tensor], direction: int, own: bool,  # noqa: UP045
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    spans = Spans.of(decay, cu_seqlens, index, direction, own)
    grad_h, grad_final, ahead = grad_h.contiguous(), grad_final.contiguous(), None
    plan = Plan(spans, state, MODULE, 2)
    grad_x, grad_decay, grad_state = torch.empty_like(h), torch.empty_like(h), torch.empty_like(state)
    if plan.chunked:
        ahead = plan.before(grad_final, {"x": grad_h, "decay": decay}, grad_state, True)
    arguments = {
        "decay": decay, "state": state, "h": h, "ahead": ahead, "grad_h": grad_h, "grad_final": grad_final,
        "grad_x": grad_x, "grad_decay": grad_decay, "grad_state": grad_state,
    }  # fmt: skip
    plan.run("backward", arguments, 2, plan.chunked, CHUNKED=plan.chunked)
    return spans.summed(grad_x), spans.summed(grad_decay), grad_state


@_complex_diagonal_scan_backward.register_fake
def _(grad_h, grad_final, decay, state, h, cu_seqlens, index, direction, own):
    return torch.empty_like(decay), torch.empty_like(decay), torch.empty_like(state)


def _setup(ctx, inputs, output):
    _, decay, state, cu_seqlens, index, ctx.direction, ctx.own = inputs
    ctx.save_for_backward(decay, state, output[0], cu_seqlens, index)
    watch(ctx, output)


def _backward(ctx, *given):
    gradients = _complex_diagonal_scan_backward(*watched_gradients(ctx, given), *ctx.saved_tensors, ctx.direction, ctx.own)
    return *gradients, None, None, None, None


_complex_diagonal_scan.register_autograd(_backward, setup_context=_setup)
