"""xLSTM's sLSTM layer (Beck et al. 2024)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from visionrnn.layers.heads import HeadNorm
from visionrnn.operators.recurrent import RecurrentOperator
from visionrnn.registry import OPERATORS


@OPERATORS.register("slstm")
class SLSTM(RecurrentOperator):
    """Scalar memory with exponential input gates, a normaliser, and a recurrent matrix per head; then a norm over each head.

        i, f from SiLU(conv(x)) and z, o from x, each by one matrix per head ;   y = slstm(i, f, z, o, R)   (equations in the kernel)

    Source: Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory", section 2.2 and the sLSTM block of its appendix. Starting values
    as there: R zero; forget bias from 5 down to -7 over a head's units by a power law, which ``depth``, the layer's place in the network
    from 0 to 1, bends; other biases zero; gate weights N(0, 2 / (5 dim)). Options: ``d_conv`` taps, 0 for no convolution.
    """

    cell = "slstm"

    def __init__(self, dim: int, num_heads: int = 4, d_conv: int = 4, depth: float = 0.0, backend: str = "auto"):
        super().__init__(dim, num_heads, d_conv, backend, headwise=True)
        width = dim // num_heads
        self.norm = HeadNorm(num_heads, width, center=True)
        nn.init.normal_(self.in_weight, std=math.sqrt(2 / (5 * dim)))
        nn.init.zeros_(self.recurrent)
        nn.init.zeros_(self.bias)
        place = torch.arange(width) / max(width - 1, 1)
        with torch.no_grad():
            self.bias[1] = 5 - 12 * place ** (0.3 + 1.3 * depth)

    def gates(self, x: Tensor, convolved: Tensor) -> Tensor:
        sources = torch.stack([convolved.to(x.dtype), x]).unflatten(-1, (self.num_heads, -1))  # [2, B, T, H, D]
        weights = self.in_weight.unflatten(0, (2, 2))
        return torch.einsum("sbthi,sghoi->btsgho", sources.to(weights.dtype), weights).flatten(2)

    def read(self, y: Tensor) -> Tensor:
        return self.norm(y).flatten(2)
