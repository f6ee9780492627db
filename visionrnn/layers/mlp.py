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
        if torch.is_grad_enabled() or not (is_as_made(self.fc1, Linear) and is_as_made(self.act, nn.GELU) and _fits(x, self.fc1.weight)):
            return self.act(self.fc1(x))
        # oneDNN applies GELU, torch's own, to a product before it leaves the cache; the gradient would need what was before it
        rows = _on_grid(x.flatten(0, -2))
        out = torch.ops.mkldnn._linear_pointwise(rows, self.fc1.weight, self.fc1.bias, "gelu", [], self.act.approximate)
        return out.resize_(*x.shape[:-1], len(self.fc1.weight))


def is_as_made(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether nobody has put another module in its place (or another forward), and nobody wants to see what it gets or returns."""
    return type(module) is kind and "forward" not in vars(module) and not module._forward_hooks and not module._forward_pre_hooks
