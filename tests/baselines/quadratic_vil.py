"""Vision-LSTM (Alkin et al. 2024) in its quadratic form: the mLSTM of every layer as one T × T matrix for each head.

    D_ts = Σ_{r = s+1 … t} log σ(f_r) + i_s for s ≤ t, else -∞ ;   m_t = max_s D_ts ;   P_ts = (q_t · k_s / √K) e^{D_ts - m_t}
    h_t = Σ_s P_ts v_s / (max(|Σ_s P_ts|, e^{-m_t}) + 1e-6)

The linear form's running maximum starts at 0 where this one starts at the first step; h depends on it beside 1e-6 only.

Everything around it is plain PyTorch too, with the layer's own weights: its projections and convolution are the layer's modules, so that a
comparison of times is one of the forms of the memory and what surrounds it; the blocks of q, k, v are an einsum.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionrnn.backbones.vil import ViLLayer


def quadratic_mlstm(q: Tensor, k: Tensor, v: Tensor, input_gate: Tensor, forget_gate: Tensor, eps: float = 1e-6) -> Tensor:
    """q, k: [B, H, T, K]; v: [B, H, T, V]; gates before their activations: [B, H, T] → h [B, H, T, V]."""
    steps = q.shape[2]
    since_start = F.logsigmoid(forget_gate).cumsum(-1)
    decay = since_start.unsqueeze(-1) - since_start.unsqueeze(-2) + input_gate.unsqueeze(-2)
    decay = decay.masked_fill(torch.ones(steps, steps, dtype=torch.bool, device=q.device).triu(1), -torch.inf)
    m = decay.amax(-1, keepdim=True)
    weights = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5) * (decay - m).exp()
    divisor = torch.maximum(weights.sum(-1, keepdim=True).abs(), (-m).exp()) + eps
    return weights / divisor @ v


class QuadraticLayer(ViLLayer):
    """A layer of :class:`visionrnn.backbones.vil.ViL` with the same weights; batches of images of one size."""

    def scan(self, x, convolve, state=None, cu_seqlens=None, max_seqlen=None, order=None, reverse=None, final=False):
        if state is not None or cu_seqlens is not None:
            raise ValueError("the quadratic form takes whole images of one size: neither states nor packed sequences")
        u, z = self.up_proj(x).chunk(2, -1)
        c = convolve(u)
        blocks = self.qkv_weight.shape[1:3]
        qkv = [
            torch.einsum("btni,noi->btno", w.unflatten(-1, blocks), p).flatten(2) for w, p in zip((c, c, u), self.qkv_weight, strict=True)
        ]
        if self.qkv_bias is not None:
            qkv = [value + bias for value, bias in zip(qkv, self.qkv_bias, strict=True)]
        gates = self.gates(torch.cat(qkv, -1)).transpose(1, 2).chunk(2, 1)
        heads = [value.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for value in qkv]
        read = torch.arange(x.shape[1], device=x.device) if order is None else order[0]
        read = read.flip(0) if reverse else read  # the token at every step
        h = quadratic_mlstm(*(value[:, :, read] for value in (*heads, *gates)))[:, :, read.argsort()]
        y = (self.norm(h.transpose(1, 2).flatten(2)) + self.skip * c) * F.silu(z)
        return self.down_proj(y), {}


def quadratic_vil(model: nn.Module) -> nn.Module:
    """A copy of a ViL, or of anything that has its layers, which evaluates the quadratic form."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, ViLLayer):
            module.__class__ = QuadraticLayer
    return model
