"""A multiplication and an addition per tap over whole tensors: plain PyTorch, any device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..packing import sequence_of


def causal_conv(
    u: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, *, activation: str | None, cu_seqlens: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    """u: [B, T, C]; weight: [taps, C]; state: [S, taps - 1, C] → out [B, T, C], final state."""
    packed = len(state) != len(u)
    if reverse:
        u = u.flip(1)
    if reverse and packed:
        state, cu_seqlens = state.flip(0), u.shape[1] - cu_seqlens.flip(0)
    if packed:
        out, final = _packed(u, weight, bias, state, cu_seqlens)
    else:
        wide = torch.cat([state, u], 1)
        out, final = _filter(wide, weight, bias), wide[:, u.shape[1] :]
    if activation == "silu":
        out = F.silu(out)
    return out.flip(1) if reverse else out, final.flip(0) if reverse and packed else final


def _filter(wide: Tensor, weight: Tensor, bias: Tensor | None, owner: Tensor | None = None) -> Tensor:
    """[B, memory + T, C] → [B, T, C]. ``owner`` [memory + T]: taps that reach a step of another one give nothing."""
    memory = len(weight) - 1
    length = wide.shape[1] - memory
    out = wide.new_zeros(()) if bias is None else bias
    for j, tap in enumerate(weight):
        start = memory - j
        steps = wide[:, start : start + length]
        if owner is not None and j:
            steps = steps * owner[start : start + length].eq(owner[memory:]).to(steps.dtype).unsqueeze(-1)
        out = torch.addcmul(out, steps, tap)
    return out


def _packed(u: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """u: [1, N, C]. What the states add to the first steps of their sequences comes on top."""
    memory, length = state.shape[1], u.shape[1]
    if length == 0 or memory == 0:
        return _filter(F.pad(u, (0, 0, memory, 0)), weight, bias), state.clone()
    out = _filter(F.pad(u, (0, 0, memory, 0)), weight, bias, F.pad(sequence_of(bounds, length), (memory, 0), value=-1))
    rows = torch.arange(memory, device=u.device)
    place, lengths = bounds[:-1, None] + rows, bounds.diff()[:, None]  # of the first steps, [S, memory]
    first = _filter(F.pad(state, (0, 0, 0, memory)), weight, None) * (rows < lengths).to(u.dtype).unsqueeze(-1)
    out = out.index_add(1, place.clamp(max=length - 1).flatten(), first.flatten(0, 1).unsqueeze(0))
    last = rows + lengths - memory  # number of each of the last steps; those of the state are negative
    sequence = torch.arange(len(state), device=u.device)[:, None]
    final = torch.where(
        (last < 0).unsqueeze(-1), state[sequence, (last + memory).clamp(max=memory - 1)], u[0, (bounds[:-1, None] + last).clamp(min=0)]
    )
    return out, final
