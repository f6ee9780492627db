"""A pair of mLSTM layers (Beck et al. 2024; Alkin et al. 2024), one in each direction, in the dense stabilised form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 4  # channels of one block of the q, k, v projections


class OffsetNorm(nn.Module):
    """LayerNorm over each of ``groups`` equal parts of the channels; the weight is stored as offset from one."""

    def __init__(self, dim: int, groups: int = 1):
        super().__init__()
        self.groups = groups
        self.weight, self.bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        parts = x.unflatten(-1, (self.groups, -1))
        return F.layer_norm(parts, parts.shape[-1:]).flatten(-2) * (1 + self.weight) + self.bias


class BlockLinear(nn.Module):
    """Block-diagonal projection, weight [blocks, out, in]."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim // BLOCK, BLOCK, BLOCK) / BLOCK**0.5)
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("gtbi,boi->gtbo", x.unflatten(-1, (-1, BLOCK)), self.weight).flatten(-2) + self.bias


class Cell(nn.Module):
    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.igate, self.fgate = nn.Linear(3 * dim, num_heads), nn.Linear(3 * dim, num_heads)
        self.outnorm = OffsetNorm(dim, num_heads)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        gates = torch.cat([q, k, v], -1)
        i, f = self.igate(gates).transpose(1, 2).unsqueeze(-1), self.fgate(gates).transpose(1, 2).unsqueeze(-1)  # [G, H, T, 1]
        q, k, v = (value.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for value in (q, k, v))
        return self.outnorm(self.parallel(q, k, v, i, f).transpose(1, 2).flatten(2))

    @staticmethod
    def parallel(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
        """h_t = Σ_s S_ts v_s / (max(|Σ_s S_ts|, e^-m_t) + 1e-6),  S_ts = (q_t · k_s) D^-1/2 e^(L_ts - m_t)."""
        steps = q.shape[-2]
        total = F.logsigmoid(f).cumsum(-2)
        logarithm = total - total.transpose(-1, -2) + i.transpose(-1, -2)  # L [G, H, T, T]
        past = torch.ones(steps, steps, dtype=torch.bool, device=q.device).tril()
        logarithm = torch.where(past, logarithm, -float("inf"))
        largest = logarithm.amax(-1, keepdim=True)
        scores = (q @ (k * k.shape[-1] ** -0.5).transpose(-1, -2)) * torch.exp(logarithm - largest)
        normaliser = torch.maximum(scores.sum(-1, keepdim=True).abs(), torch.exp(-largest))
        return (scores / (normaliser + 1e-6)) @ v


class CausalConv(nn.Module):
    def __init__(self, dim: int, taps: int):
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, taps, groups=dim, padding=taps - 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)


class Layer(nn.Module):
    def __init__(self, dim: int, num_heads: int, expand: int, d_conv: int):
        super().__init__()
        inner = expand * dim
        self.proj_up, self.proj_down = nn.Linear(dim, 2 * inner), nn.Linear(inner, dim)
        self.q_proj, self.k_proj, self.v_proj = (BlockLinear(inner) for _ in range(3))
        self.conv, self.mlstm_cell = CausalConv(inner, d_conv), Cell(inner, num_heads)
        self.learnable_skip = nn.Parameter(torch.ones(inner))

    def forward(self, x: Tensor) -> Tensor:
        u, z = self.proj_up(x).chunk(2, -1)
        c = F.silu(self.conv(u))
        h = self.mlstm_cell(self.q_proj(c), self.k_proj(c), self.v_proj(u))
        return self.proj_down((h + self.learnable_skip * c) * F.silu(z))


class Residual(nn.Module):
    def __init__(self, dim: int, reverse: bool, num_heads: int, expand: int, d_conv: int):
        super().__init__()
        self.reverse = reverse
        self.norm, self.layer = OffsetNorm(dim), Layer(dim, num_heads, expand, d_conv)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + (self.layer(y.flip(1)).flip(1) if self.reverse else self.layer(y))


class XLSTMBlock(nn.Module):
    def __init__(self, dim: int, index: int, num_heads: int = 4, expand: int = 2, d_conv: int = 4):
        super().__init__()
        self.rowwise_from_top_left = Residual(dim, False, num_heads, expand, d_conv)
        self.rowwise_from_bot_right = Residual(dim, True, num_heads, expand, d_conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.rowwise_from_bot_right(self.rowwise_from_top_left(x))
