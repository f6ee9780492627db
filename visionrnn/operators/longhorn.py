"""Longhorn (Liu et al. 2024)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from visionrnn.kernels import longhorn
from visionrnn.layers.causal_conv import CausalConv
from visionrnn.layers.heads import at_least_float32
from visionrnn.layers.linear import Linear
from visionrnn.operators.base import Operator, State, without_weight_decay
from visionrnn.registry import OPERATORS


@OPERATORS.register("longhorn")
class Longhorn(Operator):
    """A state-space model whose step is the closed-form solution of an online regression; it needs no forget gate.

        [u; z] = W_in x ,   u ← SiLU(conv(u)) ,   [b; k; q] = W u ,   β = σ(W_β b + b_β)
        Δ_t = β_t / (1 + β_t k_tᵀk_t) ,   S_t = (1 - Δ_t (k_t²)ᵀ) ⊙ S_{t-1} + (Δ_t ⊙ u_t) k_tᵀ ,   y = S q + D ⊙ u ;   W_out (y ⊙ SiLU(z))

    Source: Liu et al. 2024, "Longhorn: State Space Models are Amortized Online Learners", section 3, in Mamba's block. Options as
    Mamba's: ``d_state`` N, ``d_conv`` taps, ``expand`` inner width in units of dim, ``beta_rank`` (dim/16 when absent).
    """

    def __init__(
        self,
        dim: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        beta_rank: int | None = None,
        backend: str = "auto",
    ):
        super().__init__()
        inner, rank = expand * dim, math.ceil(dim / 16) if beta_rank is None else beta_rank
        self.backend, self.sizes = backend, (rank, d_state, d_state)
        self.in_proj = Linear(dim, 2 * inner, bias=False)
        self.conv1d = CausalConv(inner, d_conv, activation="silu", backend=backend)
        self.x_proj = Linear(inner, sum(self.sizes), bias=False)
        self.beta_proj = Linear(rank, inner)
        self.D = nn.Parameter(torch.ones(inner))
        without_weight_decay(self.D)
        self.out_proj = Linear(inner, dim, bias=False)

    def mix(
        self, x: Tensor, state: State | None = None, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None
    ) -> tuple[Tensor, State]:
        state = state or {}
        u, z = self.in_proj(x).chunk(2, -1)
        u, window = self.conv1d(u, state.get("conv"), cu_seqlens)
        low, k, q = self.x_proj(u).split(self.sizes, -1)
        y, memory = longhorn(
            u, at_least_float32(self.beta_proj(low)).sigmoid(), k, q, self.D, z, state.get("memory"),
            return_final_state=True, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=self.backend,
        )  # fmt: skip
        return self.out_proj(y.to(self.out_proj.weight.dtype)), {"conv": window, "memory": memory}
