"""Launches the Triton kernels of LION's retention, as custom ops with a backward op of its own."""

from __future__ import annotations

from functools import reduce
from typing import Any, Optional

import torch
from torch import Tensor

from ..launch import launch
from ..native import watch
from ..spans import Spans
from .triton_mlstm_op import SINGLE_SWEEPS, SWEEPS, configs, kept_in, single_tiles

MODULE = "gated_linear.triton_symmetric_kernels"


def symmetric_retention(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *, chunk_size: int, scale: float,
    cu_seqlens: Tensor | None, index: Tensor | None, direction: int, own: bool,
) -> tuple[Tensor]:  # fmt: skip
    """q, k: [B, T, H, K]; v: [B, T, H, V]; log_decay: [H], [2, H] where ``own`` → o [B, T, H, V] in the type of q.

    Batches as in ``Spans``."""
    kind = reduce(torch.promote_types, (k.dtype, v.dtype), q.dtype)  # products of matrices take one type
    o, _ = _symmetric(q.to(kind), k.to(kind), v.to(kind), log_decay, cu_seqlens, index, direction, own, chunk_size, scale)
    return (o.to(q.dtype),)


def _constants(q: Tensor, v: Tensor, chunk: int) -> dict[str, Any]:
    return {"H": q.shape[2], "K": q.shape[3], "V": v.shape[3], "CHUNK": chunk}


def _columns(constants: Any) -> tuple[int, int]:
    """Tiles of keys and of values."""
    return -(-constants["K"] // constants["BK"]), -(-constants["V"] // constants["BV"])


def _tiles(spans: Spans, constants: Any) -> int:
    """Tiles of steps."""
    return spans.directions * spans.slots(constants["CHUNK"]) * -(-constants["CHUNK"] // constants["BT"])


@torch.library.custom_op("visionrnn::triton_symmetric_retention", mutates_args=(), device_types=("cpu", "cuda"))
def _symmetric(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, cu_seqlens: Optional[Tensor], index: Optional[Tensor], direction: int,  # noqa: UP045
    own: bool, chunk: int, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    spans = Spans.of(q, cu_seqlens, index, direction, own)
    (heads, keys), values, steps = q.shape[2:], v.shape[3], spans.N * spans.directions
    o = q.new_empty(*spans.output(q), heads, values)
    states = q.new_empty(spans.directions * spans.slots(chunk), heads, keys, values, dtype=kept_in(q))
    sweeps = configs(_constants(q, v, chunk), q.dtype, SINGLE_SWEEPS if q.dtype == torch.float32 else SWEEPS)
    outputs = configs(_constants(q, v, chunk), q.dtype, SWEEPS if q.dtype == torch.bfloat16 else single_tiles(keys, values))
    launch(
        f"{MODULE}.symmetric_states", lambda c: (spans.sequences, heads, _columns(c)[0] * _columns(c)[1]),
        {"k": k, "v": v, "log_decay": log_decay, "states": states, **spans.arguments()}, sweeps, flops=2 * steps * heads * keys * values,
    )  # fmt: skip
    launch(
        f"{MODULE}.symmetric_output", lambda c: (_tiles(spans, c), heads, _columns(c)[1]),
        {"q": q, "k": k, "v": v, "log_decay": log_decay, "states": states, "o": o, "scale": scale, **spans.arguments()}, outputs,
        flops=2 * steps * heads * (keys * values + chunk * (keys + values)),
    )  # fmt: skip
    return o, states


@_symmetric.register_fake
def _(q, k, v, log_decay, cu_seqlens, index, direction, own, chunk, scale):
    spans, heads = Spans.of(q, cu_seqlens, index, direction, own), q.shape[2]
    states = q.new_empty(spans.directions * spans.slots(chunk), heads, q.shape[3], v.shape[3], dtype=kept_in(q))
    return q.new_empty(*spans.output(q), heads, v.shape[3]), states


@torch.library.custom_op("visionrnn::triton_symmetric_retention_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _symmetric_backward(
    grad_o: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, cu_seqlens: Optional[Tensor], index: Optional[Tensor],  # noqa: UP045
    states: Tensor, direction: int, own: bool, chunk: int, scale: float, learned: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    spans = Spans.of(q, cu_seqlens, index, direction, own)
    (heads, keys), values, total, lead = q.shape[2:], v.shape[3], spans.N * spans.directions, spans.output(q)
    grad_o, grad_states = grad_o.contiguous(), torch.empty_like(states)
    grad_q, grad_k, grad_v = (value.new_empty(*lead, *value.shape[2:]) for value in (q, k, v))
    half = q.dtype == torch.bfloat16  # float16 is computed in float32 here
    sweeps = configs(_constants(q, v, chunk), q.dtype, SINGLE_SWEEPS[:1])
    single = ((16, 32, 4),) if max(keys, values) <= 64 else single_tiles(keys, values)[:1]
    inputs = configs(_constants(q, v, chunk), q.dtype, ((32, 64, 4),) if half else single)
    tiles, parts = _columns(sweeps[0].constants), _columns(inputs[0].constants)
    of_states = log_decay.new_empty(tiles[0] * tiles[1], spans.sequences, heads) if learned else None
    of_steps = log_decay.new_empty(2 * parts[0], _tiles(spans, inputs[0].constants), heads) if learned else None
    launch(
        f"{MODULE}.symmetric_backward_states", lambda c: (spans.sequences, heads, tiles[0] * tiles[1]),
        {
            "q": q, "grad_o": grad_o, "log_decay": log_decay, "states": states, "grad_states": grad_states, "grad_decay": of_states,
            "scale": scale, **spans.arguments(),
        },
        sweeps, flops=2 * total * heads * keys * values,
    )  # fmt: skip
    launch(
        f"{MODULE}.symmetric_backward_inputs", lambda c: (_tiles(spans, c), heads, 2 * parts[0] + parts[1]),
        {
            "q": q, "k": k, "v": v, "grad_o": grad_o, "log_decay": log_decay, "states": states, "grad_states": grad_states,
            "grad_q": grad_q, "grad_k": grad_k, "grad_v": grad_v, "grad_decay": of_steps, "scale": scale, **spans.arguments(),
        },
        inputs, flops=2 * total * heads * (3 * keys * values + chunk * (3 * keys + 3 * values)),
    )  # fmt: skip
    grad_decay = torch.zeros_like(log_decay)
    for found in (of_states, of_steps):
        if found is not None:
            grad_decay += found.unflatten(1, (2 if own else 1, -1)).sum((0, 2)).view(log_decay.shape)
    return spans.summed(grad_q), spans.summed(grad_k), spans.summed(grad_v), grad_decay


@_symmetric_backward.register_fake
def _(grad_o, q, k, v, log_decay, *rest):
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), torch.empty_like(log_decay)


def _setup(ctx, inputs, output):
    q, k, v, log_decay, cu_seqlens, index, ctx.direction, ctx.own, ctx.chunk, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, log_decay, cu_seqlens, index, output[1])
    watch(ctx, output[:1])


def _backward(ctx, grad_o, _):
    learned, options = ctx.needs_input_grad[3], (ctx.direction, ctx.own, ctx.chunk, ctx.scale)
    grad_q, grad_k, grad_v, grad_decay = _symmetric_backward(grad_o, *ctx.saved_tensors, *options, learned)
    return grad_q, grad_k, grad_v, grad_decay if learned else None, *(None,) * 6


_symmetric.register_autograd(_backward, setup_context=_setup)
