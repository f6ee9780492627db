"""Normalisation layers that hold for sets of any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RowBatchNorm(nn.BatchNorm1d):
    """BatchNorm over the rows of [N, C] that also takes N < 2 in training: then it uses the running statistics and keeps them."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) < 2:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(input)


class OffsetLayerNorm(nn.LayerNorm):
    """Layer norm with gain 1 + weight, the weight starting at zero: weight decay pulls the gain to one, not to zero."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight + 1, self.bias, self.eps)


class GroupedNorm(nn.Module):
    """Group norm over the channels of [..., C] alone, each of ``groups`` equal runs for itself; gain and shift [C].

    With ``offset`` the gain is 1 + weight, as in :class:`OffsetLayerNorm`.
    """

    def __init__(self, groups: int, channels: int, bias: bool = True, offset: bool = False, eps: float = 1e-5):
        super().__init__()
        if channels % groups:
            raise ValueError(f"channels={channels} is not a multiple of groups={groups}")
        self.groups, self.offset, self.eps = groups, offset, eps
        self.weight = nn.Parameter(torch.zeros(channels) if offset else torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        gain = self.weight + 1 if self.offset else self.weight
        width = x.shape[-1] // self.groups  # layer norm over an axis takes half the time of torch's group norm over rows
        value = F.layer_norm(x.unflatten(-1, (self.groups, width)), (width,), eps=self.eps).flatten(-2)
        return value * gain if self.bias is None else torch.addcmul(self.bias, value, gain)

    def extra_repr(self) -> str:
        return f"{self.groups} groups of {len(self.weight) // self.groups}, offset={self.offset}, eps={self.eps}"
