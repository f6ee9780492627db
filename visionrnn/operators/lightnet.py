"""LightNet's additive decay (Qin et al. 2024)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from visionrnn.kernels import lightnet
from visionrnn.layers.linear import Linear
from visionrnn.operators.base import State
from visionrnn.operators.linear_attention import LinearAttention
from visionrnn.registry import OPERATORS


@OPERATORS.register("lightnet")
class LightNet(LinearAttention):
    """The decay follows from the keys alone: each key channel holds the softmax-weighted mean of all values so far.

        z_t = log Σ_{s ≤ t} e^{k_s} ,   S_t = diag(e^{z_{t-1} - z_t}) S_{t-1} + e^{k_t - z_t} v_tᵀ ,   o_t = K^{-1/2} S_tᵀ SiLU(W_q x_t)

    and W_out (norm(o) ⊙ SiLU(W_2 W_1 x)), the gate of rank ``gate_rank`` (at most dim).
    Source: Qin et al. 2024, "You Only Scan Once: Efficient Multi-dimension Sequential Modeling with LightNet", section 3.
    """

    def __init__(self, dim: int, num_heads: int = 4, gate_rank: int = 128, backend: str = "auto"):
        super().__init__(dim, num_heads, gate=False, backend=backend)
        rank = min(gate_rank, dim)
        self.gate_proj = nn.Sequential(Linear(dim, rank, bias=False), Linear(rank, dim, bias=False))

    def recur(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, state: State, how: dict[str, Any]) -> tuple[Tensor, State]:
        start = (state["memory"], state["weight"]) if state else None
        o, (memory, weight) = lightnet(F.silu(q), k, v, start, **how)
        return o, {"memory": memory, "weight": weight}
