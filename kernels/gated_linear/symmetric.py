"""LION's retention: causal across chunks, in both directions inside a chunk."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ordered import Both, ordered
from ..recurrence import Recurrence
from .attention import gated_linear_attention

MIN_FUSED = 16  # steps: the kernels keep a state for each chunk; of shorter chunks these would outweigh everything else


@ordered("gated_linear", "gated_linear_attention", timed=("q", "k", "v"), rank=4, constants=("log_decay",))
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
    index: Tensor | None = None,
    direction: str | Both | None = None,
    merge: str = "sum",
    backend: str = "auto",
) -> Tensor:
    """Retention as LION uses it (Liu et al. 2024, after RetNet, Sun et al. 2023).

        o_t = scale · Σ_s e^{log_decay |t - s|} (q_t · k_s) v_s    over all s ≤ t, and the s > t in the same chunk as t

    Chunks of ``chunk_size`` steps begin at each sequence's first step (its last with ``reverse``). q, k: [B, T, H, K]; v: [B, T, H, V];
    log_decay: [H] ≤ 0. ``scale`` is K^-0.5 when absent. An output sees steps after it, so there are no states. Other arguments as in
    :func:`gated_linear_attention`; with inputs of their own, both directions have q, k, v [2, B, T, H, ...] and log_decay [2, H].
    Returns o [B, T, H, V].
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size: expected at least 1, got {chunk_size}")
    order: dict[str, Any] = dict(cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, reverse=reverse, index=index, direction=direction)
    call = Recurrence("gated_linear", "gated_linear_attention", "q", q, backend=backend, **order, widths=(q.shape[-1], v.shape[-1]))
    if q.dim() != 4 or v.dim() != 4:
        raise ValueError(f"q, v: expected [B, T, H, K] and [B, T, H, V], got {list(q.shape)} and {list(v.shape)}")
    if log_decay.dim() != 1 + call.own:
        raise ValueError(f"log_decay: expected [H], got {list(log_decay.shape)}")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if call.backend == "triton" and (chunk_size >= MIN_FUSED or index is not None or isinstance(direction, Both)):
        call = Recurrence("gated_linear", "symmetric_retention", "q", q, backend="triton", **order)
        for name, value in (("q", q), ("k", k), ("v", v)):
            call.timed(name, value, (q.shape[2], value.shape[-1] if name == "v" else q.shape[3]))
        call.constant("log_decay", log_decay, (q.shape[2],))
        return call.run(chunk_size=chunk_size, scale=scale)[0]
    options: dict[str, Any] = dict(scale=scale, return_final_state=True, backend=backend)
    past, _ = gated_linear_attention(q, k, v, log_decay, reverse=reverse, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, **options)
    if not past.numel():
        return past
    # Chunks as sequences of their own, run the other way; a step's own part, with no decay, is in ``past`` already.
    chunks = _chunks(call.boundaries(), q.shape[0] * q.shape[1], chunk_size, reverse)
    none = torch.zeros(q.shape[2:], dtype=call.dtype, device=q.device)
    one_decay = k.to(call.dtype) * log_decay.exp().to(call.dtype).unsqueeze(-1)
    q, k, v = (value.flatten(0, 1).unsqueeze(0) for value in (q, one_decay, v))
    future, _ = gated_linear_attention(
        q, k, v, log_decay, bonus=none, reverse=not reverse, cu_seqlens=chunks, max_seqlen=chunk_size, **options
    )
    return past + future.view(past.shape)


def _chunks(bounds: Tensor, length: int, size: int, reverse: bool) -> Tensor:
    """Boundaries of the chunks of all sequences, which lie at ``bounds`` [S + 1]; as many as there may be, the last ones empty."""
    number = (bounds.diff() + size - 1) // size  # of chunks
    chunk = torch.arange((length + (len(bounds) - 1) * (size - 1)) // size + 1, device=bounds.device)
    last = number.cumsum(0)
    sequence = torch.bucketize(chunk, last, right=True).clamp(max=len(number) - 1)
    if reverse:
        start = torch.maximum(bounds[1:][sequence] - (last[sequence] - chunk) * size, bounds[:-1][sequence])
    else:
        start = bounds[:-1][sequence] + (chunk - (last - number)[sequence]) * size
    return start.clamp(max=length)
