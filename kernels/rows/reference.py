"""What the kernels compute, in plain PyTorch on any device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..causal_conv import causal_conv
from .triton_op import Direction, MixerInputs


def mixer_inputs(uz: Tensor, ahead: Direction, back: Direction, cu_seqlens: Tensor, index: Tensor | None) -> MixerInputs:
    """As :func:`visionrnn.kernels.rows.mixer_inputs`."""
    u = uz.unflatten(1, (2, -1))[:, 0]
    u = (u if index is None else u[index]).unsqueeze(0)
    found = []
    for reverse, part in enumerate((ahead, back)):
        states, rank = part.A_log.shape[1], part.step_weight.shape[1]
        weight = part.conv_weight.flip(-1).T.to(u.dtype)
        c = causal_conv(u, weight, part.conv_bias, activation="silu", reverse=bool(reverse), cu_seqlens=cu_seqlens, backend="reference")
        dt, B, C = F.linear(c[0], part.weight).split((rank, states, states), -1)
        found.append((c[0], F.softplus(F.linear(dt, part.step_weight, part.step_bias)), B, C, -part.A_log.exp(), part.D))
    return MixerInputs(*map(torch.stack, zip(*found, strict=True)))


def mixer_output(
    y: Tensor, uz: Tensor, weight: Tensor, x: Tensor, gain: Tensor | None, shift: Tensor | None, index: Tensor | None, eps: float
) -> Tensor:
    """As :func:`visionrnn.kernels.rows.mixer_output`."""
    z = uz.unflatten(1, (2, -1))[:, 1]
    branch = F.linear(y.sum(0) * F.silu(z if index is None else z[index]), weight)
    branch = branch if gain is None else F.layer_norm(branch, gain.shape, gain, shift, eps)
    return x + (branch if index is None else torch.empty_like(branch).index_copy_(0, index, branch))
