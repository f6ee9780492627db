"""The specification: one step at a time, in any floating-point type."""

from __future__ import annotations

import torch
from torch import Tensor


def diagonal_scan(x: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """x, log_decay: [B, T, D]; state: [B, D] → h [B, T, D], final state."""
    outputs = []
    for x_t, log_decay_t in zip(x.unbind(1), log_decay.unbind(1), strict=True):
        state = log_decay_t.exp() * state + x_t
        outputs.append(state)
    return (torch.stack(outputs, 1) if outputs else x.clone()), state.clone()


def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """u, delta: [B, T, D]; A: [D, N]; B, C: [B, T, G, N]; state: [B, D, N] → y [B, T, D], final state."""
    share = u.shape[2] // B.shape[2]
    outputs = []
    for u_t, delta_t, B_t, C_t in zip(u.unbind(1), delta.unbind(1), B.unbind(1), C.unbind(1), strict=True):
        B_t, C_t = B_t.repeat_interleave(share, 1), C_t.repeat_interleave(share, 1)  # [B, D, N]
        state = (delta_t[..., None] * A).exp() * state + (delta_t * u_t)[..., None] * B_t
        outputs.append((state * C_t).sum(-1))
    return (torch.stack(outputs, 1) if outputs else u.clone()), state.clone()
