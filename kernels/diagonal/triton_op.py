"""Launches the Triton kernels of the diagonal family, as custom ops with backward ops of their own; here the real diagonal scan."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from ..native import watch, watched_gradients
from ..spans import Spans
from .triton_complex_op import complex_diagonal_scan
from .triton_plan import CHUNK, Plan
from .triton_selective_op import selective_scan

__all__ = ["complex_diagonal_scan", "diagonal_scan", "selective_scan"]

MODULE = "diagonal.triton_kernels.diagonal_scan"


def diagonal_scan(
    x: Tensor, log_decay: Tensor, sign: Tensor | None, state: Tensor, *,
    cu_seqlens: Tensor | None, index: Tensor | None, direction: int, own: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x, log_decay, sign: [B, T, ...]; state: [S, ...] → h [B, T, ...] in the type of x, final state; batches as in ``Spans``.

    One launch where sequences are many; where they are few three: each chunk's own state, those between chunks, outputs.
    """
    keep = torch.is_grad_enabled() and any(value.requires_grad for value in (x, log_decay, state))
    return _diagonal_scan(x, log_decay, sign, state, cu_seqlens, index, direction, own, keep)[:2]


@torch.library.custom_op("visionrnn::triton_diagonal_scan", mutates_args=(), device_types=("cpu", "cuda"))
def _diagonal_scan(
    x: Tensor, log_decay: Tensor, sign: Optional[Tensor], state: Tensor, cu_seqlens: Optional[Tensor], index: Optional[Tensor],  # noqa: UP045
    direction: int, own: bool, keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    spans = Spans.of(x, cu_seqlens, index, direction, own)
    plan, kept = Plan(spans, state, MODULE), None
    h, final = x.new_empty(*spans.output(x), *x.shape[2:]), torch.empty_like(state)
    if plan.chunked:
        kept = plan.before(state, {"x": x, "log_decay": log_decay, "sign": sign}, final, False)
    elif keep:
        kept = plan.kept(state)
    arguments = {"x": x, "log_decay": log_decay, "sign": sign, "state": state, "kept": kept, "h": h, "final": final}
    plan.run("forward", arguments, 1, plan.chunked, CHUNKED=plan.chunked)
    return h, final, kept if keep and kept is not None else state.new_empty(0)


@_diagonal_scan.register_fake
def _(x, log_decay, sign, state, cu_seqlens, index, direction, own, keep):
    spans = Spans.of(x, cu_seqlens, index, direction, own)
    kept = (spans.slots(CHUNK) * spans.directions, *state.shape[1:]) if keep else (0,)
    return x.new_empty(*spans.output(x), *x.shape[2:]), torch.empty_like(state), state.new_empty(kept)


@torch.library.custom_op("visionrnn::triton_diagonal_scan_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _diagonal_scan_backward(
    grad_h: Tensor, grad_final: Tensor, x: Tensor, log_decay: Tensor, sign: Optional[Tensor], kept: Tensor,  # noqa: UP045
    cu_seqlens: Optional[Tensor], index: Optional[Tensor], direction: int, own: bool,  # noqa: UP045
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    spans = Spans.of(x, cu_seqlens, index, direction, own)
    grad_h, grad_final, ahead = grad_h.contiguous(), grad_final.contiguous(), None
    plan = Plan(spans, grad_final, MODULE)
    grad_x, grad_log_decay, grad_state = torch.empty_like(grad_h), log_decay.new_empty(grad_h.shape), torch.empty_like(grad_final)
    if plan.chunked:
        ahead = plan.before(grad_final, {"x": grad_h, "log_decay": log_decay, "sign": sign}, grad_state, True)
    arguments = {
        "x": x, "log_decay": log_decay, "sign": sign, "kept": kept, "ahead": ahead, "grad_h": grad_h, "grad_final": grad_final,
        "grad_x": grad_x, "grad_log_decay": grad_log_decay, "grad_state": grad_state,
    }  # fmt: skip
    plan.run("backward", arguments, 4, plan.chunked, CHUNKED=plan.chunked)
    return spans.summed(grad_x), spans.summed(grad_log_decay), grad_state


@_diagonal_scan_backward.register_fake
def _(grad_h, grad_final, x, log_decay, sign, kept, cu_seqlens, index, direction, own):
    return torch.empty_like(x), torch.empty_like(log_decay), torch.empty_like(grad_final)


def _setup(ctx, inputs, output):
    x, log_decay, sign, _, cu_seqlens, index, ctx.direction, ctx.own, _ = inputs
    ctx.save_for_backward(x, log_decay, sign, output[2], cu_seqlens, index)
    watch(ctx, output[:2])


def _backward(ctx, *given):
    grad_x, grad_log_decay, grad_state = _diagonal_scan_backward(*watched_gradients(ctx, given), *ctx.saved_tensors, ctx.direction, ctx.own)
    return grad_x, grad_log_decay, None, grad_state, None, None, None, None, None


_diagonal_scan.register_autograd(_backward, setup_context=_setup)
