"""Bidirectional Mamba (Gu & Dao 2023; LION's form: shared projections, directions summed)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Mamba(nn.Module):
    """[G, T, C] → [G, T, C]; parameters of the backward direction end in ``_b``."""

    def __init__(self, dim: int, d_state: int = 16, d_conv: int = 4, expand: int = 2):
        super().__init__()
        inner, rank = expand * dim, math.ceil(dim / 16)
        self.sizes = (rank, d_state, d_state)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d, self.conv1d_b = (nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1) for _ in range(2))
        self.x_proj, self.x_proj_b = (nn.Linear(inner, sum(self.sizes), bias=False) for _ in range(2))
        self.dt_proj, self.dt_proj_b = (nn.Linear(rank, inner) for _ in range(2))
        self.A_log, self.A_b_log = (nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(inner, 1)) for _ in range(2))
        self.D, self.D_b = (nn.Parameter(torch.ones(inner)) for _ in range(2))
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        u, z = self.in_proj(x).chunk(2, -1)
        ahead = self.direction(u, z, self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D)
        back = self.direction(u.flip(1), z.flip(1), self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b)
        return self.out_proj(ahead + back.flip(1))

    def direction(self, u: Tensor, z: Tensor, conv: nn.Conv1d, x_proj: nn.Linear, dt_proj: nn.Linear, A_log: Tensor, D: Tensor) -> Tensor:
        """y_t = (h_t C_t + D c_t) SiLU(z_t),  h_t = exp(Δ_t A) h_{t-1} + Δ_t c_t B_tᵀ."""
        c = F.silu(conv(u.transpose(1, 2))[..., : u.shape[1]]).transpose(1, 2)
        dt, B, C = x_proj(c).split(self.sizes, -1)
        delta = F.softplus(dt_proj(dt))
        decay = torch.exp(delta.unsqueeze(-1) * -A_log.exp())  # [G, T, D, N]
        added = (delta * c).unsqueeze(-1) * B.unsqueeze(2)
        state = torch.zeros_like(added[:, 0])
        outputs = []
        for step_decay, step_added, read in zip(decay.unbind(1), added.unbind(1), C.unbind(1), strict=True):
            state = step_decay * state + step_added
            outputs.append(torch.einsum("gdn,gn->gd", state, read))
        return (torch.stack(outputs, 1) + D * c) * F.silu(z)


class MambaBlock(nn.Module):
    """x + LN(mamba(x))."""

    def __init__(self, dim: int, index: int, d_state: int = 16, d_conv: int = 4, expand: int = 2):
        super().__init__()
        self.mamba = Mamba(dim, d_state, d_conv, expand)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.mamba(x))
