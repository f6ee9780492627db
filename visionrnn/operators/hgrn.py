"""HGRN: gated linear RNN with lower bounds on its forget gates (Qin et al. 2023)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from visionrnn.kernels import diagonal_scan
from visionrnn.layers.heads import HeadNorm, at_least_float32
from visionrnn.layers.linear import Linear
from visionrnn.operators.base import Operator, State
from visionrnn.registry import OPERATORS


@OPERATORS.register("hgrn")
class HGRN(Operator):
    """A scan per channel with an input-dependent forget gate.

        f_t = γ + (1 - γ) σ(W_f x_t) ,   h_t = f_t ⊙ h_{t-1} + (1 - f_t) ⊙ SiLU(W_i x_t) ;   W_out (norm(h) ⊙ SiLU(W_g x))

    Source: Qin et al. 2023, "Hierarchically Gated Recurrent Neural Network for Sequence Modeling", equations 1 to 4, in its real form.
    ``lower_bound`` is γ, 0 in the first layer of a network and rising towards 1 with depth (the paper's cumulative softmax over layers, as
    a constant of each layer); ``expand`` is the number of channels scanned in units of dim.
    """

    def __init__(self, dim: int, expand: int = 1, lower_bound: float = 0.0, backend: str = "auto"):
        super().__init__()
        self.backend, self.lower_bound = backend, check_lower_bound(lower_bound)
        self.in_proj, self.forget_proj, self.gate_proj = (Linear(dim, expand * dim, bias=False) for _ in range(3))
        self.norm = HeadNorm(1, expand * dim)
        self.out_proj = Linear(expand * dim, dim, bias=False)

    def mix(
        self, x: Tensor, state: State | None = None, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None
    ) -> tuple[Tensor, State]:
        log_decay = log_forget(at_least_float32(self.forget_proj(x)), self.lower_bound)
        value = -torch.expm1(log_decay) * F.silu(at_least_float32(self.in_proj(x)))
        how: dict[str, Any] = dict(return_final_state=True, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=self.backend)
        h, last = diagonal_scan(value, log_decay, (state or {}).get("h"), **how)
        y = self.norm(h.unsqueeze(2)).squeeze(2) * F.silu(self.gate_proj(x))
        return self.out_proj(y.to(self.out_proj.weight.dtype)), {"h": last}


def log_forget(gate: Tensor, lower_bound: float) -> Tensor:
    """log(γ + (1 - γ) σ(gate)) without cancellation."""
    if lower_bound == 0:
        return F.logsigmoid(gate)
    return torch.logaddexp(gate.new_tensor(math.log(lower_bound)), math.log1p(-lower_bound) + F.logsigmoid(gate))


def check_lower_bound(lower_bound: float) -> float:
    """The argument; ValueError outside [0, 1)."""
    if not 0 <= lower_bound < 1:
        raise ValueError(f"lower_bound: expected a value in [0, 1), got {lower_bound}")
    return lower_bound
