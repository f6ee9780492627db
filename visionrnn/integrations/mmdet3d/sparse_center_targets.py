"""What a centre head on occupied cells learns from a frame's boxes, and boxes from what it says.

Cells are (x, y) indices of the bird's-eye grid. Boxes are [M, 7]: x, y, z of the geometric centre, l, w, h in metres, yaw in radians,
LiDAR frame. Codes are [M, 8]: centre minus cell in cells (x, y), z in metres, log l, log w, log h, cos yaw, sin yaw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visionrnn.integrations.mmdet3d.heads_common.grid import Grid
from visionrnn.integrations.mmdet3d.heads_common.heatmap import gaussian_radius

CODES = {"center": 2, "center_z": 1, "dim": 3, "rot": 2}
"""Branches of the regression and their widths, in the order of the codes."""

OBJECTS_AT_ONCE = 64  # bounds the distance table: 64 objects × 100 000 cells are 26 MB


def places(boxes: Tensor, grid: Grid) -> Tensor:
    """Centres [M, 2] of boxes in cells (x, y), those beside the grid moved to its border."""
    height, width = grid.shape
    cells = grid.cells(boxes[:, :2]).clamp(min=0)
    return torch.minimum(cells, cells.new_tensor([width, height]) - 0.5)


def encode(boxes: Tensor, cells: Tensor, grid: Grid) -> Tensor:
    """Codes [M, 8] of boxes [M, 7] as seen from cells [M, 2]."""
    yaw = boxes[:, 6:7]
    return torch.cat([places(boxes, grid) - cells, boxes[:, 2:3], boxes[:, 3:6].log(), yaw.cos(), yaw.sin()], dim=1)


def decode(codes: Tensor, cells: Tensor, grid: Grid) -> Tensor:
    """Boxes [M, 7] from codes [M, 8] at cells [M, 2]; the inverse of :func:`encode` for centres on the grid."""
    yaw = torch.atan2(codes[:, 7:8], codes[:, 6:7])
    return torch.cat([grid.metres(cells + codes[:, :2]), codes[:, 2:3], codes[:, 3:6].exp(), yaw], dim=1)


def cell_targets(cells: Tensor, centres: Tensor, radii: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Heat map [N, K] on a frame's N occupied cells, and the row [M] of the cell nearest to each object.

    cells: int [N, 2] (x, y), N ≥ 1; centres: int [M, 2], the objects' own cells, occupied or not; radii, labels: int [M].
    A peak is exp(−(d² − nearest d²) / 2σ²) of the distance d between cell and object's cell, σ = (2 · radius + 1) / 6: exactly 1 on the
    nearest occupied cell. It is cut off beyond d² = 2 · radius²; an object with no occupied cell that near makes no peak. Of cells
    equally near, all get 1, and the first is the nearest. Where peaks of a class overlap, the larger value stays.
    """
    heat = torch.zeros(num_classes, len(cells), device=cells.device)
    if not len(centres):
        return heat.t(), labels.new_zeros(0, dtype=torch.long)
    x, y = cells.float().unbind(1)
    nearest = []
    for centre, radius, label in zip(*(part.split(OBJECTS_AT_ONCE) for part in (centres, radii, labels)), strict=True):
        squared = (centre[:, :1] - x) ** 2 + (centre[:, 1:] - y) ** 2  # [m, N]
        least, row = squared.min(dim=1)
        reach = radius.float()[:, None]
        peaks = torch.exp((least[:, None] - squared) / (2 * ((2 * reach + 1) / 6) ** 2))
        dropped = (peaks < torch.finfo(peaks.dtype).eps) | (squared > 2 * reach**2)
        heat.scatter_reduce_(0, label.long()[:, None].expand_as(peaks), peaks.masked_fill(dropped, 0.0), "amax")
        nearest.append(row)
    return heat.t(), torch.cat(nearest)


@dataclass(frozen=True)
class CellTargets:
    """Targets of a batch: heat [N, K]; of each object the row [M] of its cell, its codes [M, 8] and its label [M]."""

    heat: Tensor
    rows: Tensor
    codes: Tensor
    labels: Tensor


def batch_targets(
    grid: Grid,
    cells: Tensor,
    counts: Sequence[int],
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    num_classes: int,
    min_overlap: float = 0.1,
    min_radius: int = 2,
) -> CellTargets:
    """Targets of a batch from its cells [N, 2] (x, y), ``counts`` of them in each sample, and each sample's boxes [M, 7] and labels [M].

    Boxes without extent, with labels outside 0 … K − 1, and all boxes of a sample without cells are left out. Nothing given is changed.
    """
    heats, rows, codes, kept_labels, first = [], [], [], [], 0
    for sample_cells, sample_boxes, sample_labels in zip(cells.split(list(counts)), boxes, labels, strict=True):
        usable = (sample_boxes[:, 3:6] > 0).all(1) & (sample_labels >= 0) & (sample_labels < num_classes)
        if not len(sample_cells):
            usable = torch.zeros_like(usable)
        chosen, chosen_labels = sample_boxes[usable].float(), sample_labels[usable].long()
        length, width = (chosen[:, 3:5] / chosen.new_tensor(grid.cell)).unbind(1)
        radii = gaussian_radius(length, width, min_overlap).int().clamp(min=min_radius)
        heat, nearest = cell_targets(sample_cells, places(chosen, grid).int(), radii, chosen_labels, num_classes)
        heats.append(heat)
        rows.append(nearest + first)
        codes.append(encode(chosen, sample_cells[nearest], grid))
        kept_labels.append(chosen_labels)
        first += len(sample_cells)
    return CellTargets(torch.cat(heats), torch.cat(rows), torch.cat(codes), torch.cat(kept_labels))
