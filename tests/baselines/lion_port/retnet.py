"""RetNet (Sun et al. 2023) in LION's form: inside a chunk of 64 steps a step sees both sides, across chunks only the past."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK = 64


class Retention(nn.Module):
    """o_t = K^-1/2 Σ_s M_ts (q_t · k_s) v_s with the whole matrix M [H, T, T]."""

    def __init__(self, dim: int, num_heads: int, expand_v: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.v_proj, self.o_proj = nn.Linear(dim, expand_v * dim, bias=False), nn.Linear(expand_v * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (proj(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj))
        weights = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5 * self.decays(x)
        return self.o_proj((weights @ v).transpose(1, 2).flatten(2))

    def decays(self, x: Tensor) -> Tensor:
        """M: γ_h^|t-s|, zero where s lies in a later chunk than t."""
        step = torch.arange(x.shape[1], device=x.device)
        gamma = 1 - 2.0 ** (-5 - torch.arange(self.num_heads, device=x.device, dtype=x.dtype))
        distance = (step[:, None] - step).abs()
        later = step // CHUNK > (step // CHUNK)[:, None]
        return (gamma.view(-1, 1, 1) ** distance).masked_fill(later, 0)


class FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class RetNetBlock(nn.Module):
    def __init__(self, dim: int, index: int, num_heads: int = 4, expand_v: int = 2, hidden_rate: int = 4):
        super().__init__()
        self.retention_layer_norm, self.final_layer_norm = (nn.LayerNorm(dim, eps=1e-6) for _ in range(2))
        self.multi_scale_retention = Retention(dim, num_heads, expand_v)
        self.ffn = FeedForward(dim, hidden_rate * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.multi_scale_retention(self.retention_layer_norm(x))
        return x + self.ffn(self.final_layer_norm(x))
