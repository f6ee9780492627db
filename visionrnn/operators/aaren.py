"""Aaren, attention as a recurrence (Feng et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visionrnn.kernels import prefix_softmax
from visionrnn.layers.heads import at_least_float32, head_width
from visionrnn.layers.linear import Linear
from visionrnn.operators.base import Operator, State
from visionrnn.registry import OPERATORS


@OPERATORS.register("aaren")
class Aaren(Operator):
    """Softmax attention of one learned query to every prefix of the sequence.

        s_t = K^{-1/2} qᵀ W_k x_t ,   o_t = Σ_{i ≤ t} e^{s_i} W_v x_i / Σ_{i ≤ t} e^{s_i}      per head ;   W_out o

    Source: Feng et al. 2024, "Attention as an RNN", section 3: the query is a learned token through W_q, here q itself, normal.
    """

    def __init__(self, dim: int, num_heads: int = 4, backend: str = "auto"):
        super().__init__()
        self.num_heads, self.backend = num_heads, backend
        self.query = nn.Parameter(torch.randn(num_heads, head_width(dim, num_heads)))
        self.k_proj, self.v_proj, self.out_proj = (Linear(dim, dim, bias=False) for _ in range(3))

    def mix(
        self, x: Tensor, state: State | None = None, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None
    ) -> tuple[Tensor, State]:
        k, v = (projection(x).unflatten(-1, (self.num_heads, -1)) for projection in (self.k_proj, self.v_proj))
        scores = (at_least_float32(k) * self.query).sum(-1) * k.shape[-1] ** -0.5  # [B, T, H]
        o, (maximum, denominator, numerator) = prefix_softmax(
            scores, at_least_float32(v),
            initial_state=(state["maximum"], state["denominator"], state["numerator"]) if state else None,
            return_final_state=True, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=self.backend,
        )  # fmt: skip
        after = {"maximum": maximum, "denominator": denominator, "numerator": numerator}
        return self.out_proj(o.flatten(2).to(self.out_proj.weight.dtype)), after
