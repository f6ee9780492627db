"""Stochastic depth (Huang et al. 2016) over sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visionrnn.kernels.packing import sequence_of


class DropPath(nn.Module):
    """Drops whole sequences of a residual branch [B, T, C] in training, and scales the others by 1 / (1 - rate).

    With ``cu_seqlens`` the sequences are those packed along T (B = 1); with ``index`` step p of them is row ``index[p]`` of x.
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop_path: expected a rate in [0, 1), got {rate}")
        self.rate = rate

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        if self.rate == 0 or not self.training:
            return x
        number = len(x) if cu_seqlens is None else cu_seqlens.numel() - 1
        keep = torch.rand(number, device=x.device).ge(self.rate).to(x.dtype) / (1 - self.rate)
        if cu_seqlens is None:
            return x * keep[:, None, None]
        scale = keep[sequence_of(cu_seqlens, x.shape[1])]
        if index is not None:
            scale = torch.empty_like(scale).index_copy_(0, index, scale)
        return x * scale.unsqueeze(-1)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
