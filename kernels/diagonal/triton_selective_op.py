"""Launches the Triton kernels of the selective scan, as a custom op with a backward op of its own."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from ..launch import Config, launch
from ..native import watch, watched_gradients
from ..spans import Spans

CHUNK = 64  # positions between the states that the forward keeps for the backward
WIDE_CHUNK = 128  # without a backward: each program adds up the earlier chunks, so that there should be few
WARPS = 2048  # on a GPU with about 100 multiprocessors fewer leave much of it idle: then chunks of a sequence run side by side
MODULE = "diagonal.triton_selective_"


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None,
    state: Tensor | None, *, delta_softplus: bool, cu_seqlens: Tensor | None, index: Tensor | None, direction: int, own: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """u, delta, z: [B, T, D]; A: [D, N]; B, C: [B, T, G, N]; D, delta_bias: [D]; state: [S, D, N], None for zeros
    → y [B, T, D], final state. Batches as in ``Spans``.

    One launch where sequences are many; where they are few three: each chunk's own states, those between chunks, outputs. Without
    gradients the last two are one.
    """
    inputs = (u, delta, A, B, C, D, z, delta_bias, state)
    keep = torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in inputs)
    return _selective_scan(*inputs, delta_softplus, cu_seqlens, index, direction, own, keep)[:2]


def _power_of_two(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()


def _forward_tiles(states: int, share: int) -> list[Config]:
    """A lane has a channel with all its states, up to 16: no sum needs another lane. About 64 numbers of a tile per lane, fewer where
    they are summed over lanes."""
    width = _power_of_two(states)
    NI = max(1, width // 16)
    NO, DI = width // NI, min(max(32 // NI, 1), _power_of_two(share))
    numbers = 64 if width <= 64 else 32
    lengths = [max(2, min(16, count // NO)) for count in (numbers, numbers // 2)]
    return [Config({"BLOCK_T": length, "NO": NO, "DO": 1, "NI": NI, "DI": DI}, warps=1) for length in dict.fromkeys(lengths)]


def _backward_tiles(states: int, share: int) -> list[Config]:
    """Sums go both over states and over channels: a warp has 8 states × 4 channels side by side, the next ones in the same lanes or
    in other warps; four numbers of a state per lane, so that a tile of 4 steps fits three times beside the states between tiles."""
    width = _power_of_two(states)
    NI = min(width, 8 if width <= 32 else width // 4 if width <= 128 else 32)
    NO, DI = width // NI, 32 // NI
    DO = min(max(16 // NO, 4), _power_of_two(-(-share // DI)))
    warps = max(1, min(8 if width > 32 else 4, DO * NO))
    sizes = {"BLOCK_T": 4, "NO": NO, "DO": DO, "NI": NI, "DI": DI}
    return [Config(sizes, warps=count) for count in dict.fromkeys((warps, min(2 * warps, 8)))]


class _Plan:
    """What both directions of the op share: sizes, constants and grids."""

    def __init__(self, u: Tensor, A: Tensor, B: Tensor, softplus: bool, spans: Spans, chunk: int):
        self.spans, self.D, self.groups, self.states = spans, u.shape[2], B.shape[2], A.shape[-1]
        self.share = self.D // self.groups
        self.sizes = {"D": self.D, "STATES": self.states, "CHUNK": chunk}
        self.constants = {**self.sizes, "G": self.groups, "SOFTPLUS": softplus}
        self.chunk, self.slots = chunk, spans.slots(chunk) * spans.directions
        self.elements = spans.N * spans.directions * self.D * self.states

    def kept(self, like: Tensor) -> Tensor:
        return like.new_empty(self.slots, self.states, self.D, dtype=torch.float32)

    def blocks(self, constants: Any) -> int:
        return self.groups * -(-self.share // (constants["DO"] * constants["DI"]))

    def is_chunked(self, tiles: list[Config]) -> bool:
        """Whether chunks of a sequence run side by side."""
        warps = self.spans.sequences * self.blocks(tiles[0].constants) * tiles[0].warps
        return warps < WARPS and self.chunk * self.spans.S < self.spans.N

    def candidates(self, tiles: list[Config], **constants: Any) -> list[Config]:
        return [Config({**self.constants, **constants, **config.constants}, config.warps, 1) for config in tiles]

    def ends(self, tiles: list[Config], arguments: dict[str, Any], back: bool) -> tuple[Tensor, Tensor]:
        """What chunks alone make of zeros, and their Σ Δ."""
        ends = self.kept(arguments["u"])
        total = ends.new_empty(self.slots, self.D)
        launch(
            MODULE + "kernels.selective_scan_chunks", lambda c: (self.slots, self.blocks(c)),
            {**arguments, "ends": ends, "total": total, **self.spans.arguments()}, self.candidates(tiles, BACK=back),
            flops=5 * self.elements,
        )  # fmt: skip
        return ends, total

    def between(self, A: Tensor, state: Tensor | None, total: Tensor, ends: Tensor, final: Tensor, back: bool) -> None:
        """Turns ``ends`` into the states before chunks."""
        order = self.spans.arguments()
        del order["index"]
        arguments = {"A": A, "state": state, "total": total, "kept": ends, "final": final, **order}
        sizes = {**self.sizes, "BACK": back, "BLOCK_C": 16}
        candidates = [Config({**sizes, "BLOCK": width}, warps, 1) for width, warps in ((128, 1), (256, 2))]
        launch(
            MODULE + "kernels.selective_scan_between", lambda c: (self.spans.sequences, -(-self.states * self.D // c["BLOCK"])),
            arguments, candidates, flops=4 * ends.numel(), traffic=4 * (2 * ends.numel() + total.numel() + A.numel() + 2 * final.numel()),
        )  # fmt: skip


@torch.library.custom_op("visionrnn::triton_selective_scan", mutates_args=(), device_types=("cpu", "cuda"))
def _selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional[Tensor], z: Optional[Tensor], bias: Optional[Tensor],  # noqa: UP045
    state: Optional[Tensor], softplus: bool, cu_seqlens: Optional[Tensor], index: Optional[Tensor], direction: int, own: bool,  # noqa: UP045
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    spans = Spans.of(u, cu_seqlens, index, direction, own)
    plan = _Plan(u, A, B, softplus, spans, CHUNK if keep else WIDE_CHUNK)
    tiles = _forward_tiles(plan.states, plan.share)
    chunked, kept, total = plan.is_chunked(tiles), None, None
    y, final = u.new_empty(*spans.output(u), plan.D), A.new_empty(spans.sequences, plan.D, plan.states)
    if chunked:
        kept, total = plan.ends(tiles, {"u": u, "delta": delta, "A": A, "B": B, "z": None, "bias": bias}, False)
        if keep:
            plan.between(A, state, total, kept, final, False)
            total = None
    elif keep:
        kept = plan.kept(u)
    arguments = {
        "u": u, "delta": delta, "A": A, "B": B, "C": C, "skip": D, "z": z, "bias": bias, "state": state, "kept": kept, "total": total,
        "y": y, "final": final, **spans.arguments(),
    }  # fmt: skip
    launch(
        MODULE + "kernels.selective_scan_forward",
        lambda c: (plan.slots if chunked else spans.sequences, plan.blocks(c)), arguments, plan.candidates(tiles, CHUNKED=chunked),
        flops=7 * plan.elements,
    )  # fmt: skip
    return y, final, kept if keep and kept is not None else A.new_empty(0)


@_selective_scan.register_fake
def _(u, delta, A, B, C, D, z, bias, state, softplus, cu_seqlens, index, direction, own, keep):
    spans = Spans.of(u, cu_seqlens, index, direction, own)
    kept = (spans.slots(CHUNK) * spans.directions, A.shape[-1], u.shape[2]) if keep else (0,)
    final = A.new_empty(spans.sequences, u.shape[2], A.shape[-1])
    return u.new_empty(*spans.output(u), u.shape[2]), final, A.new_empty(kept)


@torch.library.custom_op("visionrnn::triton_selective_scan_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _selective_scan_backward(
    grad_y: Tensor, grad_final: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Optional[Tensor], z: Optional[Tensor], bias: Optional[Tensor], kept: Tensor,  # noqa: UP045
    softplus: bool, cu_seqlens: Optional[Tensor], index: Optional[Tensor], direction: int, own: bool,  # noqa: UP045
) -> list[Tensor]:  # fmt: skip
    """Gradients of u, delta, A, B, C, D, z, bias (empty for those that are not there) and of the state before."""
    spans = Spans.of(u, cu_seqlens, index, direction, own)
    plan, tiles = _Plan(u, A, B, softplus, spans, CHUNK), _backward_tiles(A.shape[-1], u.shape[2] // B.shape[2])
    grad_y, grad_final = grad_y.contiguous(), grad_final.contiguous()
    grad_u, grad_delta = torch.empty_like(grad_y), delta.new_empty(grad_y.shape)
    grad_z = None if z is None else z.new_empty(grad_y.shape)
    grad_state = torch.empty_like(grad_final)
    chunked, ahead = plan.is_chunked(tiles), None
    if chunked:
        forward = _forward_tiles(plan.states, plan.share)
        ahead, total = plan.ends(forward, {"u": grad_y, "delta": delta, "A": A, "B": C, "z": z, "bias": bias}, True)
        plan.between(A, grad_final, total, ahead, grad_state, True)
    programs = plan.slots if chunked else spans.sequences
    parts = A.new_empty(programs, plan.states + 2, plan.D)
    blocks = plan.blocks(tiles[0].constants) // plan.groups
    grad_B, grad_C = (A.new_empty(blocks, *spans.output(B), *B.shape[2:]) for _ in range(2))
    arguments = {
        "u": u, "delta": delta, "A": A, "B": B, "C": C, "skip": D, "z": z, "bias": bias, "kept": kept, "ahead": ahead,
        "grad_y": grad_y, "grad_final": grad_final, "grad_u": grad_u, "grad_delta": grad_delta, "grad_z": grad_z,
        "grad_B": grad_B, "grad_C": grad_C, "parts": parts, "grad_state": grad_state, **spans.arguments(),
    }  # fmt: skip
    launch(
        MODULE + "backward.selective_scan_backward", lambda c: (programs, plan.blocks(c)), arguments,
        plan.candidates(tiles, CHUNKED=chunked), flops=28 * plan.elements,
    )  # fmt: skip
    sums = parts.unflatten(0, (2, -1)).sum(1) if own and spans.directions == 2 else parts.sum(0)  # [..., STATES + 2, D]
    grad_A = sums[..., : plan.states, :].transpose(-1, -2).contiguous()
    optional = [sums[..., plan.states + i, :].clone() if value is not None else A.new_empty(0) for i, value in enumerate((D, bias))]
    grads = [spans.summed(grad_u), spans.summed(grad_delta), grad_A, *(spans.summed(grad.sum(0)).to(B.dtype) for grad in (grad_B, grad_C))]
    return [*grads, optional[0], A.new_empty(0) if grad_z is None else spans.summed(grad_z), optional[1], grad_state]


@_selective_scan_backward.register_fake
def _(grad_y, grad_final, u, delta, A, B, C, D, z, bias, kept, softplus, cu_seqlens, index, direction, own):
    return [A.new_empty(0) if value is None else torch.empty_like(value) for value in (u, delta, A, B, C, D, z, bias, grad_final)]


def _setup(ctx, inputs, output):
    *given, state, ctx.softplus, cu_seqlens, index, ctx.direction, ctx.own, _ = inputs
    ctx.stateful = state is not None
    ctx.save_for_backward(*given, output[2], cu_seqlens, index)
    watch(ctx, output[:2])


def _backward(ctx, *gradients):
    *given, cu_seqlens, index = ctx.saved_tensors
    grads = _selective_scan_backward(*watched_gradients(ctx, gradients), *given, ctx.softplus, cu_seqlens, index, ctx.direction, ctx.own)
    there = [value is not None for value in given[:8]] + [ctx.stateful]
    return *(grad if present else None for grad, present in zip(grads, there, strict=True)), None, None, None, None, None, None


_selective_scan.register_autograd(_backward, setup_context=_setup)
