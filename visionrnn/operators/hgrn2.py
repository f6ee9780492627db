"""HGRN2: gated linear RNN with an outer-product state (Qin et al. 2024)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from visionrnn.kernels import gated_linear_attention
from visionrnn.layers.heads import at_least_float32
from visionrnn.operators.base import State
from visionrnn.operators.hgrn import check_lower_bound, log_forget
from visionrnn.operators.linear_attention import LinearAttention
from visionrnn.registry import OPERATORS


@OPERATORS.register("hgrn2")
class HGRN2(LinearAttention):
    """The forget gate is also the key: what is forgotten makes room for what is written.

        f_t = γ + (1 - γ) σ(W_f x_t) ,   S_t = diag(f_t) S_{t-1} + (1 - f_t) v_tᵀ ,   o_t = S_tᵀ SiLU(W_q x_t) ;   W_out norm(o)

    Source: Qin et al. 2024, "HGRN2: Gated Linear RNNs with State Expansion", section 3. ``lower_bound`` is γ: 0 in the first
    layer of a network, rising towards 1 with depth (the papers' cumulative softmax over layers, as a constant of each layer).
    """

    def __init__(self, dim: int, num_heads: int = 4, lower_bound: float = 0.0, backend: str = "auto"):
        super().__init__(dim, num_heads, gate=False, backend=backend)
        self.lower_bound = check_lower_bound(lower_bound)

    def recur(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, state: State, how: dict[str, Any]) -> tuple[Tensor, State]:
        log_decay = log_forget(at_least_float32(k), self.lower_bound)
        key = -torch.expm1(log_decay)
        o, memory = gated_linear_attention(F.silu(q), key.to(q.dtype), v, log_decay, state.get("memory"), scale=1.0, **how)
        return o, {"memory": memory}
