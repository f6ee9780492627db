"""Short causal filters along time, over batched or packed sequences, with carried state: a convolution, and the step before."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visionrnn.kernels import causal_conv
from visionrnn.kernels.packing import sequence_of


class CausalConv(nn.Conv1d):
    """c_t = f(bias + Σ_j w_j ⊙ x_{t-j}) over ``taps`` steps j = 0, 1, … back (ahead with ``reverse``), channel by channel.

    f is SiLU with ``activation`` "silu", else nothing. ``weight`` is [C, 1, taps], the present step last; it starts as that of nn.Conv1d.
    The state [B, taps - 1, C] (one row per sequence with ``cu_seqlens``) holds the inputs before the first step, the latest of them
    last; zeros when absent.
    """

    def __init__(
        self, channels: int, taps: int, bias: bool = True, reverse: bool = False, activation: str | None = None, backend: str = "auto"
    ):
        super().__init__(channels, channels, taps, groups=channels, bias=bias)
        self.reverse, self.activation, self.backend = reverse, activation, backend

    def forward(  # type: ignore[override]
        self, x: Tensor, state: Tensor | None = None, cu_seqlens: Tensor | None = None, index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x: [B, T, C] → c [B, T, C] and the state after the last step; with ``index`` [B · T] step p is row ``index[p]``."""
        dtype, weight = self.weight.dtype, self.weight[:, 0].flip(-1).T  # [taps, C], the present step first
        c, after = causal_conv(
            x.to(dtype), weight, self.bias, None if state is None else state.to(dtype), activation=self.activation,
            return_final_state=True, reverse=self.reverse, cu_seqlens=cu_seqlens, index=index, backend=self.backend,
        )  # fmt: skip
        return c, after.to(dtype)


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
