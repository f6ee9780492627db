"""The feed-forward part of a block."""

from __future__ import annotations

from torch import Tensor, nn

from visionrnn.layers.linear import Linear


class Mlp(nn.Module):
    """Linear → GELU → linear over the last axis of any x [..., dim], with ``hidden`` channels between and dropout after each linear."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0):
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.act = nn.GELU()
        self.drop = nn.Dropout(drop)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))
