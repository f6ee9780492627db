"""The definition: sequence by sequence, one tap after the other."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def causal_conv(
    u: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, *, activation: str | None, cu_seqlens: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    """u: [B, T, C]; weight: [taps, C]; state: [S, taps - 1, C] → out [B, T, C], final state."""
    rows, memory = u.flatten(0, 1), state.shape[1]
    outputs, finals = [rows[:0]], [state[:0]]
    for before, (start, stop) in zip(state, pairwise(cu_seqlens.tolist()), strict=True):
        steps = rows[start:stop].flip(0) if reverse else rows[start:stop]
        wide = torch.cat([before, steps])  # [taps - 1 + T, C]
        out = torch.zeros_like(steps)
        for j, tap in enumerate(weight):
            out = out + tap * wide[memory - j : memory - j + len(steps)]
        if bias is not None:
            out = out + bias
        if activation == "silu":
            out = out * out.sigmoid()
        outputs.append(out.flip(0) if reverse else out)
        finals.append(wide[len(steps) :].unsqueeze(0))
    return torch.cat(outputs).view_as(u), torch.cat(finals)
