"""Rotary position embedding (Su et al. 2021, RoFormer)."""

from __future__ import annotations

import torch
from torch import Tensor

from visionrnn.kernels.packing import sequence_of


def positions(x: Tensor, start: Tensor | None, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
    """Position of every step of [B, T, ...] in its sequence, [B, T], and of the step to come, [B] (one per sequence with ``cu_seqlens``).

    ``start`` [B] is the position of the first step, zero when absent.
    """
    number = len(x) if cu_seqlens is None else cu_seqlens.numel() - 1
    start = torch.zeros(number, dtype=torch.int64, device=x.device) if start is None else start
    steps = torch.arange(x.shape[1], device=x.device)
    if cu_seqlens is None:
        return start.unsqueeze(1) + steps, start + x.shape[1]
    bounds, sequence = cu_seqlens.long(), sequence_of(cu_seqlens, x.shape[1])
    return (steps + (start - bounds[:-1])[sequence]).unsqueeze(0), start + bounds.diff()


def rotate(x: Tensor, position: Tensor, theta: float = 10000.0) -> Tensor:
    """Turns channels i and i + K/2 of [B, T, H, K] by the angle position · theta^(-2i/K). position: [B, T]. An odd last channel stays."""
    half = x.shape[-1] // 2
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    frequency = theta ** (-torch.arange(half, device=x.device, dtype=wide) / max(half, 1))
    angle = (position.to(wide).unsqueeze(-1) * frequency).unsqueeze(2)  # [B, T, 1, K/2]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second, rest = x.split([half, half, x.shape[-1] - 2 * half], -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], -1)
