"""The specification: one step at a time, in any floating-point type."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat

import torch
from torch import Tensor


def gated_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, state: Tensor, *, bonus: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """q, k: [B, T, H, K]; v: [B, T, H, V]; log_decay: None, [B, T, H] or [B, T, H, K]; state: [B, H, K, V]; bonus: None or [H, K]
    → o [B, T, H, V], final state."""
    decays: Iterable[Tensor | None] = repeat(None, q.shape[1])
    if log_decay is not None:
        decays = (log_decay[..., None] if log_decay.dim() == 3 else log_decay).exp().unbind(1)  # each [B, H, K or 1]
    outputs = []
    for q_t, k_t, v_t, decay_t in zip(q.unbind(1), k.unbind(1), v.unbind(1), decays, strict=True):
        update = k_t[..., None] * v_t[..., None, :]  # [B, H, K, V]
        before = state
        state = (before if decay_t is None else decay_t[..., None] * before) + update
        seen = state if bonus is None else before + bonus[..., None] * update
        outputs.append(scale * (q_t[..., None] * seen).sum(-2))
    return (torch.stack(outputs, 1) if outputs else v.clone()), state.clone()


def complex_gated_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, *, scale: float
) -> tuple[Tensor, Tensor]:
    """q, k: [B, T, H, K], real; v: [B, T, H, V], real; log_decay: complex [B, T, H, K]; state: complex [B, H, K, V]
    → o [B, T, H, V], real, and the final state."""
    outputs = []
    for q_t, k_t, v_t, log_decay_t in zip(q.unbind(1), k.unbind(1), v.unbind(1), log_decay.unbind(1), strict=True):
        state = log_decay_t.exp()[..., None] * state + k_t[..., None] * v_t[..., None, :]
        outputs.append(scale * (q_t[..., None] * state.real).sum(-2))
    return (torch.stack(outputs, 1) if outputs else v.clone()), state.clone()


def max_plus_scan(x: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """m_t = max(log_decay_t + m_{t-1}, x_t). x, log_decay: [B, T, H]; state: [B, H] → m [B, T, H], final state."""
    outputs = []
    for x_t, log_decay_t in zip(x.unbind(1), log_decay.unbind(1), strict=True):
        state = torch.maximum(log_decay_t + state, x_t)
        outputs.append(state)
    return (torch.stack(outputs, 1) if outputs else x.clone()), state.clone()
