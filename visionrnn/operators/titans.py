"""Titans' long-term memory with a linear memory (Behrouz et al. 2024)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from visionrnn.kernels import titans_linear
from visionrnn.layers.heads import at_least_float32
from visionrnn.layers.linear import Linear
from visionrnn.operators.base import State
from visionrnn.operators.linear_attention import LinearAttention
from visionrnn.registry import OPERATORS


@OPERATORS.register("titans")
class Titans(LinearAttention):
    """A matrix per head learns to predict v from k by gradient descent with momentum and forgetting, all three rates read from x.

        S_t = η_t S_{t-1} - 2 θ_t k_t (M_{t-1}ᵀ k_t - v_t)ᵀ ,   M_t = (1 - α_t) M_{t-1} + S_t ,   o_t = M_tᵀ q_t
        y = W_out (norm(o) ⊙ SiLU(W_g x))

    θ, η, α = σ(W x + b) per head; q, k, v each through a causal convolution and SiLU, q and k to length one, so that a step never
    overshoots by more than the delta rule's. Source: Behrouz et al. 2024, "Titans: Learning to Memorize at Test Time", equations 9 to 15
    and section 4.4; it gives no starting values for the rates: here θ ≈ 0.12, η ≈ 0.5, α ≈ 0.02.
    """

    def __init__(self, dim: int, num_heads: int = 4, expand_v: int = 1, d_conv: int = 4, gate: bool = True, backend: str = "auto"):
        super().__init__(dim, num_heads, value=expand_v * dim, d_conv=d_conv, gate=gate, backend=backend)
        self.rates_proj = Linear(dim, 3 * num_heads)
        with torch.no_grad():
            self.rates_proj.bias.copy_(torch.tensor([-2.0, 0.0, -4.0]).repeat_interleave(num_heads))

    def recur(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, state: State, how: dict[str, Any]) -> tuple[Tensor, State]:
        theta, eta, alpha = at_least_float32(self.rates_proj(x)).sigmoid().chunk(3, -1)  # [B, T, H] each
        q, k = (F.normalize(at_least_float32(value), dim=-1) for value in (q, k))
        before = (state["memory"], state["momentum"]) if "memory" in state else None
        o, (memory, momentum) = titans_linear(q, k, v, theta, eta, alpha, before, **how)
        return o, {"memory": memory, "momentum": momentum}
