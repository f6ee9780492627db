"""What a centre head shall say for given boxes: heat map, cells, codes. Boxes are as in ``heads_common``, codes as in its ``codes``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visionrnn.integrations.mmdet3d.heads_common import draw_gaussians, peak_radii, usable
from visionrnn.integrations.mmdet3d.heads_common.codes import encode
from visionrnn.integrations.mmdet3d.heads_common.grid import Grid


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


def assign(boxes: Sequence[Tensor], labels: Sequence[Tensor], num_classes: int, grid: Grid, peaks: Peaks) -> CenterTargets:
    """Targets of a batch: for each sample boxes [M, 7 or 9] and labels [M], M = 0 allowed.

    Objects that are not ``usable`` or have their centre off the map teach nothing; one exactly on the far border belongs to the last
    cell. Of a sample's objects the first ``peaks.max_objects`` count.
    """
    boxes, labels = [box[: peaks.max_objects] for box in boxes], [label[: peaks.max_objects] for label in labels]
    sample = torch.cat([label.new_full((len(label),), index) for index, label in enumerate(labels)])
    box, label = torch.cat(boxes).float(), torch.cat(labels)
    (height, width), size = grid.shape, box.new_tensor(grid.shape[::-1])
    place = grid.cells(box[:, :2])
    valid = ((place >= 0) & (place <= size)).all(1) & usable(box, label, num_classes)
    sample, box, label, place = sample[valid], box[valid], label[valid], place[valid]

    cell = torch.minimum(place.floor(), size - 1)
    radii = peak_radii(box, grid, peaks.overlap, peaks.min_radius)
    heat = draw_gaussians(cell.long(), radii, sample * num_classes + label, (len(labels) * num_classes, height, width))
    flat = (sample * height + cell[:, 1].long()) * width + cell[:, 0].long()
    return CenterTargets(heat.view(len(labels), num_classes, height, width), flat, encode(box, place - cell), box[:, :7])
