"""What a centre head shall say for given boxes, and back: heat map, cells, codes.

Boxes are [M, 7] or [M, 9]: x, y, z of the geometric centre, l, w, h, yaw (, velocity x, y). Codes are [M, 8] or [M, 10]: offset of the
centre in its cell (x, y; cells), z (m), log l, log w, log h (m), cos yaw, sin yaw (, velocity x, y).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visionrnn.integrations.mmdet3d.heads_common.grid import Grid
from visionrnn.integrations.mmdet3d.heads_common.heatmap import draw_gaussians, gaussian_radius

MAX_LOG_SIZE = 5.0  # e^5 m = 148 m: no box is larger, and no overlap overflows


@dataclass(frozen=True)
class Peaks:
    """How peaks are drawn: cells keep ``overlap`` IoU with the box, at least ``min_radius`` cells; at most ``max_objects`` a sample."""

    overlap: float = 0.1
    min_radius: int = 2
    max_objects: int = 500


@dataclass(frozen=True)
class CenterTargets:
    """heat: float32 [B, K, Y, X]; cells: int64 [M], into B · Y · X; codes [M, 8 or 10]; boxes [M, 7], of the objects on the map."""

    heat: Tensor
    cells: Tensor
    codes: Tensor
    boxes: Tensor


def encode(boxes: Tensor, cells: Tensor, grid: Grid) -> Tensor:
    """Codes [M, 8 or 10] of boxes [M, 7 or 9] whose centres are told by the cells [M, 2] (x, y)."""
    parts = [grid.cells(boxes[:, :2]) - cells, boxes[:, 2:3], boxes[:, 3:6].log(), boxes[:, 6:7].cos(), boxes[:, 6:7].sin(), boxes[:, 7:]]
    return torch.cat(parts, 1)


def decode(codes: Tensor, cells: Tensor, grid: Grid) -> Tensor:
    """Boxes [M, 7 or 9] from codes [M, 8 or 10] read at the cells [M, 2] (x, y); (cos, sin) need not have length 1."""
    yaw = torch.atan2(codes[:, 7:8], codes[:, 6:7])
    sizes = codes[:, 3:6].clamp(-MAX_LOG_SIZE, MAX_LOG_SIZE).exp()
    return torch.cat([grid.metres(cells + codes[:, :2]), codes[:, 2:3], sizes, yaw, codes[:, 8:]], 1)


def assign(boxes: Sequence[Tensor], labels: Sequence[Tensor], num_classes: int, grid: Grid, peaks: Peaks) -> CenterTargets:
    """Targets of a batch: for each sample boxes [M, 7 or 9] and labels [M], M = 0 allowed.

    Objects with a label outside 0 … K − 1, without extent or with their centre off the map teach nothing; one exactly on the far border
    belongs to the last cell. Of a sample's objects the first ``peaks.max_objects`` count.
    """
    boxes, labels = [box[: peaks.max_objects] for box in boxes], [label[: peaks.max_objects] for label in labels]
    sample = torch.cat([label.new_full((len(label),), index) for index, label in enumerate(labels)])
    box, label = torch.cat(boxes).float(), torch.cat(labels)
    (height, width), size = grid.shape, box.new_tensor(grid.shape[::-1])
    place = grid.cells(box[:, :2])
    valid = ((place >= 0) & (place <= size)).all(1) & (box[:, 3:6] > 0).all(1) & (label >= 0) & (label < num_classes)
    sample, box, label, place = sample[valid], box[valid], label[valid], place[valid]

    cell = torch.minimum(place.floor(), size - 1)
    extent = box[:, 3:5] / box.new_tensor(grid.cell)
    radii = gaussian_radius(extent[:, 0], extent[:, 1], peaks.overlap).int().clamp_min(peaks.min_radius)
    heat = draw_gaussians(cell.long(), radii, sample * num_classes + label, (len(labels) * num_classes, height, width))
    flat = (sample * height + cell[:, 1].long()) * width + cell[:, 0].long()
    return CenterTargets(heat.view(len(labels), num_classes, height, width), flat, encode(box, cell, grid), box[:, :7])
