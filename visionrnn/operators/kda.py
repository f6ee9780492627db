"""Kimi delta attention (Kimi Team 2025)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionrnn.layers.heads import at_least_float32
from visionrnn.layers.linear import Linear
from visionrnn.operators.base import without_weight_decay
from visionrnn.operators.deltanet import DeltaRule
from visionrnn.operators.mamba import step_bias
from visionrnn.registry import OPERATORS


@OPERATORS.register("kda")
class KDA(DeltaRule):
    """The delta rule with a decay per key channel.

        S_t = (I - β_t k_t k_tᵀ) diag(α_t) S_{t-1} + β_t k_t v_tᵀ ,   o_t = K^{-1/2} S_tᵀ q_t ;   W_out (norm(o) ⊙ σ(W_g2 W_g1 x + b_g))

    α_t = exp(-A_h softplus(W_2 W_1 x_t + b)), both products of low rank, the width of a head; the rest as in ``deltanet``.
    Source: Kimi Team 2025, "Kimi Linear: An Expressive, Efficient Attention Architecture", section 3; A starts uniform in [1, 16],
    softplus(b) log-uniform in [0.001, 0.1].
    """

    def __init__(self, dim: int, num_heads: int = 4, d_conv: int = 4, negative_eigenvalues: bool = False, backend: str = "auto"):
        super().__init__(dim, num_heads, dim, d_conv=d_conv, gate=False, negative_eigenvalues=negative_eigenvalues, backend=backend)
        self.gate_proj = nn.Sequential(Linear(dim, self.value_width, bias=False), Linear(self.value_width, dim))
        self.decay_proj = nn.Sequential(Linear(dim, self.key_width, bias=False), Linear(self.key_width, dim, bias=False))
        self.A_log = nn.Parameter(torch.empty(num_heads, 1).uniform_(1, 16).log())
        self.decay_bias = nn.Parameter(step_bias(dim))
        without_weight_decay(self.A_log, self.decay_bias)

    def log_decay(self, x: Tensor) -> Tensor:
        step = F.softplus(at_least_float32(self.decay_proj(x)) + self.decay_bias)
        return -self.A_log.exp() * step.unflatten(-1, (self.num_heads, -1))

    def activate(self, gate: Tensor) -> Tensor:
        return gate.sigmoid()
