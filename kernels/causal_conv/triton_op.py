"""Launches the Triton kernels of the short causal convolution, as custom ops with backward ops of their own."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from ..launch import Config, launch
from ..native import watch, watched_gradients
from ..spans import Spans

BLOCK_T = 64  # steps of a program: few enough for parallelism, enough that the sums of each over its steps are little to write
MODULE = "causal_conv.triton_kernels."


def causal_conv(
    u: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, *, activation: str | None,
    cu_seqlens: Tensor | None, index: Tensor | None, direction: int, own: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """u: [B, T, C]; weight: [taps, C], or [2, taps, C] where each direction has its own; state: [S, taps - 1, C] → out [B, T, C] in the
    type of u, final state; batches as in ``Spans``."""
    return _causal_conv(u, weight, bias, state, cu_seqlens, index, activation == "silu", direction, own)


def _run(function: str, spans: Spans, weight: Tensor, silu: bool, arguments: dict[str, Any], passes: int) -> None:
    """``passes``: how often a step's taps are multiplied."""
    taps, channels = weight.shape[-2:]
    constants = {"TAPS": taps, "C": channels, "SILU": silu, "APART": int(weight.dim() == 3), "BLOCK_T": BLOCK_T}
    # Whole lines of memory first, by so many threads that registers allow a quarter of all warps at least.
    blocks = ((64, 8), (32, 4), (64, 4), (32, 2))
    launch(
        MODULE + function, lambda c: (spans.slots(BLOCK_T) * spans.directions, -(-channels // c["BLOCK_C"])),
        {"weight": weight, **arguments, **spans.arguments()},
        [Config({**constants, "BLOCK_C": block}, warps=warps) for block, warps in blocks],
        flops=2 * taps * passes * spans.N * spans.directions * channels,
    )  # fmt: skip


@torch.library.custom_op("visionrnn::triton_causal_conv", mutates_args=(), device_types=("cpu", "cuda"))
def _causal_conv(
    u: Tensor, weight: Tensor, bias: Optional[Tensor], state: Tensor, cu_seqlens: Optional[Tensor], index: Optional[Tensor],  # noqa: UP045
    silu: bool, direction: int, own: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    spans = Spans.of(u, cu_seqlens, index, direction, own)
    out, final = u.new_empty(*spans.output(u), u.shape[2]), torch.empty_like(state) if spans.N else state.clone()
    _run("causal_conv_forward", spans, weight, silu, {"u": u, "bias": bias, "state": state, "out": out, "final": final}, 1)
    return out, final


@_causal_conv.register_fake
def _(u, weight, bias, state, cu_seqlens, index, silu, direction, own):
    spans = Spans.of(u, cu_seqlens, index, direction, own)
    return u.new_empty(*spans.output(u), u.shape[2]), torch.empty_like(state)


@torch.library.custom_op("visionrnn::triton_causal_conv_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _causal_conv_backward(
    grad_out: Tensor, grad_final: Tensor, u: Tensor, weight: Tensor, bias: Optional[Tensor], state: Tensor,  # noqa: UP045
    cu_seqlens: Optional[Tensor], index: Optional[Tensor], silu: bool, direction: int, own: bool,  # noqa: UP045
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of u, of the taps and the bias [taps + 1, C] (as ``weight``, one of each direction), and of the state."""
    spans = Spans.of(u, cu_seqlens, index, direction, own)
    taps, channels = weight.shape[-2:]
    grad_out, grad_final = grad_out.contiguous(), grad_final.contiguous()
    grad_u, grad_state = torch.empty_like(grad_out), torch.empty_like(state) if spans.N else grad_final.clone()
    sums = weight.new_empty(spans.directions, spans.slots(BLOCK_T), taps + 1, channels)
    arguments = {
        "u": u, "bias": bias, "state": state, "grad_out": grad_out, "grad_final": grad_final,
        "grad_u": grad_u, "sums": sums, "grad_state": grad_state,
    }  # fmt: skip
    _run("causal_conv_backward", spans, weight, silu, arguments, taps + 2 if silu else 2)
    return spans.summed(grad_u), sums.sum(1) if weight.dim() == 3 else sums.sum((0, 1)), grad_state


@_causal_conv_backward.register_fake
def _(grad_out, grad_final, u, weight, bias, state, cu_seqlens, index, silu, direction, own):
    return torch.empty_like(u), weight.new_empty(*weight.shape[:-2], weight.shape[-2] + 1, weight.shape[-1]), torch.empty_like(state)


def _setup(ctx, inputs, output):
    *saved, ctx.silu, ctx.direction, ctx.own = inputs
    ctx.save_for_backward(*saved)
    watch(ctx, output)


def _backward(ctx, *given):
    saved = ctx.saved_tensors
    grad_u, sums, grad_state = _causal_conv_backward(*watched_gradients(ctx, given), *saved, ctx.silu, ctx.direction, ctx.own)
    *taps, bias = sums.split([saved[1].shape[-2], 1], -2)
    return grad_u, taps[0], None if saved[2] is None else bias.squeeze(-2), grad_state, None, None, None, None, None


_causal_conv.register_autograd(_backward, setup_context=_setup)
