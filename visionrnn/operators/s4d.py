"""S4D, the diagonal state-space model (Gu et al. 2022)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionrnn.kernels import s4d
from visionrnn.layers.heads import at_least_float32
from visionrnn.layers.linear import Linear
from visionrnn.operators.base import Operator, State, without_weight_decay
from visionrnn.registry import OPERATORS


@OPERATORS.register("s4d")
class S4D(Operator):
    """A state-space model per channel, the same at every step, discretised by a zero-order hold.

        h_t = e^{Δ A} h_{t-1} + (e^{Δ A} - 1) / A x_t ,   y_t = 2 Re(C h_t) + D ⊙ x_t ;   GLU(W_out GELU(y) + b)

    Source: Gu et al. 2022, "On the Parameterization and Initialization of Diagonal State Space Models": S4D-Lin, A_n = -½ + iπn, Δ
    log-uniform in [0.001, 0.1], C normal. ``d_state``: real size of h, held as half as many conjugate pairs.
    """

    def __init__(self, dim: int, d_state: int = 64, backend: str = "auto"):
        super().__init__()
        if d_state < 2 or d_state % 2:
            raise ValueError(f"d_state: expected an even size, for pairs of conjugate states, got {d_state}")
        self.backend, pairs = backend, d_state // 2
        self.dt_log = nn.Parameter(torch.empty(dim).uniform_(math.log(1e-3), math.log(1e-1)))
        self.A_real_log = nn.Parameter(torch.full((dim, pairs), math.log(0.5)))
        self.A_imag = nn.Parameter(torch.pi * torch.arange(pairs, dtype=torch.get_default_dtype()).repeat(dim, 1))
        self.C = nn.Parameter(torch.randn(2, dim, pairs) * 0.5**0.5)  # real and imaginary part
        self.D = nn.Parameter(torch.randn(dim))
        without_weight_decay(self.dt_log, self.A_real_log, self.A_imag)
        self.out_proj = Linear(dim, 2 * dim)

    def mix(
        self, x: Tensor, state: State | None = None, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None
    ) -> tuple[Tensor, State]:
        real, imaginary, *C = (at_least_float32(value) for value in (self.A_real_log, self.A_imag, *self.C.unbind(0)))
        y, h = s4d(
            x, at_least_float32(self.dt_log).exp(), torch.complex(-real.exp(), imaginary), torch.complex(*C), self.D,
            (state or {}).get("h"), return_final_state=True,
            cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=self.backend,
        )  # fmt: skip
        return F.glu(self.out_proj(F.gelu(y).to(self.out_proj.weight.dtype))), {"h": h}
