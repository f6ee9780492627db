"""RWKV-4's time mixing (Peng et al. 2023)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from visionrnn.kernels import prefix_softmax
from visionrnn.layers.causal_conv import step_before
from visionrnn.layers.heads import at_least_float32
from visionrnn.layers.linear import Linear
from visionrnn.operators.base import Operator, State, without_weight_decay
from visionrnn.registry import OPERATORS


@OPERATORS.register("rwkv4")
class RWKV4(Operator):
    """Per channel a softmax over the past with a fixed decay w, and a bonus u for the present.

        r, k, v = W (μ ⊙ x_t + (1 - μ) ⊙ x_{t-1}), each with its own W and μ
        wkv_t = (Σ_{i<t} e^{-(t-1-i) w + k_i} v_i + e^{u + k_t} v_t) / (the same without v) ;   W_out (σ(r) ⊙ wkv)

    Source: Peng et al. 2023, "RWKV: Reinventing RNNs for the Transformer Era", equations 11 to 18 and the starting values of its
    appendix, where ``depth`` is the layer's place in the network, 0 for the first and 1 for the last (here by default between).
    """

    def __init__(self, dim: int, depth: float = 0.5, backend: str = "auto"):
        super().__init__()
        self.backend = backend
        place = torch.arange(dim) / dim
        mix = place ** (1 - depth)
        self.mixes = nn.Parameter(torch.stack([place ** ((1 - depth) / 2), mix, mix + 0.3 * depth]))  # of r, k, v
        self.decay = nn.Parameter(-5 + 8 * (torch.arange(dim) / max(dim - 1, 1)) ** (0.7 + 1.3 * depth))  # log w
        self.bonus = nn.Parameter(math.log(0.3) + 0.5 * ((torch.arange(dim) + 1) % 3 - 1))
        without_weight_decay(self.decay, self.bonus)
        self.r_proj, self.k_proj, self.v_proj, self.out_proj = (Linear(dim, dim, bias=False) for _ in range(4))

    def mix(
        self, x: Tensor, state: State | None = None, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None
    ) -> tuple[Tensor, State]:
        before, last = step_before(x, state["x"] if state else None, cu_seqlens)
        r, k, v = (torch.lerp(before, x, mix.to(x.dtype)) for mix in self.mixes)
        wkv, sums = prefix_softmax(
            at_least_float32(self.k_proj(k)), at_least_float32(self.v_proj(v)).unsqueeze(-1), -self.decay.exp(), self.bonus,
            (state["maximum"], state["denominator"], state["numerator"]) if state else None,
            return_final_state=True, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=self.backend,
        )  # fmt: skip
        y = self.r_proj(r).sigmoid() * wkv.squeeze(-1)
        maximum, denominator, numerator = sums
        return self.out_proj(y.to(self.out_proj.weight.dtype)), {
            "x": last,
            "maximum": maximum,
            "denominator": denominator,
            "numerator": numerator,
        }
