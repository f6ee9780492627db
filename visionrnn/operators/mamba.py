"""Mamba (Gu & Dao 2023): projection, causal depthwise convolution, selective scan, gate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from visionrnn.kernels import causal_conv, selective_scan
from visionrnn.kernels.activations import silu_gate, softplus
from visionrnn.kernels.dispatch import on_triton
from visionrnn.kernels.recurrence import MAX_WIDTH
from visionrnn.layers.causal_conv import CausalConv
from visionrnn.layers.linear import Linear, linear
from visionrnn.operators.base import Operator, State, without_weight_decay
from visionrnn.registry import OPERATORS


@OPERATORS.register("mamba")
class Mamba(Operator):
    """Selective state-space mixer, causal, or with ``bidirectional`` the form of LION (Liu et al. 2024).

        [u; z] = W_in x ;   y = Σ over directions of  scan(SiLU(conv(u))) ⊙ SiLU(z) ;   out = W_out y

    The two directions share W_in and W_out; convolution, Δ, A, B, C, D are each direction's own, and results are summed.
    Options: ``d_state`` N states per channel, ``d_conv`` taps, ``expand`` inner width in units of dim, ``dt_rank`` (dim/16 when absent).
    """

    has_bidirectional = True

    def __init__(
        self,
        dim: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        bidirectional: bool = False,
        backend: str = "auto",
    ):
        super().__init__()
        self.causal, self.backend = not bidirectional, backend
        inner, dt_rank = expand * dim, math.ceil(dim / 16) if dt_rank is None else dt_rank
        self.in_proj = Linear(dim, 2 * inner, bias=False)
        self.directions = nn.ModuleList(
            SelectiveSSM(inner, d_state, d_conv, dt_rank, reverse, backend) for reverse in ((False, True) if bidirectional else (False,))
        )
        self.out_proj = Linear(inner, dim, bias=False)

    def mix(
        self, x: Tensor, state: State | None = None, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None
    ) -> tuple[Tensor, State]:
        u, z = (linear(x, weight) for weight in self.in_proj.weight.chunk(2))  # [B, T, D] each, both contiguous
        y, state = self.directions[0](u, state, cu_seqlens, max_seqlen)
        for direction in self.directions[1:]:
            y = y + direction(u, None, cu_seqlens, max_seqlen)[0]
        return self.out_proj(silu_gate(y, z)), state

    def scans_rows(self, x: Tensor) -> bool:
        functions = ("causal_conv", "causal_conv"), ("diagonal", "selective_scan")
        part: Any = self.directions[0]
        fits = part.A_log.shape[1] <= MAX_WIDTH
        return not self.causal and fits and on_triton(self.backend, x.dtype, x.device.type, *functions)

    def through(self, x: Tensor, index: Tensor, cu_seqlens: Tensor, max_seqlen: int | None = None) -> Tensor:
        """Both directions in one launch of each kernel, their products batched."""
        u, z = (linear(x, weight) for weight in self.in_proj.weight.chunk(2))  # [1, N, D] each
        both: Any = list(self.directions)
        order: dict[str, Any] = dict(cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, index=index, direction="both", backend=self.backend)
        taps = torch.stack([part.conv1d.weight[:, 0].flip(-1).T for part in both])
        bias = None if both[0].conv1d.bias is None else torch.stack([part.conv1d.bias for part in both])
        c: Any = causal_conv(u.to(taps.dtype), taps, bias, activation="silu", merge="stack", **order)  # [2, 1, N, D]
        dt, B, C = torch.bmm(c.squeeze(1), torch.stack([part.x_proj.weight for part in both]).mT).split(both[0].sizes, dim=-1)
        delta = torch.bmm(dt, torch.stack([part.dt_proj.weight for part in both]).mT)
        A_log, D, step = (torch.stack(found) for found in zip(*((part.A_log, part.D, part.dt_proj.bias) for part in both), strict=True))
        delta, B, C = (value.unsqueeze(1) for value in (delta, B, C))
        y: Any = selective_scan(c, delta, -A_log.exp(), B, C, D, delta_bias=step, delta_softplus=True, **order)
        return self.out_proj(silu_gate(y, z))


class SelectiveSSM(nn.Module):
    """One direction: depthwise convolution, input-dependent Δ, B, C, and the scan. [B, T, D] → [B, T, D].

    Ahead, Δ starts log-uniform in [0.001, 0.1] as in Mamba; back, as in LION, dt_proj keeps PyTorch's start: Δ ≈ softplus(0).
    """

    def __init__(self, inner: int, d_state: int, d_conv: int, dt_rank: int, reverse: bool, backend: str):
        super().__init__()
        self.reverse, self.backend, self.sizes = reverse, backend, (dt_rank, d_state, d_state)
        self.conv1d = CausalConv(inner, d_conv, reverse=reverse, activation="silu", backend=backend)
        self.x_proj = Linear(inner, sum(self.sizes), bias=False)
        self.dt_proj = Linear(dt_rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        without_weight_decay(self.A_log, self.D)
        if reverse:
            return
        nn.init.uniform_(self.dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        with torch.no_grad():
            self.dt_proj.bias.copy_(step_bias(inner))

    def forward(self, u: Tensor, state: State | None, cu_seqlens: Tensor | None, max_seqlen: int | None) -> tuple[Tensor, State]:
        state = state or {}
        u, window = self.conv1d(u, state.get("conv"), cu_seqlens)
        dt, B, C = self.x_proj(u).split(self.sizes, dim=-1)
        delta = softplus(self.dt_proj(dt).to(self.A_log.dtype))
        y, h = selective_scan(
            u, delta, -self.A_log.exp(), B, C, self.D, None, state.get("scan"),
            return_final_state=True, reverse=self.reverse, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=self.backend,
        )  # fmt: skip
        return y, {"conv": window, "scan": h}


def step_bias(channels: int) -> Tensor:
    """[channels]: Mamba's starting bias of Δ, softplus of it log-uniform in [0.001, 0.1]."""
    step = torch.exp(torch.empty(channels).uniform_(math.log(1e-3), math.log(1e-1))).clamp(min=1e-4)
    return step + torch.log(-torch.expm1(-step))  # inverse of softplus
