"""Launches the Triton kernels of gated linear attention, as custom ops with backward ops of their own."""

from __future__ import annotations

from functools import partial, reduce
from math import prod
from typing import Any, Optional

import torch
from torch import Tensor

from ..launch import Config, Constants, launch, product_precision
from ..native import watch, watched_gradients
from ..spans import REVERSE, Spans
from .rotation import in_turning_frame, packed_angles
from .triton_mlstm_op import max_plus_scan, mlstm  # noqa: F401  # of the same back end
from .triton_symmetric_op import symmetric_retention  # noqa: F401


def gated_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, state: Tensor, *, bonus: Tensor | None, scale: float,
    cu_seqlens: Tensor | None, index: Tensor | None, direction: int, own: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """q, k: [B, T, H, K]; v: [B, T, H, V]; log_decay: None, [B, T, H] or [B, T, H, K]; bonus: None or [H, K]; state: [S, H, K, V]
    → o [B, T, H, V] in the type of q, final state; batches as in ``Spans``."""
    kind = reduce(torch.promote_types, (k.dtype, v.dtype), q.dtype)  # products of matrices take one type
    needed = torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in (q, k, v, log_decay, bonus, state))
    inputs = (q.to(kind), k.to(kind), v.to(kind), log_decay, bonus, state)
    o, final, _ = _gated_linear(*inputs, cu_seqlens, index, scale, direction, own, needed)
    return o.to(q.dtype), final


def _constants(q: Tensor, v: Tensor, log_decay: Tensor | None, bonus: Tensor | None) -> dict[str, Any]:
    decay = 0 if log_decay is None else log_decay.dim() - 2
    precision = "tf32" if q.dtype == torch.float16 else product_precision()  # 11 bits, as many as float16 has
    exact = log_decay is not None and log_decay.dtype == torch.bfloat16  # one part holds it
    return {
        "H": q.shape[2], "K": q.shape[3], "V": v.shape[3], "DECAY": decay, "EXCLUSIVE": bonus is not None,
        "PARTS": 3 if q.dtype == torch.float32 else 1 if exact else 2, "PRECISION": precision,
    }  # fmt: skip


def _tile(width: int, most: int) -> int:
    return min(max(16, 1 << (width - 1).bit_length()), most)


def _tiles(constants: Constants, chunk: int, half: bool, *choices: tuple[int, int, int, int]) -> list[Config]:
    """``choices``: steps, largest widths of tiles of keys and of values, warps. Rows of loops are loaded ahead only in half types, whose
    products take few registers: those of float32 are three of split numbers."""
    found: dict[tuple, Config] = {}
    for steps, keys, values, warps in choices:
        sizes = {"CHUNK": chunk, "BT": steps, "BK": _tile(constants["K"], keys), "BV": _tile(constants["V"], values)}
        config = Config({**constants, **sizes}, warps, 2 if half else 1)
        found.setdefault(config.key(), config)
    return list(found.values())


def _gradient_tiles(constants: Constants, half: bool) -> list[Config]:
    """Small tiles where a tile does more: with one decay per key, and in float32. All have the same width of keys, by which parts of the
    gradient of one decay per head are numbered."""
    if not half:
        return _tiles(constants, CHUNK, half, (16, 32, 16, 4), (16, 32, 32, 4))
    if constants["DECAY"] == 2:
        return _tiles(constants, CHUNK, half, (16, 32, 32, 4))
    return _tiles(constants, CHUNK, half, (64, 64, 64, 8), (64, 64, 32, 8))


