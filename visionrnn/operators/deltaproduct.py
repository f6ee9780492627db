"""DeltaProduct (Siems et al. 2025)."""

from __future__ import annotations

from torch import Tensor

from visionrnn.operators.deltanet import DeltaRule, HeadDecay
from visionrnn.registry import OPERATORS


@OPERATORS.register("deltaproduct")
class DeltaProduct(DeltaRule):
    """Several steps of the delta rule per token: the state transition is a product of ``steps`` reflections, any rotation with enough.

        S ← α_t S_{t-1} ;   S ← S + β_{t,j} k_{t,j} (v_{t,j} - Sᵀ k_{t,j})ᵀ for j = 1 … steps ;   o_t = K^{-1/2} S_tᵀ q_t

    and W_out (norm(o) ⊙ SiLU(W_g x)). Every step has keys, values, β of its own; ``decay`` False makes α = 1. With
    ``negative_eigenvalues``, here the default, β = 2σ(W_β x). The rest as in ``gated_deltanet``.
    Source: Siems et al. 2025, "DeltaProduct: Improving State-Tracking in Linear RNNs via Householder Products", equation 5.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        steps: int = 2,
        expand_v: int = 1,
        d_conv: int = 4,
        decay: bool = True,
        negative_eigenvalues: bool = True,
        backend: str = "auto",
    ):
        if steps < 1:
            raise ValueError(f"steps: expected at least 1 per token, got {steps}")
        options = dict(d_conv=d_conv, steps=steps, backend=backend)
        super().__init__(dim, num_heads, expand_v * dim, negative_eigenvalues=negative_eigenvalues, **options)
        self.decay = HeadDecay(dim, num_heads) if decay else None

    def log_decay(self, x: Tensor) -> Tensor | None:
        return None if self.decay is None else self.decay(x)
