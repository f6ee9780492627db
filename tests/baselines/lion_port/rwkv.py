"""RWKV-6 (Peng et al. 2024) with the weighted sum taken in both directions, as LION has it; the token shift looks back only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def difference(x: Tensor) -> Tensor:
    """x_{t-1} - x_t, with a zero before the first step."""
    return F.pad(x, (0, 0, 1, 0))[:, :-1] - x


class TimeMix(nn.Module):
    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        for name in "xwkvrg":
            self.register_parameter(f"time_maa_{name}", nn.Parameter(torch.rand(1, 1, dim)))
        self.time_maa_w1 = nn.Parameter(1e-4 * torch.randn(dim, 160))
        self.time_maa_w2 = nn.Parameter(1e-4 * torch.randn(5, 32, dim))
        self.time_decay = nn.Parameter(torch.linspace(-6, -1, dim).view(1, 1, dim))
        self.time_decay_w1 = nn.Parameter(1e-4 * torch.randn(dim, 64))
        self.time_decay_w2 = nn.Parameter(1e-4 * torch.randn(64, dim))
        self.time_faaaa = nn.Parameter(torch.zeros(num_heads, dim // num_heads))
        self.receptance, self.key, self.value, self.gate, self.output = (nn.Linear(dim, dim, bias=False) for _ in range(5))
        self.ln_x = nn.GroupNorm(num_heads, dim)

    def forward(self, x: Tensor) -> Tensor:
        change = difference(x)
        low = torch.tanh((x + change * self.time_maa_x) @ self.time_maa_w1).unflatten(-1, (5, 32))
        mixed = {}
        for i, name in enumerate("wkvrg"):
            mixed[name] = x + change * (getattr(self, f"time_maa_{name}") + low[:, :, i] @ self.time_maa_w2[i])
        r, k, v = self.receptance(mixed["r"]), self.key(mixed["k"]), self.value(mixed["v"])
        log_decay = self.time_decay + torch.tanh(mixed["w"] @ self.time_decay_w1) @ self.time_decay_w2
        r, k, v, decay = (value.unflatten(-1, (self.num_heads, -1)) for value in (r, k, v, torch.exp(-torch.exp(log_decay))))
        y = self.ahead(r, k, v, decay) + self.ahead(*(value.flip(1) for value in (r, k, v, decay)), own=False).flip(1)
        y = self.ln_x(y.flatten(2).flatten(0, 1)).view_as(x)
        return self.output(y * F.silu(self.gate(mixed["g"])))

    def ahead(self, r: Tensor, k: Tensor, v: Tensor, decay: Tensor, own: bool = True) -> Tensor:
        """y_t = r_t (S_{t-1} + u k_t v_tᵀ),  S_t = d_t S_{t-1} + k_t v_tᵀ; without ``own`` the middle term is left out."""
        state = r.new_zeros(len(r), self.num_heads, r.shape[-1], v.shape[-1])
        outputs = []
        for step_r, step_k, step_v, step_decay in zip(r.unbind(1), k.unbind(1), v.unbind(1), decay.unbind(1), strict=True):
            product = step_k.unsqueeze(-1) * step_v.unsqueeze(-2)
            seen = state + self.time_faaaa.unsqueeze(-1) * product if own else state
            outputs.append((step_r.unsqueeze(-2) @ seen).squeeze(-2))
            state = step_decay.unsqueeze(-1) * state + product
        return torch.stack(outputs, 1)


class ChannelMix(nn.Module):
    """Mixes x_t with the difference x_{t-1} - x_t, as published."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.spatial_mix_k, self.spatial_mix_r = (nn.Parameter(torch.rand(1, 1, dim)) for _ in range(2))
        self.key, self.value = nn.Linear(dim, hidden, bias=False), nn.Linear(hidden, dim, bias=False)
        self.receptance = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        change = difference(x)
        k = self.key(x * self.spatial_mix_k + change * (1 - self.spatial_mix_k))
        r = self.receptance(x * self.spatial_mix_r + change * (1 - self.spatial_mix_r))
        return torch.sigmoid(r) * self.value(torch.relu(k).square())


class RWKVBlock(nn.Module):
    """Time mixing and channel mixing, scaled residuals; the first block of a backbone has one more norm."""

    def __init__(self, dim: int, index: int, num_heads: int = 4, hidden_rate: int = 4):
        super().__init__()
        if index == 0:
            self.ln0 = nn.LayerNorm(dim)
        self.first = index == 0
        self.ln1, self.ln2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.att, self.ffn = TimeMix(dim, num_heads), ChannelMix(dim, hidden_rate * dim)
        self.gamma1, self.gamma2 = (nn.Parameter(1e-5 * torch.ones(dim)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.ln0(x) if self.first else x
        x = x + self.gamma1 * self.att(self.ln1(x))
        return x + self.gamma2 * self.ffn(self.ln2(x))
