"""The feed-forward part of a block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visionrnn.layers.linear import Linear, _fits, _on_grid


class Mlp(nn.Module):
    """Linear → GELU → linear over the last axis of any x [..., dim], with ``hidden`` channels between and dropout after each linear."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0):
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.act = nn.GELU()
        self.drop = nn.Dropout(drop)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self._hidden(x))))

    def _hidden(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or not _fits(x, self.fc1.weight) or _is_watched(self.fc1) or _is_watched(self.act):
            return self.act(self.fc1(x))
        # oneDNN applies GELU, torch's own, to a product before it leaves the cache; the gradient would need what was before it
        rows = _on_grid(x.flatten(0, -2))
        out = torch.ops.mkldnn._linear_pointwise(rows, self.fc1.weight, self.fc1.bias, "gelu", [], "none")
        return out.resize_(*x.shape[:-1], len(self.fc1.weight))


def _is_watched(module: nn.Module) -> bool:
    """Whether somebody wants to see what the module itself gets or returns."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
