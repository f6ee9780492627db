"""LION's retention: causal across chunks, in both directions inside a chunk."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..packing import sequence_of
from ..recurrence import Recurrence
from .attention import gated_linear_attention


def symmetric_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    *,
    chunk_size: int = 64,
    scale: float | None = None,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Retention as LION uses it (Liu et al. 2024, after RetNet, Sun et al. 2023).

        o_t = scale · Σ_s e^{log_decay |t - s|} (q_t · k_s) v_s    over all s ≤ t, and the s > t in the same chunk as t

    Chunks of ``chunk_size`` steps begin at each sequence's first step (its last with ``reverse``). q, k: [B, T, H, K]; v: [B, T, H, V];
    log_decay: [H] ≤ 0. ``scale`` is K^-0.5 when absent. An output sees steps after it, so there are no states. Other arguments as in
    :func:`gated_linear_attention`. Returns o [B, T, H, V].
    """
    if log_decay.dim() != 1:
        raise ValueError(f"log_decay: expected [H], got {list(log_decay.shape)}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size: expected at least 1, got {chunk_size}")
    options: dict[str, Any] = dict(cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, reverse=reverse, backend=backend)
    call = Recurrence("gated_linear", "gated_linear_attention", "q", q, **options)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    past, _ = gated_linear_attention(q, k, v, log_decay, scale=scale, return_final_state=True, **options)
    q, k, v, log_decay = (value.to(call.dtype) for value in (q, k, v, log_decay))
    future = _future(q, k, v, log_decay, chunk_size, call.cu_seqlens, reverse)
    return (past + scale * future).to(past.dtype)


def _future(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, size: int, cu_seqlens: Tensor | None, reverse: bool) -> Tensor:
    """The part of later steps of the same chunk, [B, T, H, V]."""
    length = q.shape[1]
    if cu_seqlens is not None:
        slot = _slots(cu_seqlens, length, size, reverse)
        places = (length // size + cu_seqlens.numel() - 1) * size  # enough for every chunk
        q, k, v = (value.new_zeros(places, *value.shape[2:]).index_copy(0, slot, value[0]) for value in (q, k, v))
        q, k, v = (value.unflatten(0, (-1, size)) for value in (q, k, v))
        return _in_chunks(q, k, v, log_decay).flatten(0, 1).index_select(0, slot)[None]
    q, k, v = (value.flip(1) if reverse else value for value in (q, k, v))
    number = (length + size - 1) // size
    padding = (0, 0, 0, 0, 0, number * size - length)
    q, k, v = (F.pad(value, padding).unflatten(1, (number, size)) for value in (q, k, v))
    out = _in_chunks(q, k, v, log_decay).flatten(1, 2)[:, :length]
    return out.flip(1) if reverse else out


def _in_chunks(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    """q, k, v: [..., size, H, K or V], whole chunks in the order of the run."""
    q, k, v = (value.transpose(-3, -2) for value in (q, k, v))  # [..., H, size, K or V]
    steps = torch.arange(q.shape[-2], device=q.device)
    distance = (steps[None, :] - steps[:, None]).clamp(min=0)  # of the key after the query
    weight = torch.where(distance > 0, (log_decay[:, None, None] * distance).exp(), 0.0)  # [H, size, size]
    return (q @ k.transpose(-1, -2) * weight @ v).transpose(-3, -2)


def _slots(cu_seqlens: Tensor, length: int, size: int, reverse: bool) -> Tensor:
    """[N]: place of each packed step when the chunks of all sequences stand one after another, each ``size`` steps long."""
    sequence, steps = sequence_of(cu_seqlens, length), torch.arange(length, device=cu_seqlens.device)
    chunks = (cu_seqlens.diff() + size - 1) // size
    step = cu_seqlens[sequence + 1] - 1 - steps if reverse else steps - cu_seqlens[sequence]
    return (chunks.cumsum(0) - chunks)[sequence] * size + step
