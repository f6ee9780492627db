"""RetNet's multi-scale retention (Sun et al. 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visionrnn.kernels import gated_linear_attention
from visionrnn.layers.rope import positions, rotate
from visionrnn.operators.base import State
from visionrnn.operators.linear_attention import LinearAttention, shrink
from visionrnn.registry import OPERATORS


@OPERATORS.register("retnet")
class RetNet(LinearAttention):
    """Retention: a fixed decay per head, queries and keys turned by their position.

        S_t = γ_h S_{t-1} + k_t v_tᵀ ,   o_t = K^{-1/2} S_tᵀ q_t ,   γ_h = 1 - 2^{-5-h} ;   W_out (norm(o) ⊙ SiLU(W_g x))

    Source: Sun et al. 2023, "Retentive Network", equations 5 to 8; layer norm per head, starting values 2^-2.5 times Xavier's.
    Options: ``expand_v`` width of all values in units of dim, ``rotary`` False leaves the rotation out (as LION does).
    """

    log_decay: Tensor

    def __init__(self, dim: int, num_heads: int = 4, expand_v: int = 2, rotary: bool = True, backend: str = "auto"):
        super().__init__(dim, num_heads, value=expand_v * dim, center=True, backend=backend)
        self.rotary = rotary
        self.register_buffer("log_decay", torch.log1p(-(2.0 ** -(5.0 + torch.arange(num_heads)))), persistent=False)
        shrink(self)

    def recur(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, state: State, how: dict[str, Any]) -> tuple[Tensor, State]:
        after = {}
        if self.rotary:
            position, after["position"] = positions(x, state.get("position"), how["cu_seqlens"])
            q, k = rotate(q, position), rotate(k, position)
        o, after["memory"] = gated_linear_attention(q, k, v, self.log_decay, state.get("memory"), **how)
        return o, after
