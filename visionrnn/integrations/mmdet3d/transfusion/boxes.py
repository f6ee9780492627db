"""Boxes ↔ the numbers the branches predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from visionrnn.integrations.mmdet3d.heads_common.codes import sizes
from visionrnn.integrations.mmdet3d.heads_common.grid import Grid

CODES: Mapping[str, int] = {"center": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}
"""Branches that describe a box and their widths, in the order of a code's 10 numbers."""


@dataclass(frozen=True)
class BoxCode:
    """Boxes [..., 9] (x, y, z of the geometric centre, l, w, h, yaw, vx, vy; LiDAR frame, m, rad, m/s) as codes [..., 10].

    A code is x and y in cells from the corner of the map; z of the box's TOP face in metres; log l, log w, log h; sin yaw, cos yaw;
    vx, vy. Released weights of LION mean exactly these.
    """

    grid: Grid

    def encode(self, boxes: Tensor) -> Tensor:
        """Boxes [..., 7 or 9] with positive sizes; boxes without velocity get NaN there."""
        centres = self.grid.cells(boxes[..., :2])
        top = boxes[..., 2:3] + boxes[..., 5:6] / 2
        yaw = boxes[..., 6:7]
        velocity = boxes[..., 7:9] if boxes.shape[-1] == 9 else torch.full_like(centres, torch.nan)
        return torch.cat([centres, top, boxes[..., 3:6].log(), yaw.sin(), yaw.cos(), velocity], -1)

    def decode(self, codes: Tensor) -> Tensor:
        """The way back; yaw comes out in −π … π."""
        centre, top, log_size, rotation, velocity = codes.split(tuple(CODES.values()), -1)
        size = sizes(log_size)
        yaw = torch.atan2(rotation[..., :1], rotation[..., 1:])
        return torch.cat([self.grid.metres(centre), top - size[..., 2:] / 2, size, yaw, velocity], -1)
