"""TTT-MLP (Sun et al. 2024): the state is a network of two layers that trains on the sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visionrnn.kernels import ttt_mlp
from visionrnn.layers.heads import head_width
from visionrnn.operators.ttt import TTTLayer
from visionrnn.registry import OPERATORS


@OPERATORS.register("ttt_mlp")
class TTTMLP(TTTLayer):
    """As ``ttt_linear``, with z = W2ᵀ GELU(W1ᵀ q + b1) + b2 in place of Wᵀ q + b.

    The hidden layer is ``expand`` times as wide as a head. Source: Sun et al. 2024, "Learning to (Learn at Test Time)"; base learning rate
    0.1, W1 and W2 start as N(0, 0.02²), b1 and b2 as 0.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        expand: int = 4,
        mini_batch_size: int = 16,
        base_lr: float = 0.1,
        gate: bool = False,
        share_qk: bool = False,
        d_conv: int = 4,
        rope_theta: float = 10000.0,
        backend: str = "auto",
    ):
        width = head_width(dim, num_heads)
        hidden = expand * width
        model = {
            "weight_in": 0.02 * torch.randn(num_heads, width, hidden),
            "bias_in": torch.zeros(num_heads, hidden),
            "weight_out": 0.02 * torch.randn(num_heads, hidden, width),
            "bias_out": torch.zeros(num_heads, width),
        }
        options: dict[str, Any] = dict(gate=gate, share_qk=share_qk, d_conv=d_conv, rope_theta=rope_theta, backend=backend)
        super().__init__(dim, num_heads, model, mini_batch_size=mini_batch_size, base_lr=base_lr, **options)

    def learn(
        self, q: Tensor, k: Tensor, v: Tensor, rate: Tensor, model: tuple[Tensor, ...], how: dict[str, Any]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        weight_in, bias_in, weight_out, bias_out = model
        state = weight_in, bias_in, weight_out, bias_out
        o, after = ttt_mlp(q, k, v, rate, self.model_norm_weight, self.model_norm_bias, state, **how)
        return o, after
