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
    batch, length = q.shape[:2]
    if cu_seqlens is not None:
        places = _places(cu_seqlens, length, size, reverse)
        number = (length + (cu_seqlens.numel() - 1) * (size - 1)) // size  # of chunks, at most
        q, k, v = (value.new_zeros(number, size, *value.shape[2:]).index_put(places, value[0]) for value in (q, k, v))
        return _in_chunks(q, k, v, log_decay)[places][None]
    q, k, v = (value.flip(1) if reverse else value for value in (q, k, v))
    number = (length + size - 1) // size
    padding = (0, 0, 0, 0, 0, number * size - length)
    q, k, v = (F.pad(value, padding).reshape(batch * number, size, *value.shape[2:]) for value in (q, k, v))
    out = _in_chunks(q, k, v, log_decay).unflatten(0, (batch, number)).flatten(1, 2)[:, :length]
    return out.flip(1) if reverse else out


def _in_chunks(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    """q, k, v: [chunks, size, H, K or V], in the order of the run. Head by head: nothing is copied, any number exports."""
    steps = torch.arange(q.shape[1], device=q.device)
    distance = (steps[None, :] - steps[:, None]).clamp(min=0)  # of the key after the query
    weights = torch.where(distance > 0, (log_decay[:, None, None] * distance).exp(), 0.0)  # [H, size, size]
    heads = zip(q.unbind(2), k.unbind(2), v.unbind(2), weights.unbind(0), strict=True)
    return torch.stack([torch.bmm(torch.bmm(q_h, k_h.transpose(1, 2)) * weight, v_h) for q_h, k_h, v_h, weight in heads], 2)


def _places(cu_seqlens: Tensor, length: int, size: int, reverse: bool) -> tuple[Tensor, Tensor]:
    """Chunk and place in it, both [N], of each packed step when the chunks of all sequences are numbered through."""
    sequence, steps = sequence_of(cu_seqlens, length), torch.arange(length, device=cu_seqlens.device)
    chunks = (cu_seqlens.diff() + size - 1) // size
    step = cu_seqlens[sequence + 1] - 1 - steps if reverse else steps - cu_seqlens[sequence]
    return (chunks.cumsum(0) - chunks)[sequence] + step // size, step % size
