"""Launches the Triton kernels of the nonlinear family, as custom ops with a backward op of their own."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from ..launch import Config, launch, product_precision
from ..native import watch, watched_gradients
from ..spans import Spans
from .cells import CELLS

# Of the matrices of a head, for them to stay in a program of the kernels over time: in float32 and in half types. Three products of
# float32 want them twice, in two parts; 48 KiB leave room on every GPU.
RESIDENT_BYTES = (16 << 10, 48 << 10)
# Of tiles of R where it does not stay: forward, those of all matrices; backward, one, smaller where registers are scarcest.
STAGE_BYTES, STAGE_BYTES_BACKWARD, STAGE_BYTES_WIDE = 32 << 10, 16 << 10, 8 << 10
PART_ROWS = 256  # rows of a part of the sums over all rows, at least
PROGRAMS = 256  # of the kernel that forms these sums, at most, if its matrices are not more


def nonlinear_rnn(
    x: Tensor, R: Tensor, bias: Tensor | None, valid: None, state: Tensor, *, cell: str, normalizer_floor: bool,
    cu_seqlens: Tensor | None, index: Tensor | None, direction: int, own: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x: [B, T, G, H, D]; R: [G, H, D_out, D_in]; bias: [G, H, D]; state: [S, states, H, D] → y [B, T, H, D] in the type of x, final
    state; batches, and constants of each direction's own, as in ``Spans``."""
    keep = torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in (x, R, bias, state))
    name = "slstm_floor" if cell == "slstm" and normalizer_floor else cell
    return _nonlinear_rnn(x, R, bias, state, cu_seqlens, index, name, direction, own, keep)[:2]


def _constants(cell: str, x: Tensor) -> dict[str, Any]:
    kind = CELLS[cell.removesuffix("_floor")]
    return {
        "CELL": cell, "MATRICES": kind.matrices, "BIASES": kind.biases, "STATES": len(kind.states), "H": x.shape[3], "D": x.shape[4],
        "PRECISION": product_precision(),
    }  # fmt: skip


def _block(width: int) -> int:
    return max(16, 1 << (width - 1).bit_length())


