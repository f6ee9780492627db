"""Gated recurrent unit (Cho et al. 2014)."""

from __future__ import annotations

from visionrnn.operators.recurrent import RecurrentOperator
from visionrnn.registry import OPERATORS


@OPERATORS.register("gru")
class GRU(RecurrentOperator):
    """r, z = σ(W x_t + R y_{t-1} + b) ,   y_t = z y_{t-1} + (1 - z) tanh(W_n x_t + b_n' + r (R_n y_{t-1} + b_n)).

    The reset gate r acts on the product with R, as in cuDNN and FlashRNN (Poeppel et al. 2024). ``num_heads`` 1 is the classical
    network; more heads make R block-diagonal. Starting values uniform within ± D^{-1/2}. ``d_conv``: see the base class.
    """

    cell = "gru"

    def __init__(self, dim: int, num_heads: int = 1, d_conv: int = 0, backend: str = "auto"):
        super().__init__(dim, num_heads, d_conv, backend)
