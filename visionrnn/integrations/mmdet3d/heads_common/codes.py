"""Boxes ↔ the numbers that centre heads on dense and on occupied cells predict at a cell.

Codes are [M, 8] or [M, 10]: offset of the centre from the cell (x, y; in cells), z (m), log l, log w, log h (m), cos yaw, sin yaw
(, velocity x, y; m/s). Boxes are as in ``heads_common``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from visionrnn.integrations.mmdet3d.heads_common.grid import Grid

CODES: Mapping[str, int] = {"center": 2, "center_z": 1, "dim": 3, "rot": 2}
"""Branches of the regression and their widths, in the order of a code's first 8 numbers."""

MAX_LOG_SIZE = 5.0  # e^5 m = 148 m: no object is larger, and no overlap overflows


def sizes(logarithms: Tensor) -> Tensor:
    """Metres from their logarithms, between e^−5 and e^5 (148 m)."""
    return logarithms.clamp(-MAX_LOG_SIZE, MAX_LOG_SIZE).exp()


def encode(boxes: Tensor, offsets: Tensor) -> Tensor:
    """Codes [M, 8 or 10] of boxes [M, 7 or 9] whose centres lie ``offsets`` [M, 2] (x, y; cells) beside the cells that tell them."""
    yaw = boxes[:, 6:7]
    return torch.cat([offsets, boxes[:, 2:3], boxes[:, 3:6].log(), yaw.cos(), yaw.sin(), boxes[:, 7:]], 1)


def decode(codes: Tensor, cells: Tensor, grid: Grid) -> Tensor:
    """Boxes [M, 7 or 9] from codes [M, 8 or 10] read at the cells [M, 2] (x, y); (cos, sin) need not have length 1."""
    yaw = torch.atan2(codes[:, 7:8], codes[:, 6:7])
    return torch.cat([grid.metres(cells + codes[:, :2]), codes[:, 2:3], sizes(codes[:, 3:6]), yaw, codes[:, 8:]], 1)
