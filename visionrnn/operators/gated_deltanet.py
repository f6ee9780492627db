"""Gated DeltaNet (Yang et al. 2024)."""

from __future__ import annotations

from torch import Tensor

from visionrnn.operators.deltanet import DeltaRule, HeadDecay
from visionrnn.registry import OPERATORS


@OPERATORS.register("gated_deltanet")
class GatedDeltaNet(DeltaRule):
    """The delta rule with a decay per head, so that much can be forgotten at once.

        S_t = α_t (I - β_t k_t k_tᵀ) S_{t-1} + β_t k_t v_tᵀ ,   o_t = K^{-1/2} S_tᵀ q_t ;   W_out (norm(o) ⊙ SiLU(W_g x))

    α_t = exp(-A softplus(W_α x_t + b)) as Mamba-2's; the rest as in ``deltanet``. Source: Yang et al. 2024, "Gated Delta Networks:
    Improving Mamba2 with Delta Rule". ``expand_v``: width of all values in units of dim.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        expand_v: int = 2,
        d_conv: int = 4,
        negative_eigenvalues: bool = False,
        backend: str = "auto",
    ):
        super().__init__(dim, num_heads, expand_v * dim, d_conv=d_conv, negative_eigenvalues=negative_eigenvalues, backend=backend)
        self.decay = HeadDecay(dim, num_heads)

    def log_decay(self, x: Tensor) -> Tensor:
        return self.decay(x)
