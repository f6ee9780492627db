"""Between mmdet3d's instances, whose boxes have their bottom centres, and the boxes inside heads, which have their geometric ones."""

from __future__ import annotations

from typing import Any

import torch
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.structures import InstanceData
from torch import Tensor


def objects(instances: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """Boxes float32 [M, 7 or 9] and labels int64 [M] of a sample's ``gt_instances_3d``, on ``device``."""
    boxes = instances.bboxes_3d
    rows = torch.cat([boxes.gravity_center, boxes.tensor[:, 3:]], 1)
    return rows.to(device, torch.float32), instances.labels_3d.to(device, torch.long)


def detections(boxes: Tensor, scores: Tensor, labels: Tensor) -> InstanceData:
    """``bboxes_3d`` (LiDARInstance3DBoxes), ``scores_3d`` and ``labels_3d`` from boxes [N, 7 or 9], scores [N] and labels [N]."""
    made = LiDARInstance3DBoxes(boxes, boxes.shape[1], origin=(0.5, 0.5, 0.5))  # converts to bottom centres
    return InstanceData(bboxes_3d=made, scores_3d=scores, labels_3d=labels)
