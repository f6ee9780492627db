"""Gated linear attention (Yang et al. 2023)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from visionrnn.kernels import gated_linear_attention
from visionrnn.layers.heads import at_least_float32
from visionrnn.layers.linear import Linear
from visionrnn.operators.base import State
from visionrnn.operators.linear_attention import LinearAttention, shrink
from visionrnn.registry import OPERATORS


@OPERATORS.register("gla")
class GLA(LinearAttention):
    """Linear attention whose decay each key channel reads from the input.

        α_t = σ(W_2 W_1 x_t + b)^{1/16} ,   S_t = diag(α_t) S_{t-1} + k_t v_tᵀ ,   o_t = K^{-1/2} S_tᵀ q_t ;   W_out (norm(o) ⊙ SiLU(W_g x))

    Source: Yang et al. 2023, "Gated Linear Attention Transformers with Hardware-Efficient Training", section 4.4: keys half as wide as
    values, decay of ``gate_rank`` 16, temperature ``gate_temperature`` 16. Starting values as RetNet's.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        expand_k: float = 0.5,
        expand_v: float = 1.0,
        gate_rank: int = 16,
        gate_temperature: float = 16.0,
        backend: str = "auto",
    ):
        super().__init__(dim, num_heads, int(expand_k * dim), int(expand_v * dim), backend=backend)
        self.gate_temperature = gate_temperature
        self.decay_proj = nn.Sequential(Linear(dim, gate_rank, bias=False), Linear(gate_rank, self.key_width * num_heads))
        shrink(self)

    def recur(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, state: State, how: dict[str, Any]) -> tuple[Tensor, State]:
        log_decay = F.logsigmoid(at_least_float32(self.decay_proj(x))) / self.gate_temperature
        o, memory = gated_linear_attention(q, k, v, log_decay.unflatten(-1, (self.num_heads, -1)), state.get("memory"), **how)
        return o, {"memory": memory}
