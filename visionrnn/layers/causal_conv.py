"""Short causal filters along time, over batched or packed sequences, with carried state: a convolution, and the step before."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionrnn.kernels.packing import sequence_of


class CausalConv(nn.Conv1d):
    """c_t = bias + Σ_j w_j ⊙ x_{t-j} over ``taps`` steps j = 0, 1, … back (ahead with ``reverse``), each channel and sequence for itself.

    ``weight`` is [C, 1, taps], the present step last; starting values are those of nn.Conv1d. The state [B, taps - 1, C] (one row
    per sequence with ``cu_seqlens``) holds the inputs before the first step, the latest of them last; zeros when absent.
    """

    def __init__(self, channels: int, taps: int, bias: bool = True, reverse: bool = False):
        super().__init__(channels, channels, taps, groups=channels, bias=bias)
        self.reverse, self.memory = reverse, taps - 1

    def forward(  # type: ignore[override]
        self, x: Tensor, state: Tensor | None = None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x: [B, T, C] → c [B, T, C] and the state after the last step."""
        x, length = x.to(self.weight.dtype), x.shape[1]
        if cu_seqlens is not None and state is not None:
            return self._packed_with_state(x, state, cu_seqlens.long())
        if state is None:
            wide = F.pad(x, (0, 0, 0, self.memory) if self.reverse else (0, 0, self.memory, 0))  # [B, T + memory, C]
        else:
            wide = torch.cat([x, state.to(x.dtype).flip(1)] if self.reverse else [state.to(x.dtype), x], 1)
        if cu_seqlens is not None:
            return self._filter(wide, length, sequence_of(cu_seqlens, length)), self._last_of_packed(x, cu_seqlens.long())
        return self._filter(wide, length), wide[:, : self.memory].flip(1) if self.reverse else wide[:, length:]

    def _filter(self, wide: Tensor, length: int, sequence: Tensor | None = None) -> Tensor:
        weight = self.weight[:, 0].flip(-1)  # [C, taps], tap j reaches j steps back
        padding = (0, self.memory) if self.reverse else (self.memory, 0)
        owner = None if sequence is None else F.pad(sequence, padding, value=-1)
        out = torch.zeros((), dtype=wide.dtype, device=wide.device) if self.bias is None else self.bias
        for j in range(self.memory + 1):
            start = j if self.reverse else self.memory - j
            tap = wide[:, start : start + length]
            if j == 0:
                out = torch.addcmul(out, tap, weight[:, 0])
                continue
            tap = tap * weight[:, j]
            if sequence is not None and owner is not None:
                tap = tap * owner[start : start + length].eq(sequence).to(tap.dtype).unsqueeze(-1)
            out = out + tap
        return out

    def _last_of_packed(self, x: Tensor, bounds: Tensor) -> Tensor:
        """[S, memory, C]: the last inputs of every sequence, zeros before its first."""
        if x.shape[1] == 0:
            return x.new_zeros(len(bounds) - 1, self.memory, x.shape[2])
        back = torch.arange(self.memory - 1, -1, -1, device=x.device)  # steps back from the last
        place = bounds[:-1, None] + back if self.reverse else bounds[1:, None] - 1 - back
        inside = (place >= bounds[:-1, None]) & (place < bounds[1:, None])
        return x[0, place.clamp(0, x.shape[1] - 1)] * inside.to(x.dtype).unsqueeze(-1)

    def _packed_with_state(self, x: Tensor, state: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
        """The state's rows become the first steps of their sequences."""
        number, sequence = len(bounds) - 1, sequence_of(bounds, x.shape[1])
        bounds = bounds + self.memory * torch.arange(number + 1, device=x.device)
        steps = torch.arange(x.shape[1], device=x.device) + self.memory * (sequence if self.reverse else sequence + 1)
        rows = torch.arange(self.memory, device=x.device)
        rows = (bounds[1:, None] - 1 - rows if self.reverse else bounds[:-1, None] + rows).flatten()
        wide = x.new_zeros(1, x.shape[1] + number * self.memory, x.shape[2])
        wide = wide.index_copy(1, steps, x).index_copy(1, rows, state.to(x.dtype).flatten(0, 1).unsqueeze(0))
        out, last = self(wide, None, bounds)
        return out[:, steps], last


def step_before(x: Tensor, state: Tensor | None = None, cu_seqlens: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x_{t-1} for every t of [B, T, C], and the last step [B, C] (one row per sequence with ``cu_seqlens``), the state.

    Before the first step stands the state, zeros when absent.
    """
    number = len(x) if cu_seqlens is None else cu_seqlens.numel() - 1
    state = x.new_zeros(number, x.shape[2]) if state is None else state.to(x.dtype)
    if cu_seqlens is None:
        wide = torch.cat([state.unsqueeze(1), x], 1)
        return wide[:, :-1], wide[:, -1]
    if x.shape[1] == 0:
        return x, state
    bounds, sequence = cu_seqlens.long(), sequence_of(cu_seqlens, x.shape[1])
    first = torch.arange(x.shape[1], device=x.device) == bounds[sequence]
    before = torch.where(first.unsqueeze(-1), state[sequence], x[0].roll(1, 0))
    last = torch.where((bounds.diff() > 0).unsqueeze(-1), x[0, (bounds[1:] - 1).clamp(min=0)], state)
    return before.unsqueeze(0), last
