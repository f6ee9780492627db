"""What a centre head on occupied cells learns from a frame's boxes.

Cells are (x, y) indices of the bird's-eye grid. Boxes [M, 7] are as in ``heads_common``, codes [M, 8] as in its ``codes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visionrnn.integrations.mmdet3d.heads_common import peak_radii, usable
from visionrnn.integrations.mmdet3d.heads_common.codes import encode
from visionrnn.integrations.mmdet3d.heads_common.grid import Grid

OBJECTS_AT_ONCE = 64  # bounds the distance table: 64 objects × 100 000 cells are 26 MB


def places(boxes: Tensor, grid: Grid) -> Tensor:
    """Centres [M, 2] of boxes in cells (x, y), those beside the grid moved to its border."""
    height, width = grid.shape
    cells = grid.cells(boxes[:, :2]).clamp(min=0)
    return torch.minimum(cells, cells.new_tensor([width, height]) - 0.5)


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
        peaks = peaks.masked_fill(squared > 2 * reach**2, 0.0)
        heat.scatter_reduce_(0, label.long()[:, None].expand_as(peaks), peaks, "amax")
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

    Boxes that are not ``usable`` and all boxes of a sample without cells are left out. Nothing given is changed.
    """
    heats, rows, codes, kept_labels, first = [], [], [], [], 0
    for sample_cells, sample_boxes, sample_labels in zip(cells.split(list(counts)), boxes, labels, strict=True):
        taught = usable(sample_boxes, sample_labels, num_classes) & (len(sample_cells) > 0)
        chosen, chosen_labels = sample_boxes[taught].float(), sample_labels[taught].long()
        centres, radii = places(chosen, grid), peak_radii(chosen, grid, min_overlap, min_radius)
        heat, nearest = cell_targets(sample_cells, centres.int(), radii, chosen_labels, num_classes)
        heats.append(heat)
        rows.append(nearest + first)
        codes.append(encode(chosen, centres - sample_cells[nearest]))
        kept_labels.append(chosen_labels)
        first += len(sample_cells)
    return CellTargets(torch.cat(heats), torch.cat(rows), torch.cat(codes), torch.cat(kept_labels))
