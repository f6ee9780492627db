"""GateLoop (Katsch 2023)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from visionrnn.kernels import gated_linear_attention
from visionrnn.layers.heads import at_least_float32
from visionrnn.layers.linear import Linear
from visionrnn.operators.base import State
from visionrnn.operators.linear_attention import LinearAttention
from visionrnn.registry import OPERATORS


@OPERATORS.register("gateloop")
class GateLoop(LinearAttention):
    """Linear attention whose state decays and turns, by a complex factor per key channel that is read from the input.

        a_t = σ(α_t) e^{iβ_t} ,   S_t = diag(a_t) S_{t-1} + k_t v_tᵀ ,   o_t = K^{-1/2} Re(S_t)ᵀ q_t ;   W_out (norm(o) ⊙ SiLU(W_g x))

    [α; β] = W_a x + b. Source: Katsch 2023, "GateLoop: Fully Data-Controlled Linear Recurrence for Sequence Modeling", section 3.
    Starting values are ours, after LRU: σ(α) between 0.9 and 0.999 and β in all directions, both spread over the channels by b.
    """

    def __init__(self, dim: int, num_heads: int = 4, backend: str = "auto"):
        super().__init__(dim, num_heads, center=True, backend=backend)
        self.decay_proj = Linear(dim, 2 * dim)
        with torch.no_grad():
            magnitude, phase = self.decay_proj.bias.chunk(2)
            magnitude.uniform_(0.9, 0.999).logit_()
            phase.uniform_(-torch.pi, torch.pi)

    def recur(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, state: State, how: dict[str, Any]) -> tuple[Tensor, State]:
        magnitude, phase = at_least_float32(self.decay_proj(x)).unflatten(-1, (2, self.num_heads, -1)).unbind(2)
        o, memory = gated_linear_attention(q, k, v, torch.complex(F.logsigmoid(magnitude), phase), state.get("memory"), **how)
        return o, {"memory": memory}
