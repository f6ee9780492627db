"""RWKV-7's time mixing, "Goose" (Peng et al. 2025)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionrnn.kernels import generalized_delta_rule
from visionrnn.layers.causal_conv import step_before
from visionrnn.layers.heads import HeadNorm, at_least_float32, head_width
from visionrnn.layers.linear import Linear
from visionrnn.operators.base import Operator, State
from visionrnn.registry import OPERATORS


class LowRank(nn.Module):
    """b + act(x A) B; A starts at zero, B orthogonal, a tenth as large."""

    def __init__(self, dim: int, rank: int, start: Tensor | None, activation: nn.Module):
        super().__init__()
        self.down, self.up = Linear(dim, rank, bias=False), Linear(rank, dim, bias=start is not None)
        self.activation = activation
        nn.init.zeros_(self.down.weight)
        nn.init.orthogonal_(self.up.weight, gain=0.1)
        if start is not None:
            with torch.no_grad():
                self.up.bias.copy_(start)

    def forward(self, x: Tensor) -> Tensor:
        return at_least_float32(self.up(self.activation(self.down(x))))


@OPERATORS.register("rwkv7")
class RWKV7(Operator):
    """The delta rule with a decay, a removal key and a rate per channel.

        x_i = x_t + (x_{t-1} - x_t) ⊙ μ_i      i = r, w, k, v, a, g ;   a = σ(lora(x_a)) ,   log w = -e^{-1/2} σ(lora(x_w))
        κ = k ⊙ ξ per head to length one ,   k̃ = k ⊙ (1 + (a - 1) ⊙ α)
        S_t = diag(w_t) S_{t-1} - (κ_t ⊙ a_t) κ_tᵀ S_{t-1} + k̃_t v_tᵀ ,   o_t = S_tᵀ r_t
        W_out ((norm(o) + (rᵀ (ρ ⊙ k̃)) v) ⊙ g) ,   g = σ(x_g A) B

    Source: Peng et al. 2025, "RWKV-7 'Goose' with Expressive Dynamic State Evolution", section 4 and the starting values of the authors'
    code, but W_out, which starts at zero there. ``depth`` is the layer's place in the network, 0 for the first and 1 for the last (here
    by default between). ``rank`` is the width of A. The values' mixing with those of the first layer is left out: a layer stands alone.
    """

    def __init__(self, dim: int, num_heads: int = 4, rank: int = 32, depth: float = 0.5, backend: str = "auto"):
        super().__init__()
        width = head_width(dim, num_heads)
        self.num_heads, self.backend = num_heads, backend
        place, line = torch.arange(dim) / dim, torch.arange(dim) / max(dim - 1, 1)
        powers = torch.tensor([0.2, 0.9, 0.7, 0.7, 0.9, 0.2]).unsqueeze(1)  # of r, w, k, v, a, g
        self.mixes = nn.Parameter(1 - place ** (powers * (1 - depth)))
        self.r_proj, self.k_proj, self.v_proj, self.out_proj = (Linear(dim, dim, bias=False) for _ in range(4))
        for linear, size in ((self.r_proj, 0.5), (self.k_proj, 0.05), (self.v_proj, 0.5), (self.out_proj, 0.5)):
            nn.init.uniform_(linear.weight, -size * dim**-0.5, size * dim**-0.5)
        self.decay = LowRank(dim, rank, -5.5 + 6 * line ** (1 + depth**0.3), nn.Tanh())
        self.rate = LowRank(dim, rank, torch.zeros(dim), nn.Identity())
        self.gate = LowRank(dim, rank, None, nn.Sigmoid())
        self.removal, self.rate_in_key = nn.Parameter(torch.full((dim,), 0.85)), nn.Parameter(torch.ones(dim))
        self.bonus = nn.Parameter(torch.zeros(num_heads, width))
        self.norm = HeadNorm(num_heads, width, center=True, bias=True, eps=64e-5)

    def mix(
        self, x: Tensor, state: State | None = None, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None
    ) -> tuple[Tensor, State]:
        state = state or {}
        before, last = step_before(x, state.get("x"), cu_seqlens)
        r, w, k, v, a, g = (x + (before - x) * mix.to(x.dtype) for mix in self.mixes)
        rate, log_decay = self.rate(a).sigmoid(), -math.exp(-0.5) * self.decay(w).sigmoid()
        r, k, v = self.r_proj(r), at_least_float32(self.k_proj(k)), self.v_proj(v)
        removal, k = k * self.removal, k * (1 + (rate - 1) * self.rate_in_key)
        r, k, v, removal, rate, log_decay = (
            value.unflatten(-1, (self.num_heads, -1)) for value in (r, k, v, removal, rate, log_decay)
        )  # [B, T, H, K]
        removal = F.normalize(removal, dim=-1)
        o, memory = generalized_delta_rule(
            r, k, v, -removal, removal * rate, log_decay, state.get("memory"),
            return_final_state=True, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=self.backend,
        )  # fmt: skip
        y = self.norm(o) + (r * self.bonus * k).sum(-1, keepdim=True) * v
        return self.out_proj((y.flatten(2) * self.gate(g)).to(self.out_proj.weight.dtype)), {"x": last, "memory": memory}
