"""Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000)."""

from __future__ import annotations

from torch import nn

from visionrnn.operators.recurrent import RecurrentOperator
from visionrnn.registry import OPERATORS


@OPERATORS.register("lstm")
class LSTM(RecurrentOperator):
    """i, f, z, o = W x_t + R y_{t-1} + b ,   c_t = σ(f) c_{t-1} + σ(i) tanh(z) ,   y_t = σ(o) tanh(c_t).

    ``num_heads`` 1 is the classical network; more heads make R block-diagonal (FlashRNN, Poeppel et al. 2024). Starting values
    uniform within ± D^{-1/2} for heads of D units, the forget gate's bias 1 (Jozefowicz et al. 2015). ``d_conv``: see the base class.
    """

    cell = "lstm"

    def __init__(self, dim: int, num_heads: int = 1, d_conv: int = 0, backend: str = "auto"):
        super().__init__(dim, num_heads, d_conv, backend)
        nn.init.ones_(self.bias[1])
