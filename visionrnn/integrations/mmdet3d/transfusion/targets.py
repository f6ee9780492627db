"""What the head should have said: heat map and, for each query, label and box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from visionrnn.integrations.mmdet3d.heads_common import aligned_iou_3d, draw_gaussians, peak_radii
from visionrnn.integrations.mmdet3d.heads_common.grid import Grid
from visionrnn.integrations.mmdet3d.transfusion.assigner import HungarianAssigner
from visionrnn.integrations.mmdet3d.transfusion.boxes import BoxCode


class Targets(NamedTuple):
    """Of a batch of B samples with P queries each, M of all of them with an object.

    labels: int [B, P], K for background. rows: int [M], which of the B · P queries have an object. codes: [M, 10], NaN velocities where
    they are unknown. overlaps: [M] 3D IoU of predicted box and object.
    """

    labels: Tensor
    rows: Tensor
    codes: Tensor
    overlaps: Tensor


def assign(
    boxes: Tensor,
    logits: Tensor,
    objects: Sequence[tuple[Tensor, Tensor]],
    code: BoxCode,
    assigner: HungarianAssigner,
) -> Targets:
    """Targets of the queries: boxes [B, P, 9] and logits [B, P, K] predicted, ``objects`` (boxes [M, 7 or 9], labels [M]) per sample."""
    boxes, logits = boxes.detach().float(), logits.detach().float()
    number = boxes.shape[1]
    extent = [cells * side for cells, side in zip(code.grid.shape[::-1], code.grid.cell, strict=True)]
    labels = torch.full(boxes.shape[:2], logits.shape[-1], device=boxes.device)
    rows, codes, overlaps = [], [], []
    for sample, (truth, classes) in enumerate(objects):
        found, meant = assigner(boxes[sample], logits[sample], truth, classes, extent)
        labels[sample, found] = classes[meant]
        rows.append(found + sample * number)
        codes.append(code.encode(truth[meant]))
        overlaps.append(aligned_iou_3d(boxes[sample, found], truth[meant]))
    return Targets(labels, torch.cat(rows), torch.cat(codes), torch.cat(overlaps))


def heat_map(truth: Tensor, labels: Tensor, grid: Grid, num_classes: int, min_overlap: float, min_radius: int) -> Tensor:
    """[K, Y, X] with a Gaussian at each object's cell: boxes [M, 7 or more], labels [M]."""
    centres = grid.cells(truth[:, :2]).floor().long()
    return draw_gaussians(centres, peak_radii(truth, grid, min_overlap, min_radius), labels, (num_classes, *grid.shape))