def _parts(c: Constants) -> tuple[int, int]:
    """Tiles of keys and of values."""
    return -(-c["K"] // c["BK"]), -(-c["V"] // c["BV"])


CHUNK = 64  # steps between kept states
FEW = 128  # programs that leave most of a GPU idle


def _nothing(like: Tensor) -> Tensor:
    """In place of the gradient of an absent argument."""
    return like.new_empty(0, dtype=torch.float32)


@torch.library.custom_op("visionrnn::triton_gated_linear", mutates_args=(), device_types=("cpu", "cuda"))
def _gated_linear(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Optional[Tensor], bonus: Optional[Tensor], state: Tensor,  # noqa: UP045
    cu_seqlens: Optional[Tensor], index: Optional[Tensor], scale: float, direction: int, own: bool, keep: bool,  # noqa: UP045
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    spans, constants = Spans.of(q, cu_seqlens, index, direction, own), _constants(q, v, log_decay, bonus)
    o, final, kept = v.new_empty(*spans.output(v), *v.shape[2:]), state.new_empty(state.shape), state.new_empty(_kept_shape(spans, state))
    _launch_states(spans, constants, k, v, log_decay, state, kept, final, 1.0, backward=False)
    half = q.dtype == torch.bfloat16  # float16 is computed in float32 here
    tiles = _tiles(
        constants, CHUNK, half, *(((64, 64, 64, 8), (64, 64, 64, 4), (32, 64, 64, 4)) if half else ((32, 32, 32, 4), (16, 32, 32, 4)))
    )
    launch(
        "gated_linear.triton_kernels.outputs", lambda c: (len(kept) * (c["CHUNK"] // c["BT"]), c["H"], _parts(c)[1]),
        {"q": q, "k": k, "v": v, "log_decay": log_decay, "bonus": bonus, "kept": kept, "o": o, "scale": scale, **spans.arguments()},
        tiles, flops=2 * o.numel() * (q.shape[3] + CHUNK) + 2 * o[..., 0].numel() * CHUNK * q.shape[3],
    )  # fmt: skip
    return o, final, kept if keep else state.new_empty(0)


def _kept_shape(spans: Spans, state: Tensor) -> tuple[int, ...]:
    return spans.slots(CHUNK) * spans.directions, *state.shape[1:]


def _launch_states(
    spans: Spans, constants: Constants, x: Tensor, y: Tensor, log_decay: Tensor | None, state: Tensor, kept: Tensor, final: Tensor,
    scale: float, backward: bool,
) -> None:  # fmt: skip
    half = x.dtype != torch.float32
    choices = ((64, 64, 64, 8), (64, 64, 64, 4), (64, 16, 16, 4)) if half else ((32, 32, 32, 4), (32, 16, 16, 4))
    tiles = _tiles({**constants, "BACKWARD": backward}, CHUNK, half, *choices)
    if len(tiles) > 1 and spans.sequences * prod(_parts(tiles[0].constants)) * constants["H"] < FEW:
        tiles = [tiles[-1], *tiles[:-1]]  # few long sequences: more programs, although each row is read more often
    launch(
        "gated_linear.triton_kernels.states", lambda c: (spans.sequences, c["H"], _parts(c)[0] * _parts(c)[1]),
        {"x": x, "y": y, "log_decay": log_decay, "state": state, "kept": kept, "final": final, "scale": scale, **spans.arguments()},
        tiles,
        flops=2 * spans.N * spans.directions * state.shape[1:].numel(),
    )  # fmt: skip


@_gated_linear.register_fake
def _(q, k, v, log_decay, bonus, state, cu_seqlens, index, scale, direction, own, keep):
    spans = Spans.of(q, cu_seqlens, index, direction, own)
    kept = _kept_shape(spans, state) if keep else (0,)
    return v.new_empty(*spans.output(v), *v.shape[2:]), state.new_empty(state.shape), state.new_empty(kept)


@torch.library.custom_op("visionrnn::triton_gated_linear_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _gated_linear_backward(
    grad_o: Tensor, grad_final: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Optional[Tensor], bonus: Optional[Tensor],  # noqa: UP045
    kept: Tensor, cu_seqlens: Optional[Tensor], index: Optional[Tensor], scale: float, direction: int, own: bool,  # noqa: UP045
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    spans, constants = Spans.of(q, cu_seqlens, index, direction, own), _constants(q, v, log_decay, bonus)
    grad_o, grad_final = grad_o.contiguous(), grad_final.contiguous()
    grad_kept, grad_state = torch.empty_like(kept), grad_final.new_empty(grad_final.shape)
    _launch_states(spans, constants, q, grad_o, log_decay, grad_final, grad_kept, grad_state, scale, backward=True)
    batch = spans.output(q)
    grad_q, grad_k, grad_v = (value.new_empty(*batch, *value.shape[2:]) for value in (q, k, v))
    candidates = _gradient_tiles(constants, q.dtype == torch.bfloat16)
    parts = _parts(candidates[0].constants)[0]
    many = constants["DECAY"] == 1 and parts > 1
    grad_decay = _nothing(q) if log_decay is None else log_decay.new_empty(
        *([parts] if constants["DECAY"] == 1 else []), *batch, *log_decay.shape[2:], dtype=torch.float32 if many else log_decay.dtype
    )  # fmt: skip
    grad_bonus = _nothing(q) if bonus is None else bonus.new_empty(len(kept), *bonus.shape[-2:])
    launch(
        "gated_linear.triton_backward_kernels.gradients", lambda c: (kept.shape[0], c["H"], sum(_parts(c))),
        {
            "q": q, "k": k, "v": v, "log_decay": log_decay, "bonus": bonus, "kept": kept, "grad_kept": grad_kept, "grad_o": grad_o,
            "grad_q": grad_q, "grad_k": grad_k, "grad_v": grad_v, "grad_decay": grad_decay, "grad_bonus": grad_bonus, "scale": scale,
            **spans.arguments(),
        },
        candidates, flops=6 * grad_v.numel() * q.shape[3] + 2 * CHUNK * (3 * grad_q.numel() + 2 * grad_v.numel()),
    )  # fmt: skip
    if log_decay is not None and constants["DECAY"] == 1:
        grad_decay = grad_decay.sum(0) if many else grad_decay.squeeze(0)
    if log_decay is not None:
        grad_decay = spans.summed(grad_decay).to(log_decay.dtype)
    if bonus is not None:
        grad_bonus = grad_bonus.unflatten(0, (2, -1)).sum(1) if own else grad_bonus.sum(0)
    return spans.summed(grad_q), spans.summed(grad_k), spans.summed(grad_v), grad_decay, grad_bonus, grad_state


@_gated_linear_backward.register_fake
def _(grad_o, grad_final, q, k, v, log_decay, bonus, kept, cu_seqlens, index, scale, direction, own):
    optional = (_nothing(q) if value is None else value.new_empty(value.shape) for value in (log_decay, bonus))
    return *(value.new_empty(value.shape) for value in (q, k, v)), *optional, grad_final.new_empty(grad_final.shape)


def _setup(ctx, inputs, output):
    q, k, v, log_decay, bonus, _, cu_seqlens, index, ctx.scale, ctx.direction, ctx.own, _ = inputs
    ctx.save_for_backward(q, k, v, log_decay, bonus, output[2], cu_seqlens, index)
    watch(ctx, output[:2])


def _backward(ctx, *given):
    saved = ctx.saved_tensors
    found = _gated_linear_backward(*watched_gradients(ctx, given), *saved, ctx.scale, ctx.direction, ctx.own)
    grad_q, grad_k, grad_v, grad_decay, grad_bonus, grad_state = found
    grad_decay, grad_bonus = None if saved[3] is None else grad_decay, None if saved[4] is None else grad_bonus
    return grad_q, grad_k, grad_v, grad_decay, grad_bonus, grad_state, None, None, None, None, None, None


_gated_linear.register_autograd(_backward, setup_context=_setup)


def complex_gated_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, *, scale: float,
    cu_seqlens: Tensor | None, index: Tensor | None, direction: int, own: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As :func:`gated_linear_attention` with complex log_decay [B, T, H, K] and state [S, H, K, V]: real kernels with 2 K keys.

    In one direction, and in the order of rows: ``ordered`` turns complex inputs itself. Turned queries and keys stay in float32, and so
    does the product: rounding them once more would cost half the accuracy of half types.
    """
    boundaries = cu_seqlens if cu_seqlens is not None else torch.arange(q.shape[0] + 1, device=q.device) * q.shape[1]
    attend = partial(gated_linear_attention, bonus=None, scale=scale, cu_seqlens=cu_seqlens, index=index, direction=direction, own=own)
    angles = packed_angles(log_decay.imag, boundaries, direction == REVERSE)
    o, final = in_turning_frame(attend, q.float(), k.float(), v, log_decay, state, angles)
    return o.to(q.dtype), final
