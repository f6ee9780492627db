"""Launches the Triton kernels of the diagonal family, as custom ops with backward ops of their own."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from ..launch import Config, launch
from ..native import watch, watched_gradients
from ..spans import Spans
from .triton_selective_op import selective_scan

__all__ = ["diagonal_scan", "selective_scan"]

BLOCK_D = 32  # channels of a program: few, because sequences are few


def diagonal_scan(
    x: Tensor, log_decay: Tensor, sign: Tensor | None, state: Tensor, *,
    cu_seqlens: Tensor | None, index: Tensor | None, direction: int, own: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x, log_decay, sign: [B, T, ...]; state: [S, ...] → h [B, T, ...] in the type of x, final state; batches as in ``Spans``."""
    return _diagonal_scan(x, log_decay, sign, state, cu_seqlens, index, direction, own)


def _tiles(D: int) -> list[Config]:
    """Short tiles first: a scan inside a tile costs the logarithm of its length, a tile after the other only registers."""
    return [Config({"D": D, "BLOCK_T": length, "BLOCK_D": BLOCK_D}, warps=warps) for length, warps in ((32, 4), (64, 4), (32, 2), (16, 1))]


@torch.library.custom_op("visionrnn::triton_diagonal_scan", mutates_args=(), device_types=("cpu", "cuda"))
def _diagonal_scan(
    x: Tensor, log_decay: Tensor, sign: Optional[Tensor], state: Tensor, cu_seqlens: Optional[Tensor], index: Optional[Tensor],  # noqa: UP045
    direction: int, own: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    spans, D = Spans.of(x, cu_seqlens, index, direction, own), state.shape[1:].numel()
    h, final = x.new_empty(*spans.output(x), *x.shape[2:]), torch.empty_like(state)
    arguments = {"x": x, "log_decay": log_decay, "sign": sign, "state": state, "h": h, "final": final, **spans.arguments()}
    launch(
        "diagonal.triton_kernels.diagonal_scan_forward", lambda c: (spans.sequences, -(-D // c["BLOCK_D"])), arguments, _tiles(D),
        flops=2 * h.numel(),
    )  # fmt: skip
    return h, final


@_diagonal_scan.register_fake
def _(x, log_decay, sign, state, cu_seqlens, index, direction, own):
    spans = Spans.of(x, cu_seqlens, index, direction, own)
    return x.new_empty(*spans.output(x), *x.shape[2:]), torch.empty_like(state)


@torch.library.custom_op("visionrnn::triton_diagonal_scan_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _diagonal_scan_backward(
    grad_h: Tensor, grad_final: Tensor, log_decay: Tensor, sign: Optional[Tensor], state: Tensor, h: Tensor,  # noqa: UP045
    cu_seqlens: Optional[Tensor], index: Optional[Tensor], direction: int, own: bool,  # noqa: UP045
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    spans, D = Spans.of(log_decay, cu_seqlens, index, direction, own), state.shape[1:].numel()
    grad_x, grad_log_decay, grad_state = torch.empty_like(h), log_decay.new_empty(h.shape), torch.empty_like(state)
    arguments = {
        "log_decay": log_decay, "sign": sign, "state": state, "h": h, "grad_h": grad_h.contiguous(), "grad_final": grad_final.contiguous(),
        "grad_x": grad_x, "grad_log_decay": grad_log_decay, "grad_state": grad_state, **spans.arguments(),
    }  # fmt: skip
    launch(
        "diagonal.triton_kernels.diagonal_scan_backward", lambda c: (spans.sequences, -(-D // c["BLOCK_D"])), arguments, _tiles(D),
        flops=4 * h.numel(),
    )  # fmt: skip
    return spans.summed(grad_x), spans.summed(grad_log_decay), grad_state


@_diagonal_scan_backward.register_fake
def _(grad_h, grad_final, log_decay, sign, state, h, cu_seqlens, index, direction, own):
    return h.new_empty(log_decay.shape), torch.empty_like(log_decay), torch.empty_like(state)


def _setup(ctx, inputs, output):
    _, log_decay, sign, state, cu_seqlens, index, ctx.direction, ctx.own = inputs
    ctx.save_for_backward(log_decay, sign, state, output[0], cu_seqlens, index)
    watch(ctx, output)


def _backward(ctx, *given):
    grad_x, grad_log_decay, grad_state = _diagonal_scan_backward(*watched_gradients(ctx, given), *ctx.saved_tensors, ctx.direction, ctx.own)
    return grad_x, grad_log_decay, None, grad_state, None, None, None, None


_diagonal_scan.register_autograd(_backward, setup_context=_setup)
