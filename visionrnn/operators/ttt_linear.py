"""TTT-Linear (Sun et al. 2024): the state is a linear map that trains on the sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visionrnn.kernels import ttt_linear
from visionrnn.layers.heads import head_width
from visionrnn.operators.ttt import TTTLayer
from visionrnn.registry import OPERATORS


@OPERATORS.register("ttt_linear")
class TTTLinear(TTTLayer):
    """A linear map W, b per head learns, by one gradient step per mini-batch of ``mini_batch_size`` steps, to predict v - k from k.

        o_t = q_t + LN(W_tᵀ q_t + b_t) ;   y = W_out LN(o),  with ``gate`` W_out (GELU(W_g x) ⊙ LN(o))

    Learning rate ``base_lr`` σ(w_h · x + b_h) / D, times 1/i + learned offset at position i of the mini-batch; q, k are turned by that
    position (pairs of neighbouring channels, base ``rope_theta``). ``share_qk`` makes q and k two causal convolutions of ``d_conv`` taps
    over one projection. Source: Sun et al. 2024, "Learning to (Learn at Test Time)"; W and the rate's weights start as N(0, 0.02²), b and
    the rate's bias as 0.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        mini_batch_size: int = 16,
        base_lr: float = 1.0,
        gate: bool = False,
        share_qk: bool = False,
        d_conv: int = 4,
        rope_theta: float = 10000.0,
        backend: str = "auto",
    ):
        width = head_width(dim, num_heads)
        model = {"weight": 0.02 * torch.randn(num_heads, width, width), "bias": torch.zeros(num_heads, width)}
        options: dict[str, Any] = dict(gate=gate, share_qk=share_qk, d_conv=d_conv, rope_theta=rope_theta, backend=backend)
        super().__init__(dim, num_heads, model, mini_batch_size=mini_batch_size, base_lr=base_lr, **options)

    def learn(
        self, q: Tensor, k: Tensor, v: Tensor, rate: Tensor, model: tuple[Tensor, ...], how: dict[str, Any]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        weight, bias = model
        o, after = ttt_linear(q, k, v, rate, self.model_norm_weight, self.model_norm_bias, (weight, bias), **how)
        return o, after
