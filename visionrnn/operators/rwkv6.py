"""RWKV-6's time mixing, "Finch" (Peng et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visionrnn.kernels import gated_linear_attention
from visionrnn.kernels.activations import silu_gate, tanh
from visionrnn.layers.causal_conv import step_before
from visionrnn.layers.heads import HeadNorm, at_least_float32, head_width
from visionrnn.layers.linear import Linear, linear
from visionrnn.operators.base import Operator, State, without_weight_decay
from visionrnn.registry import OPERATORS


@OPERATORS.register("rwkv6")
class RWKV6(Operator):
    """Linear attention with a decay per key channel, a bonus for the present token, and inputs mixed with the token before.

        x̃ = x_t + (x_{t-1} - x_t) ⊙ μ_x ,   x_i = x_t + (x_{t-1} - x_t) ⊙ (μ_i + tanh(x̃ A_i) B_i)      i = w, k, v, r, g
        o_t = (S_{t-1} + diag(u) k_t v_tᵀ)ᵀ r_t ,   S_t = diag(e^{-e^{w_t}}) S_{t-1} + k_t v_tᵀ ,   w_t = λ + tanh(x_w A) B

    k, v, r, g = W x_i; output W_out (norm(o) ⊙ SiLU(g)). Source: Peng et al. 2024, "Eagle and Finch", section 4.2, and the starting
    values of the authors' code, where ``depth`` is the layer's place in the network, 0 for the first and 1 for the last (here by default
    between). ``mix_rank`` and ``decay_rank`` are the widths of A.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        mix_rank: int = 32,
        decay_rank: int = 64,
        depth: float = 0.5,
        backend: str = "auto",
    ):
        super().__init__()
        width = head_width(dim, num_heads)
        self.num_heads, self.backend = num_heads, backend
        place = torch.arange(dim) / dim
        mix, zigzag = 1 - place ** (1 - depth), 0.1 * ((torch.arange(dim) + 1) % 3 - 1)
        self.mix_x = nn.Parameter(mix.clone())
        self.mixes = nn.Parameter(
            torch.stack([mix, mix, mix - 0.3 * depth, 1 - place ** ((1 - depth) / 2), 1 - place ** ((1 - depth) / 2)])
        )
        self.mix_down = nn.Parameter(torch.empty(dim, 5 * mix_rank).uniform_(-1e-4, 1e-4))
        self.mix_up = nn.Parameter(torch.empty(5, mix_rank, dim).uniform_(-1e-4, 1e-4))
        line = torch.arange(dim) / max(dim - 1, 1)
        self.decay = nn.Parameter(-6 + 5 * line ** (0.7 + 1.3 * depth))
        self.decay_down = nn.Parameter(torch.empty(dim, decay_rank).uniform_(-1e-4, 1e-4))
        self.decay_up = nn.Parameter(torch.empty(decay_rank, dim).uniform_(-1e-4, 1e-4))
        self.bonus = nn.Parameter((depth * (1 - line) + zigzag).unflatten(0, (num_heads, width)))
        without_weight_decay(self.decay, self.bonus)
        self.k_proj, self.v_proj, self.r_proj, self.gate_proj, self.out_proj = (Linear(dim, dim, bias=False) for _ in range(5))
        self.norm = HeadNorm(num_heads, width, center=True, bias=True, eps=64e-5)

    def mix(
        self, x: Tensor, state: State | None = None, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None
    ) -> tuple[Tensor, State]:
        state = state or {}
        before, last = step_before(x, state.get("x"), cu_seqlens)
        change = before - x
        value, change = x.to(self.mixes.dtype), change.to(self.mixes.dtype)
        low = tanh(linear(torch.addcmul(value, change, self.mix_x), self.mix_down.t())).chunk(5, -1)
        w, k, v, r, g = (
            torch.addcmul(value, change, linear(part, up.t(), mix)) for part, up, mix in zip(low, self.mix_up, self.mixes, strict=True)
        )
        decay = at_least_float32(linear(tanh(linear(w, self.decay_down.t())), self.decay_up.t()))
        log_decay = -(self.decay + decay).exp()
        q, k, v, log_decay = (
            value.unflatten(-1, (self.num_heads, -1)) for value in (self.r_proj(r), self.k_proj(k), self.v_proj(v), log_decay)
        )
        o, memory = gated_linear_attention(
            q, k, v, log_decay, state.get("memory"), bonus=self.bonus, scale=1.0,
            return_final_state=True, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=self.backend,
        )  # fmt: skip
        y = silu_gate(self.norm(o).flatten(2), self.gate_proj(g))
        return self.out_proj(y.to(self.out_proj.weight.dtype)), {"x": last, "memory": memory}
