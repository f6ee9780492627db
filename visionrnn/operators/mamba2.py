"""Mamba-2 (Dao & Gu 2024): projection, causal depthwise convolution, state-space dual, gated norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionrnn.kernels import state_space_dual
from visionrnn.layers.causal_conv import CausalConv
from visionrnn.layers.heads import HeadNorm, at_least_float32
from visionrnn.layers.linear import Linear
from visionrnn.operators.base import Operator, State, without_weight_decay
from visionrnn.operators.mamba import step_bias
from visionrnn.registry import OPERATORS


@OPERATORS.register("mamba2")
class Mamba2(Operator):
    """State-space model with one decay per head.

        [z; u; B; C; Δ] = W_in x ,   [u; B; C] ← SiLU(conv([u; B; C])) ,   Δ ← softplus(Δ + b)
        S_t = exp(Δ_t A) S_{t-1} + Δ_t u_t B_tᵀ ,   y_t = S_t C_t + D u_t ;   W_out norm(y ⊙ SiLU(z))

    Source: Dao & Gu 2024, "Transformers are SSMs", sections 6 and 7; A uniform in [-16, -1], softplus(b) log-uniform in [0.001, 0.1].
    Options: ``d_state`` N, ``d_conv`` taps, ``expand`` inner width in units of dim, ``num_heads`` (absent: heads of about 64 channels),
    ``num_groups`` of heads that share B and C.
    """

    def __init__(
        self,
        dim: int,
        d_state: int = 64,
        d_conv: int = 4,
        expand: int = 2,
        num_heads: int | None = None,
        num_groups: int = 1,
        backend: str = "auto",
    ):
        super().__init__()
        inner = expand * dim
        heads = max(inner // 64, 1) if num_heads is None else num_heads
        if inner % heads:
            raise ValueError(f"inner width {expand} · dim={dim} is not a multiple of num_heads={heads}: choose a number that divides it")
        if heads % num_groups:
            raise ValueError(f"num_groups={num_groups} does not divide num_heads={heads}")
        self.num_heads, self.backend = heads, backend
        self.widths = (inner, num_groups * d_state, num_groups * d_state)
        self.in_proj = Linear(dim, inner + sum(self.widths) + heads, bias=False)
        self.conv1d = CausalConv(sum(self.widths), d_conv, activation="silu", backend=backend)
        self.num_groups = num_groups
        self.dt_bias = nn.Parameter(step_bias(heads))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(heads))
        without_weight_decay(self.dt_bias, self.A_log, self.D)
        self.norm = HeadNorm(1, inner)
        self.out_proj = Linear(inner, dim, bias=False)

    def mix(
        self, x: Tensor, state: State | None = None, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None
    ) -> tuple[Tensor, State]:
        state = state or {}
        z, u, dt = self.in_proj(x).split([self.widths[0], sum(self.widths), self.num_heads], -1)
        u, window = self.conv1d(u, state.get("conv"), cu_seqlens)
        u, B, C = u.split(self.widths, -1)
        y, memory = state_space_dual(
            u.unflatten(-1, (self.num_heads, -1)), at_least_float32(dt), -self.A_log.exp(),
            B.unflatten(-1, (self.num_groups, -1)), C.unflatten(-1, (self.num_groups, -1)), self.D, None, state.get("memory"),
            dt_bias=self.dt_bias, dt_softplus=True, return_final_state=True,
            cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=self.backend,
        )  # fmt: skip
        y = self.norm((y.flatten(2) * F.silu(z)).unsqueeze(2)).squeeze(2)
        return self.out_proj(y.to(self.out_proj.weight.dtype)), {"conv": window, "memory": memory}
