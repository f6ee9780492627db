"""What the operators over nonlinear cells share: projection to the gates, optional short convolution, the recurrence of each head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionrnn.kernels import nonlinear_rnn
from visionrnn.kernels.nonlinear.cells import CELLS
from visionrnn.layers.causal_conv import CausalConv
from visionrnn.layers.heads import at_least_float32, head_width
from visionrnn.operators.base import Operator, State


class RecurrentOperator(Operator):
    """y_t = cell(W_in x_t, R y_{t-1}, b), the units in ``num_heads`` heads that see each other only through W_in.

    ``d_conv`` taps: the input passes a causal convolution and SiLU first; 0: it does not. ``headwise``: W_in has a block per head.
    """

    cell: str  # of kernels.nonlinear_rnn

    def __init__(self, dim: int, num_heads: int, d_conv: int, backend: str, headwise: bool = False):
        super().__init__()
        width, kind = head_width(dim, num_heads), CELLS[self.cell]
        self.num_heads, self.backend = num_heads, backend
        self.conv1d = CausalConv(dim, d_conv, activation="silu", backend=backend) if d_conv else None
        shape = (kind.inputs, num_heads, width, width) if headwise else (kind.inputs * dim, dim)
        self.in_weight = nn.Parameter(torch.empty(shape))  # [G · C, C] or [G, H, D_out, D_in]
        self.recurrent = nn.Parameter(torch.empty(kind.matrices, num_heads, width, width))  # [G, H, D_out, D_in]
        self.bias = nn.Parameter(torch.empty(kind.biases, num_heads, width))
        for parameter in (self.in_weight, self.recurrent, self.bias):
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)

    def gates(self, x: Tensor, convolved: Tensor) -> Tensor:
        """What the cell reads, [B, T, G · C], from the input and the input after the convolution."""
        return F.linear(convolved, self.in_weight)

    def read(self, y: Tensor) -> Tensor:
        """What the operator returns, from the cell's output [B, T, H, D]."""
        return y.flatten(2)

    def mix(
        self, x: Tensor, state: State | None = None, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None
    ) -> tuple[Tensor, State]:
        state, new, convolved = state or {}, {}, x
        if self.conv1d is not None:
            convolved, new["conv"] = self.conv1d(x, state.get("conv"), cu_seqlens)
        names = CELLS[self.cell].states
        gates = at_least_float32(self.gates(x, convolved)).unflatten(-1, (-1, self.num_heads, self.bias.shape[-1]))
        y, final = nonlinear_rnn(
            gates, self.recurrent, self.bias, tuple(state[name] for name in names) if state else None, cell=self.cell,
            return_final_state=True, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=self.backend,
        )  # fmt: skip
        new |= dict(zip(names, (final,) if isinstance(final, Tensor) else final, strict=True))
        return self.read(y.to(x.dtype)), new
