"""Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visionrnn.operators.base import State
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

    def mix(
        self, x: Tensor, state: State | None = None, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None
    ) -> tuple[Tensor, State]:
        if cu_seqlens is not None or not self._is_torchs(x):
            return super().mix(x, state, cu_seqlens, max_seqlen)
        y0, c0 = (x.new_zeros(1, x.shape[0], x.shape[2]) if state is None else state[name].transpose(0, 1) for name in ("y", "c"))
        bias = self.bias.flatten()
        weights = [self.in_weight, self.recurrent.flatten(0, 2), bias, torch.zeros_like(bias)]
        y, last, c = torch.lstm(x, (y0.contiguous(), c0.contiguous()), weights, True, 1, 0.0, self.training, False, True)
        return y, {"y": last.transpose(0, 1), "c": c.transpose(0, 1)}

    def _is_torchs(self, x: Tensor) -> bool:
        """Whether PyTorch's own LSTM does the same, which fuses the input's product: one head, float32, nothing packed or traced."""
        plain = self.num_heads == 1 and self.conv1d is None and self.backend == "auto" and x.numel() > 0
        cpu = x.device.type == "cpu" and x.dtype == torch.float32 == self.bias.dtype and not torch.is_autocast_enabled("cpu")
        return plain and cpu and not torch.compiler.is_compiling()
