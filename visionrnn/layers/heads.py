"""Channels as heads: splitting them, and norms over each head's channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def head_width(dim: int, num_heads: int, name: str = "dim") -> int:
    """Channels per head. Raises ValueError when the heads do not divide the channels evenly."""
    if num_heads < 1 or dim % num_heads:
        raise ValueError(f"{name}={dim} is not a multiple of num_heads={num_heads}: choose a number of heads that divides it")
    return dim // num_heads


def at_least_float32(x: Tensor) -> Tensor:
    """Half types become float32: gates and decays lose too much in them."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class HeadNorm(nn.Module):
    """Root-mean-square norm, or layer norm with ``center``, over the last axis of [..., H, V]; scale (and shift) [H, V].

    Half types are normalised in float32 and returned as they came.
    """

    def __init__(self, num_heads: int, width: int, center: bool = False, bias: bool = False, eps: float = 1e-5):
        super().__init__()
        self.center, self.eps = center, eps
        self.weight = nn.Parameter(torch.ones(num_heads, width))
        self.bias = nn.Parameter(torch.zeros(num_heads, width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        value, width = at_least_float32(x), x.shape[-1:]
        value = F.layer_norm(value, width, eps=self.eps) if self.center else F.rms_norm(value, width, eps=self.eps)
        value = value * self.weight
        return (value if self.bias is None else value + self.bias).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{list(self.weight.shape)}, center={self.center}, eps={self.eps}"
