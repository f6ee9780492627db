"""LION's RWKV block: RWKV-6 whose weighted sum runs both ways, and its gated feed-forward layer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionrnn.backbones.blocks.residual import Place
from visionrnn.kernels import causal_conv, gated_linear_attention
from visionrnn.kernels.activations import sigmoid, silu_gate, tanh
from visionrnn.kernels.dispatch import on_triton
from visionrnn.kernels.recurrence import MAX_WIDTH
from visionrnn.layers.drop_path import DropPath
from visionrnn.layers.heads import at_least_float32, head_width
from visionrnn.layers.linear import Linear, linear
from visionrnn.layers.norm import GroupedNorm
from visionrnn.registry import BLOCKS

MIX_RANK, DECAY_RANK = 32, 64


@BLOCKS.register("rwkv")
class RWKVBlock(nn.Module):
    """x ← x + γ₁ ⊙ time_mix(LN x) ;  x ← x + γ₂ ⊙ channel_mix(LN x).  [B, T, C] → [B, T, C].

    The first block of a backbone normalises its input. With ``post_norm`` the norms stand behind the branches; with ``init_values`` None
    there are no γ; ``key_norm`` adds a layer norm to the weighted sum and to the feed-forward layer's hidden channels (``hidden_rate``
    · C). Source: LION (Liu et al. 2024), after RWKV-6 (Peng et al. 2024) and Vision-RWKV (Duan et al. 2024).
    """

    def __init__(
        self,
        dim: int,
        place: Place | None = None,
        drop_path: float = 0.0,
        num_heads: int = 4,
        hidden_rate: int = 4,
        init_values: float | None = 1e-5,
        key_norm: bool = False,
        post_norm: bool = False,
        backend: str = "auto",
    ):
        super().__init__()
        place = place or Place()
        self.post_norm = post_norm
        self.input_norm = nn.LayerNorm(dim) if place.index == 0 else None
        self.time_norm, self.channel_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.time_mix = TimeMix(dim, num_heads, place, key_norm, backend)
        self.channel_mix = ChannelMix(dim, hidden_rate * dim, place, key_norm, backend)
        scales = (None if init_values is None else nn.Parameter(torch.full((dim,), init_values)) for _ in range(2))
        self.time_scale, self.channel_scale = scales
        self.drop_path = DropPath(drop_path)

    def scans_rows(self, x: Tensor) -> bool:
        """Whether the block takes rows in any order, and an index."""
        functions = ("causal_conv", "causal_conv"), ("gated_linear", "gated_linear_attention")
        fits = self.time_mix.bonus.shape[1] <= MAX_WIDTH
        return fits and on_triton(self.time_mix.backend, x.dtype, x.device.type, *functions)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None, index: Tensor | None = None) -> Tensor:
        x = x if self.input_norm is None else self.input_norm(x)
        for mix, norm, scale in (
            (self.time_mix, self.time_norm, self.time_scale),
            (self.channel_mix, self.channel_norm, self.channel_scale),
        ):
            branch = norm(mix(x, cu_seqlens, max_seqlen, index)) if self.post_norm else mix(norm(x), cu_seqlens, max_seqlen, index)
            branch = self.drop_path(branch, cu_seqlens, index)
            x = x + branch if scale is None else torch.addcmul(x, branch, scale.to(branch.dtype))
        return x


class TimeMix(nn.Module):
    """RWKV-6's attention, the sum over earlier and later steps, each weighted by the decays of the steps in between. [B, T, C] → same.

        x_i = x_t + e ⊙ (μ_i + tanh((x_t + e ⊙ μ_x) A_i) B_i) ,   e = x_{t-1} - x_t          i = w, k, v, r, g
        o_t = Σ_{s≠t} (r_t ⊙ Π_{j between s and t} e^{-e^{w_j}} ⊙ k_s)·v_s + (r_t ⊙ u ⊙ k_t)·v_t ,   w = λ + tanh(x_w A) B

    Output W_out (norm(o) ⊙ SiLU(g)). Only the sum looks ahead: the mix is with the step before.
    """

    def __init__(self, dim: int, num_heads: int, place: Place, key_norm: bool, backend: str):
        super().__init__()
        width = head_width(dim, num_heads)
        self.num_heads, self.backend = num_heads, backend
        late, early = place.index / max(place.count - 1, 1), 1 - place.index / place.count  # from 0 on, and from 1 down
        channel, line = torch.arange(dim) / dim, torch.arange(dim) / max(dim - 1, 1)
        mix, slow = 1 - channel**early, 1 - channel ** (0.5 * early)
        self.mix_x = nn.Parameter(mix.clone())
        self.mixes = nn.Parameter(torch.stack([mix, mix, mix - 0.3 * late, slow, slow]))
        self.mix_down = nn.Parameter(torch.empty(dim, 5 * MIX_RANK).uniform_(-1e-4, 1e-4))
        self.mix_up = nn.Parameter(torch.empty(5, MIX_RANK, dim).uniform_(-1e-4, 1e-4))
        self.decay = nn.Parameter(-6 + 5 * line ** (0.7 + 1.3 * late))
        self.decay_down = nn.Parameter(torch.empty(dim, DECAY_RANK).uniform_(-1e-4, 1e-4))
        self.decay_up = nn.Parameter(torch.empty(DECAY_RANK, dim).uniform_(-1e-4, 1e-4))
        zigzag = 0.1 * ((torch.arange(dim) + 1) % 3 - 1)
        self.bonus = nn.Parameter((late * (1 - line) + zigzag).unflatten(0, (num_heads, width)))
        self.k_proj, self.v_proj, self.r_proj, self.gate_proj, self.out_proj = (Linear(dim, dim, bias=False) for _ in range(5))
        self.norm = GroupedNorm(num_heads, dim)
        self.key_norm = nn.LayerNorm(dim) if key_norm else None

    def forward(self, x: Tensor, cu_seqlens: Tensor | None, max_seqlen: int | None, index: Tensor | None = None) -> Tensor:
        change = step_change(x, cu_seqlens, self.backend, index)
        w, k, v, r, g = self._mixed(x, change)
        decay = at_least_float32(linear(tanh(linear(w, self.decay_down.t())), self.decay_up.t()))
        log_decay = -torch.exp(decay + self.decay)
        q, k, v, log_decay = (
            value.unflatten(-1, (self.num_heads, -1)) for value in (self.r_proj(r), self.k_proj(k), self.v_proj(v), log_decay)
        )
        order: dict[str, Any] = dict(cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, index=index)
        how: dict[str, Any] = dict(scale=1.0, return_final_state=True, backend=self.backend, **order)
        ahead, _ = gated_linear_attention(q, k, v, log_decay, bonus=self.bonus, **how)
        back, _ = gated_linear_attention(q, k, v, log_decay, bonus=torch.zeros_like(self.bonus), reverse=True, **how)
        o = (ahead + back).flatten(2)
        o = o if self.key_norm is None else self.key_norm(o)
        return self.out_proj(silu_gate(self.norm(o), self.gate_proj(g)))

    def _mixed(self, x: Tensor, change: Tensor) -> list[Tensor]:
        """The five mixes of x with the step before, [B, T, C] each."""
        low = tanh(linear(torch.addcmul(x, change, self.mix_x), self.mix_down.t()))
        parts = zip(low.split(MIX_RANK, -1), self.mix_up, self.mixes, strict=True)
        return [torch.addcmul(x, change, linear(part, up.t(), mix)) for part, up, mix in parts]


class ChannelMix(nn.Module):
    """σ(W_r r) ⊙ W_v relu(W_k k)², with k, r = x ⊙ μ + e ⊙ (1 - μ), where e = x_{t-1} - x_t, as the published weights have it.

    (RWKV itself has x_{t-1} in place of e.)  [B, T, C] → [B, T, C].
    """

    def __init__(self, dim: int, hidden: int, place: Place, key_norm: bool, backend: str):
        super().__init__()
        self.backend = backend
        mix = (torch.arange(dim) / dim) ** (1 - place.index / place.count)
        self.mix_k, self.mix_r = nn.Parameter(mix.clone()), nn.Parameter(mix.clone())
        self.k_proj, self.v_proj = Linear(dim, hidden, bias=False), Linear(hidden, dim, bias=False)
        self.r_proj = Linear(dim, dim, bias=False)
        self.key_norm = nn.LayerNorm(hidden) if key_norm else None

    def forward(self, x: Tensor, cu_seqlens: Tensor | None, max_seqlen: int | None, index: Tensor | None = None) -> Tensor:
        change = step_change(x, cu_seqlens, self.backend, index)
        k, r = (torch.lerp(change, x, mix.to(x.dtype)) for mix in (self.mix_k, self.mix_r))
        hidden = F.relu(self.k_proj(k)).square()
        hidden = hidden if self.key_norm is None else self.key_norm(hidden)
        return sigmoid(self.r_proj(r)) * self.v_proj(hidden)


def step_change(x: Tensor, cu_seqlens: Tensor | None, backend: str, index: Tensor | None = None) -> Tensor:
    """x_{t-1} - x_t of every sequence, with zeros before its first step. [B, T, C] → [B, T, C]; step p is row ``index[p]``."""
    taps = torch.arange(-1, 2, 2, dtype=x.dtype, device=x.device)  # -1, 1; made there, where a constant would have to be sent
    taps = taps.unsqueeze(1).expand(2, x.shape[-1])
    change, _ = causal_conv(x, taps, return_final_state=True, cu_seqlens=cu_seqlens, index=index, backend=backend)
    return change
