"""Bidirectional Mamba with its residual on Triton, without gradients: what surrounds the scans in one launch before and one behind them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from visionrnn.kernels import selective_scan
from visionrnn.kernels.rows import MAX_CHANNELS, Direction, mixer_inputs, mixer_output
from visionrnn.layers.causal_conv import CausalConv
from visionrnn.layers.linear import Linear, linear
from visionrnn.layers.mlp import is_as_made
from visionrnn.operators.mamba import Mamba, SelectiveSSM


def fuses(mixer: nn.Module, norm: nn.Module, x: Tensor) -> bool:
    """Whether :func:`residual` may stand for the layers: they are Mamba's and as they were made, and no gradients are wanted."""
    if torch.is_grad_enabled() or not is_as_made(mixer, Mamba) or x.shape[-1] > MAX_CHANNELS:
        return False
    if not is_as_made(norm, nn.LayerNorm) or norm.weight is None:
        return False
    made: list[tuple[Any, type[nn.Module]]] = [(mixer.in_proj, Linear), (mixer.out_proj, Linear)]
    for part in mixer.directions:  # type: ignore[union-attr]
        made += [(part, SelectiveSSM), (part.conv1d, CausalConv), (part.x_proj, Linear), (part.dt_proj, Linear)]
    return all(is_as_made(module, kind) for module, kind in made)


def residual(
    mixer: Any, x: Tensor, given: Tensor, norm: Any | None, index: Tensor, cu_seqlens: Tensor, max_seqlen: int | None = None
) -> Tensor:
    """x + norm(mixer(given)), [1, N, C] in the order of rows; step p of the packed sequences is row ``index[p]``."""
    uz = linear(given, mixer.in_proj.weight).squeeze(0)
    ahead, back = (parameters(part) for part in mixer.directions)
    found = mixer_inputs(uz, ahead, back, cu_seqlens, index)
    c, delta, B, C = (value.unsqueeze(1) for value in found[:4])  # [2, 1, N, ...]
    how: dict[str, Any] = dict(direction="both", merge="stack", cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=mixer.backend)
    y: Any = selective_scan(c, delta, found.A, B, C, found.D, **how)
    if norm is not None and torch.is_autocast_enabled(x.device.type):
        x = x.float()  # a norm's result is float32 there, and makes the sum so
    gain, shift, eps = (None, None, 0.0) if norm is None else (norm.weight, norm.bias, norm.eps)
    return mixer_output(y.squeeze(1), uz, mixer.out_proj.weight, x.squeeze(0), gain, shift, index, eps).unsqueeze(0)


def parameters(part: Any) -> Direction:
    """Of one direction, as the kernels take them."""
    conv, step = part.conv1d, part.dt_proj
    return Direction(conv.weight[:, 0], conv.bias, part.x_proj.weight, step.weight, step.bias, part.A_log, part.D)
