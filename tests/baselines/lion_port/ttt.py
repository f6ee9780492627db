"""TTT-Linear (Sun et al. 2024) with its dual form per mini-batch, and the SwiGLU layer after it; one direction only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6


def rotate(x: Tensor, position: Tensor) -> Tensor:
    """Pairs (2i, 2i + 1) of the last axis of [G, H, T, f] turn by position · 10000^(-2i / f)."""
    width = x.shape[-1]
    angle = position[:, None] * 10000.0 ** (-torch.arange(0, width, 2, dtype=x.dtype, device=x.device) / width)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()], -1).flatten(-2)


def normalise(x: Tensor) -> tuple[Tensor, Tensor]:
    """(x - mean) / deviation, and the deviation."""
    deviation = (x.var(-1, unbiased=False, keepdim=True) + EPS).sqrt()
    return (x - x.mean(-1, keepdim=True)) / deviation, deviation


class TTT(nn.Module):
    def __init__(self, dim: int, num_heads: int, mini_batch_size: int):
        super().__init__()
        width = dim // num_heads
        self.num_heads, self.size = num_heads, mini_batch_size
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.learnable_token_idx = nn.Parameter(torch.zeros(mini_batch_size))
        self.learnable_ttt_lr_weight = nn.Parameter(0.02 * torch.randn(num_heads, 1, dim))
        self.learnable_ttt_lr_bias = nn.Parameter(torch.zeros(num_heads, 1))
        self.ttt_norm_weight = nn.Parameter(torch.ones(num_heads, width))
        self.ttt_norm_bias = nn.Parameter(torch.zeros(num_heads, width))
        self.W1, self.b1 = nn.Parameter(0.02 * torch.randn(num_heads, width, width)), nn.Parameter(torch.zeros(num_heads, 1, width))
        self.post_norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (proj(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj))
        position = torch.arange(x.shape[1], device=x.device) % self.size
        q, k = rotate(q, position), rotate(k, position)
        rate = torch.einsum("gtc,hoc->ghto", x, self.learnable_ttt_lr_weight) + self.learnable_ttt_lr_bias.unsqueeze(-1)
        rate = rate.sigmoid() / q.shape[-1]  # [G, H, T, 1]
        scale = (1 / torch.arange(1, self.size + 1, device=x.device) + self.learnable_token_idx).clamp(min=0).unsqueeze(-1)
        state = self.W1.expand(len(x), -1, -1, -1), self.b1.expand(len(x), -1, -1, -1)
        outputs = []
        for parts in zip(*(value.split(self.size, 2) for value in (q, k, v, rate)), strict=True):
            out, state = self.mini_batch(*parts, scale[: parts[0].shape[2]], state)
            outputs.append(out)
        return self.o_proj(self.post_norm(torch.cat(outputs, 2).transpose(1, 2).flatten(2)))

    def mini_batch(
        self, q: Tensor, k: Tensor, v: Tensor, rate: Tensor, scale: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One gradient step on W, b from all steps of the mini-batch; step i reads what the steps up to i have changed."""
        weight, bias = state
        gain, shift = self.ttt_norm_weight.unsqueeze(1), self.ttt_norm_bias.unsqueeze(1)
        normal, deviation = normalise(k @ weight + bias)
        slope = (gain * normal + shift - (v - k)) * gain
        mean, along = slope.mean(-1, keepdim=True), (slope * normal).mean(-1, keepdim=True)
        gradient = rate * (slope - mean - normal * along) / deviation
        read = q @ weight + bias - scale * ((q @ k.transpose(-1, -2) + 1).tril() @ gradient)
        out = q + gain * normalise(read)[0] + shift
        last = scale[-1]
        return out, (weight - last * (k.transpose(-1, -2) @ gradient), bias - last * gradient.sum(-2, keepdim=True))


class SwiGLU(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(dim, hidden, bias=False), nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class TTTBlock(nn.Module):
    def __init__(self, dim: int, index: int, num_heads: int = 4, mini_batch_size: int = 16):
        super().__init__()
        self.seq_norm, self.ffn_norm = nn.RMSNorm(dim, eps=EPS), nn.RMSNorm(dim, eps=EPS)
        self.seq_modeling_block = TTT(dim, num_heads, mini_batch_size)
        self.mlp = SwiGLU(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.seq_modeling_block(self.seq_norm(x))
        return x + self.mlp(self.ffn_norm(x))
