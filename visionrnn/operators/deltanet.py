"""DeltaNet (Schlag et al. 2021; Yang et al. 2024), and what its descendants share with it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionrnn.kernels import delta_rule
from visionrnn.layers.heads import at_least_float32
from visionrnn.layers.linear import Linear
from visionrnn.operators.base import State, without_weight_decay
from visionrnn.operators.linear_attention import LinearAttention
from visionrnn.operators.mamba import step_bias
from visionrnn.registry import OPERATORS


class DeltaRule(LinearAttention):
    """Heads of queries, keys of length one, values, and β per step, into the delta rule. Subclasses add a decay by ``log_decay``."""

    def __init__(self, dim: int, num_heads: int, value: int, *, negative_eigenvalues: bool = False, **options: Any):
        super().__init__(dim, num_heads, value=value, **options)
        self.negative_eigenvalues = negative_eigenvalues
        self.beta_proj = Linear(dim, self.steps * num_heads, bias=False)

    def log_decay(self, x: Tensor) -> Tensor | None:
        """[B, T, H] or [B, T, H, K] at most 0, or None: nothing is forgotten."""
        return None

    def recur(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, state: State, how: dict[str, Any]) -> tuple[Tensor, State]:
        beta = at_least_float32(self.beta_proj(x)).sigmoid() * (2 if self.negative_eigenvalues else 1)
        beta = beta.unflatten(-1, (self.steps, self.num_heads)).flatten(1, 2)
        q, k = (F.normalize(at_least_float32(value), dim=-1) for value in (q, k))
        o, memory = delta_rule(q, k, v, beta, self.log_decay(x), state.get("memory"), steps=self.steps, **how)
        return o, {"memory": memory}


class HeadDecay(nn.Module):
    """log α_t = -exp(A) softplus(W x_t + b) per head, [B, T, H]; exp(A) uniform in [0, 16], softplus(b) log-uniform in [0.001, 0.1]."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.proj = Linear(dim, num_heads, bias=False)
        self.A_log = nn.Parameter(torch.empty(num_heads).uniform_(0, 16).clamp(min=1e-4).log())
        self.bias = nn.Parameter(step_bias(num_heads))
        without_weight_decay(self.A_log, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return -self.A_log.exp() * F.softplus(at_least_float32(self.proj(x)) + self.bias)


@OPERATORS.register("deltanet")
class DeltaNet(DeltaRule):
    """A linear layer, trained on each token's key and value while reading: the error is written, not the value.

        S_t = S_{t-1} + β_t k_t (v_t - S_{t-1}ᵀ k_t)ᵀ ,   o_t = K^{-1/2} S_tᵀ q_t ;   W_out norm(o)

    β = σ(W_β x); q, k, v each through a causal convolution and SiLU, q and k to length one. Source: Yang et al. 2024, "Parallelizing
    Linear Transformers with the Delta Rule over Sequence Length", after Schlag et al. 2021. ``negative_eigenvalues`` makes β = 2σ(W_β x)
    (Grazzi et al. 2024); ``d_conv`` taps, 0 for none; ``gate`` multiplies the output by SiLU(W_g x).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        d_conv: int = 4,
        gate: bool = False,
        negative_eigenvalues: bool = False,
        backend: str = "auto",
    ):
        super().__init__(dim, num_heads, dim, d_conv=d_conv, gate=gate, negative_eigenvalues=negative_eigenvalues, backend=backend)
