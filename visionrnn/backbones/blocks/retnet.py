"""LION's RetNet block: retention that looks both ways inside chunks of 64, and a feed-forward layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from visionrnn.backbones.blocks.residual import Place
from visionrnn.kernels import symmetric_retention
from visionrnn.kernels.dispatch import on_triton
from visionrnn.kernels.recurrence import MAX_WIDTH
from visionrnn.layers.drop_path import DropPath
from visionrnn.layers.heads import head_width
from visionrnn.layers.linear import Linear
from visionrnn.registry import BLOCKS

CHUNK = 64  # part of the definition: steps of one chunk see each other, not only the earlier ones
EPS = 1e-6


@BLOCKS.register("retnet")
class RetNetBlock(nn.Module):
    """x ← x + W_o retention(LN x) ;  x ← x + W₂ GELU(W₁ LN x).  [B, T, C] → [B, T, C].

    Options: ``expand_v`` width of all values and ``hidden_rate`` width of the feed-forward layer, both in units of C.
    Source: LION (Liu et al. 2024), after RetNet (Sun et al. 2023).
    """

    def __init__(
        self,
        dim: int,
        place: Place | None = None,
        drop_path: float = 0.0,
        num_heads: int = 4,
        expand_v: int = 2,
        hidden_rate: int = 4,
        backend: str = "auto",
    ):
        super().__init__()
        self.retention_norm, self.feed_forward_norm = nn.LayerNorm(dim, eps=EPS), nn.LayerNorm(dim, eps=EPS)
        self.retention = SymmetricRetention(dim, num_heads, expand_v, backend)
        self.feed_forward = nn.Sequential(Linear(dim, hidden_rate * dim), nn.GELU(), Linear(hidden_rate * dim, dim))
        self.drop_path = DropPath(drop_path)

    def scans_rows(self, x: Tensor) -> bool:
        """Whether the block takes rows in any order, and an index."""
        fits = self.retention.v_proj.out_features // self.retention.num_heads <= MAX_WIDTH
        return fits and on_triton(self.retention.backend, x.dtype, x.device.type, ("gated_linear", "symmetric_retention"))

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None, index: Tensor | None = None) -> Tensor:
        x = x + self.drop_path(self.retention(self.retention_norm(x), cu_seqlens, max_seqlen, index), cu_seqlens, index)
        return x + self.drop_path(self.feed_forward(self.feed_forward_norm(x)), cu_seqlens, index)


class SymmetricRetention(nn.Module):
    """Retention without rotation, norm and gate; γ_h = 1 - 2^{-5-h} (equations in the kernel).  [B, T, C] → [B, T, C]."""

    log_decay: Tensor

    def __init__(self, dim: int, num_heads: int, expand_v: int, backend: str):
        super().__init__()
        head_width(dim, num_heads)
        self.num_heads, self.backend = num_heads, backend
        self.q_proj, self.k_proj = Linear(dim, dim, bias=False), Linear(dim, dim, bias=False)
        self.v_proj, self.out_proj = Linear(dim, expand_v * dim, bias=False), Linear(expand_v * dim, dim, bias=False)
        for linear in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.xavier_uniform_(linear.weight, gain=2**-2.5)
        log_decay = torch.log1p(-(2.0 ** -(5.0 + torch.arange(num_heads, dtype=torch.float64))))
        self.register_buffer("log_decay", log_decay.to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None, max_seqlen: int | None, index: Tensor | None = None) -> Tensor:
        q, k, v = (project(x).unflatten(-1, (self.num_heads, -1)) for project in (self.q_proj, self.k_proj, self.v_proj))
        how: dict[str, Any] = dict(chunk_size=CHUNK, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, index=index, backend=self.backend)
        return self.out_proj(symmetric_retention(q, k, v, self.log_decay, **how).flatten(2))