def _over_time(constants: dict[str, Any], like: Tensor, together: int, stage: int) -> list[Config]:
    """Eight sequences in a program: more programs, fewer registers, and as few idle columns as tensor cores allow where sequences are
    few; sixteen, the other candidate, halve how often R is read.

    R is resident where it is small; else ``together`` of its matrices are read in tiles that make up a ``stage`` of bytes.
    """
    block, half = _block(constants["D"]), like.element_size() == 2
    column = block * like.element_size()
    tile = block
    if constants["MATRICES"] * block * column > RESIDENT_BYTES[half]:
        fitting = stage // (together * column)
        tile = max(16 if half else 8, min(64, block // 2, 1 << fitting.bit_length() - 1))
    shared = {**constants, "BLOCK_D": block, "TILE": tile, "PREFETCH": block < 256}
    found = [Config({**shared, "BLOCK_S": 8}, warps=4 if block <= 64 else 8)]
    return [*found, Config({**shared, "BLOCK_S": 16}, warps=8)] if half and block == 64 else found


def _is_resident(configs: list[Config]) -> bool:
    return configs[0].constants["TILE"] == configs[0].constants["BLOCK_D"]


@torch.library.custom_op("visionrnn::triton_nonlinear_rnn", mutates_args=(), device_types=("cpu", "cuda"))
def _nonlinear_rnn(
    x: Tensor, R: Tensor, bias: Optional[Tensor], state: Tensor, cu_seqlens: Optional[Tensor], index: Optional[Tensor],  # noqa: UP045
    cell: str, direction: int, own: bool, keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    spans, constants = Spans.of(x, cu_seqlens, index, direction, own), _constants(cell, x)
    y, final = x.new_empty(*spans.output(x), *x.shape[3:]), torch.empty_like(state)
    before = state.new_empty(_kept_shape(x, state, spans, keep))
    configs = _over_time(constants, x, constants["MATRICES"], STAGE_BYTES)
    resident = _is_resident(configs)
    arguments = {
        "x": x, "R": R if resident else R.to(x.dtype), "bias": bias, "state": state, "y": y, "before": before if before.dim() > 1 else None,
        "final": final, "exchange": None if resident else x.new_empty(2, spans.sequences, *x.shape[3:]), **spans.arguments(),
    }  # fmt: skip
    launch(
        "nonlinear.triton_kernels.nonlinear_rnn_forward", _grid(spans, x), arguments, configs,
        flops=y.numel() * (2 * constants["MATRICES"] * x.shape[4] + 20),
    )  # fmt: skip
    return y, final, before


def _grid(spans: Spans, x: Tensor):
    return lambda c: (-(-spans.S // c["BLOCK_S"]) * spans.directions, x.shape[3])


def _kept_shape(x: Tensor, state: Tensor, spans: Spans, keep: bool) -> tuple[int, ...]:
    """Of the states beside y before each step."""
    return (*spans.output(x), state.shape[1] - 1, *state.shape[2:]) if keep and state.shape[1] > 1 else (0,)


@_nonlinear_rnn.register_fake
def _(x, R, bias, state, cu_seqlens, index, cell, direction, own, keep):
    spans = Spans.of(x, cu_seqlens, index, direction, own)
    return x.new_empty(*spans.output(x), *x.shape[3:]), torch.empty_like(state), state.new_empty(_kept_shape(x, state, spans, keep))


@torch.library.custom_op("visionrnn::triton_nonlinear_rnn_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _nonlinear_rnn_backward(
    grad_y: Tensor, grad_final: Tensor, x: Tensor, R: Tensor, bias: Optional[Tensor], state: Tensor, y: Tensor,  # noqa: UP045
    before: Tensor, cu_seqlens: Optional[Tensor], index: Optional[Tensor], cell: str, direction: int, own: bool,  # noqa: UP045
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    spans, constants = Spans.of(x, cu_seqlens, index, direction, own), _constants(cell, x)
    heads, width, matrices = x.shape[3], x.shape[4], constants["MATRICES"]
    R = R.to(x.dtype)
    gates = x.new_empty(*spans.output(x), *x.shape[2:])  # then their gradients
    inner = torch.empty_like(y) if cell == "gru" else None
    earlier, grad_state = torch.empty_like(y), torch.empty_like(state)
    whole = {**constants, "BLOCK_T": 64, "BLOCK_D": min(64, _block(width)), "TILE": min(32, _block(width))}
    launch(
        "nonlinear.triton_parallel_kernels.nonlinear_rnn_gates",
        lambda c: (-(-spans.N // c["BLOCK_T"]), heads, spans.directions * constants["BIASES"] * -(-width // c["BLOCK_D"])),
        {
            "x": x, "R": R, "bias": bias, "state": state, "y": y, "gates": gates, "inner": inner, "earlier": earlier, **spans.arguments()
        },
        [Config(whole), Config({**whole, "BLOCK_T": 128}, warps=8)],
        flops=2 * y.numel() * matrices * width,
    )  # fmt: skip
    scarce = width > 128 if x.element_size() == 4 else cell == "gru" and width <= 128
    stage = STAGE_BYTES_WIDE if scarce else STAGE_BYTES_BACKWARD
    launch(
        "nonlinear.triton_kernels.nonlinear_rnn_backward",
        _grid(spans, x),
        {
            "R": R, "gates": gates, "inner": inner, "earlier": earlier, "before": before if before.dim() > 1 else None,
            "grad_y": grad_y.contiguous(), "grad_final": grad_final.contiguous(), "grad_state": grad_state, **spans.arguments(),
        },
        _over_time({name: value for name, value in constants.items() if name != "BIASES"}, x, 1, stage),
        flops=y.numel() * (2 * matrices * width + 40),
    )  # fmt: skip
    grad_R, grad_bias = _matrix_gradients(gates, inner, earlier, R, bias, constants, spans)
    return spans.summed(gates), grad_R, grad_bias, grad_state


def _matrix_gradients(
    gates: Tensor, inner: Tensor | None, earlier: Tensor, R: Tensor, bias: Tensor | None, constants: dict[str, Any], spans: Spans
) -> tuple[Tensor, Tensor]:
    """Sums over the rows in parts, whose number follows from the shapes, and then over the parts: the same bits every time."""
    heads, width = earlier.shape[2:]
    turned = 2 if spans.own else 1
    rows = spans.N * spans.directions // turned
    block = min(64, _block(width))
    tiles = (-(-width // block)) ** 2
    programs = tiles * heads * turned * constants["MATRICES"]
    parts = max(1, min(-(-rows // PART_ROWS), PROGRAMS // programs))
    partial_R = gates.new_empty(parts, *R.shape, dtype=torch.float32)
    partial_bias = None if bias is None else bias.new_empty(parts, *bias.shape)
    matrix_constants = {name: value for name, value in constants.items() if name != "STATES"}
    whole = {**matrix_constants, "BLOCK_T": 64 if gates.element_size() == 2 else max(16, block // 2), "BLOCK_D": block}
    launch(
        "nonlinear.triton_parallel_kernels.nonlinear_rnn_matrix_gradient",
        lambda c: (parts * tiles, heads, turned * constants["BIASES"]),
        {"gates": gates, "inner": inner, "earlier": earlier, "grad_R": partial_R, "grad_bias": partial_bias, "N": rows},
        [Config(whole), Config(whole, warps=8)],
        flops=2 * earlier.numel() * constants["MATRICES"] * width,
    )  # fmt: skip
    return partial_R.sum(0), earlier.new_empty(0) if partial_bias is None else partial_bias.sum(0)


@_nonlinear_rnn_backward.register_fake
def _(grad_y, grad_final, x, R, bias, state, y, before, cu_seqlens, index, cell, direction, own):
    return torch.empty_like(x), torch.empty_like(R), x.new_empty(0) if bias is None else torch.empty_like(bias), torch.empty_like(state)


def _setup(ctx, inputs, output):
    x, R, bias, state, cu_seqlens, index, ctx.cell, ctx.direction, ctx.own, _ = inputs
    y, _, before = output
    ctx.save_for_backward(x, R, bias, state, y, before, cu_seqlens, index)
    watch(ctx, output[:2])


def _backward(ctx, *given):
    saved = ctx.saved_tensors
    grad_x, grad_R, grad_bias, grad_state = _nonlinear_rnn_backward(
        *watched_gradients(ctx, given), *saved, ctx.cell, ctx.direction, ctx.own
    )
    return grad_x, grad_R, None if saved[2] is None else grad_bias, grad_state, *[None] * 6


_nonlinear_rnn.register_autograd(_backward, setup_context=_setup)
