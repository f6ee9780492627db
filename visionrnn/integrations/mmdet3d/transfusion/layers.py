"""Small layers of the head, named as the published weights are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionrnn.integrations.mmdet3d.heads_common import PRIOR


class RowsAreX(nn.Conv2d):
    """3 × 3 convolution of a map [B, C, Y, X] whose kernel is stored as [out, in, x, y].

    The published head turns its maps, so that rows are x, before it convolves them; turning nine numbers per channel is cheaper.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.transpose(2, 3), self.bias, padding=self.padding)


class ConvNorm(nn.Module):
    """RowsAreX, BatchNorm, ReLU."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = RowsAreX(channels, channels)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Branches(nn.ModuleDict):
    """For each name of ``widths`` two linear layers on every query with BatchNorm and ReLU between: [B, P, C] → {name: [B, P, width]}."""

    def __init__(self, channels: int, widths: Mapping[str, int], hidden: int = 64):
        super().__init__()
        for name, width in widths.items():
            first = nn.Sequential(nn.Conv1d(channels, hidden, 1), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True))
            self[name] = nn.Sequential(first, nn.Conv1d(hidden, width, 1))
        nn.init.constant_(self["heatmap"][1].bias, PRIOR)  # type: ignore[index]

    def forward(self, queries: Tensor) -> dict[str, Tensor]:
        columns = queries.transpose(1, 2)
        return {name: branch(columns).transpose(1, 2) for name, branch in self.items()}


def one_hot(labels: Tensor, number: int, dtype: torch.dtype) -> Tensor:
    """Labels int [...] → [..., number]; a label outside 0 … number − 1 (background) gives zeros."""
    return (labels[..., None] == torch.arange(number, device=labels.device)).to(dtype)
