"""mmcv's box operators in PyTorch (any device), with the calling convention of mmcv 2.1's compiled ones.

Rotated boxes are [N, 5]: x, y, width, height, angle, the angle turning x towards y (mmcv's ``clockwise=True``, its y axis pointing down;
with y pointing left, as in the LiDAR frame, the same numbers are a counter-clockwise yaw). 3D boxes are [N, 7]: x, y, z, l, w, h, yaw.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from visionrnn import geometry

NMS_BLOCK = 1024  # rows of the IoU matrix that are in memory at once


def box_iou_rotated(boxes_a: Tensor, boxes_b: Tensor, ious: Tensor, mode_flag: int = 0, aligned: bool = False) -> None:
    """Writes IoU (``mode_flag`` 0) or intersection over the area of a (1) into ``ious``: [N * M], or [N] for aligned boxes."""
    mode = ("iou", "iof")[mode_flag]
    ious.copy_(geometry.rotated_iou(boxes_a, boxes_b, mode=mode, aligned=aligned).reshape(ious.shape))


def nms_rotated(
    dets: Tensor, scores: Tensor, order: Tensor, dets_sorted: Tensor, labels: Tensor, iou_threshold: float, multi_label: bool = False
) -> Tensor:
    """Greedy NMS of rotated boxes [N, 5]; with ``multi_label`` a sixth column is the label, and only equal labels suppress each other.

    ``order`` sorts ``dets`` by falling score into ``dets_sorted``. Returns the kept indices int64 [K] into ``dets``, by falling score.
    """
    rank = -torch.arange(len(dets_sorted), device=dets_sorted.device, dtype=torch.float32)
    if not multi_label:
        return order[geometry.nms_rotated(dets_sorted[:, :5], rank, iou_threshold)]
    kept = []
    for label in dets_sorted[:, 5].unique():
        members = (dets_sorted[:, 5] == label).nonzero().squeeze(1)
        kept.append(members[geometry.nms_rotated(dets_sorted[members, :5], rank[members], iou_threshold)])
    return order[torch.cat(kept).sort()[0]] if kept else order[:0]


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Greedy NMS of axis-aligned boxes [N, 4] (x1, y1, x2, y2), a side being x2 − x1 + ``offset``.

    Returns the kept indices int64 [K], by falling score; of equal scores the earlier box comes first.
    """
    if not offset and boxes.dtype in (torch.float32, torch.float64):
        from torchvision.ops import nms as compiled

        return compiled(boxes, scores.to(boxes.dtype), iou_threshold)
    order = scores.sort(descending=True, stable=True)[1]
    return order[_greedy_axis_aligned(boxes[order], iou_threshold, offset)]


def _greedy_axis_aligned(boxes: Tensor, threshold: float, offset: float = 0) -> Tensor:
    """Positions [K] of the boxes [N, 4], sorted by falling score, that no kept earlier one overlaps by more than ``threshold``."""
    alive = np.ones(len(boxes), dtype=bool)
    areas = (boxes[:, 2:] - boxes[:, :2] + offset).prod(1)
    for start in range(0, len(boxes), NMS_BLOCK):
        rows, rest = boxes[start : start + NMS_BLOCK], boxes[start:]
        low = torch.maximum(rows[:, None, :2], rest[None, :, :2])
        high = torch.minimum(rows[:, None, 2:], rest[None, :, 2:])
        inside = (high - low + offset).clamp_min(0).prod(2)
        iou = inside / (areas[start : start + NMS_BLOCK, None] + areas[None, start:] - inside)
        over = (iou > threshold).cpu().numpy()
        for row in range(len(rows)):
            if alive[start + row]:
                alive[start + row + 1 :] &= ~over[row, row + 1 :]
    return torch.from_numpy(alive.nonzero()[0]).to(boxes.device)


def iou3d_boxes_overlap_bev_forward(boxes_a: Tensor, boxes_b: Tensor, ans_overlap: Tensor) -> None:
    """Writes the area common to each pair in bird's-eye view into ``ans_overlap`` [N, M]. boxes: [N, 7] and [M, 7]."""
    bev_a, bev_b = (boxes[:, [0, 1, 3, 4, 6]] for boxes in (boxes_a, boxes_b))
    pairs_a, pairs_b = bev_a.repeat_interleave(len(bev_b), 0), bev_b.repeat(len(bev_a), 1)
    ans_overlap.copy_(geometry.rotated_intersection(pairs_a, pairs_b).view(len(bev_a), len(bev_b)))


def iou3d_nms3d_forward(boxes: Tensor, keep: Tensor, num_out: Tensor, nms_overlap_thresh: float) -> None:
    """Greedy NMS by bird's-eye rotated IoU of boxes [N, 7] sorted by falling score.

    Writes the kept positions into the first entries of ``keep`` [N] and their number into ``num_out``.
    """
    rank = -torch.arange(len(boxes), device=boxes.device, dtype=torch.float32)
    kept = geometry.nms_rotated(boxes[:, [0, 1, 3, 4, 6]], rank, nms_overlap_thresh)
    keep[: len(kept)] = kept.to(keep.device)
    num_out.fill_(len(kept))


def iou3d_nms3d_normal_forward(boxes: Tensor, keep: Tensor, num_out: Tensor, nms_overlap_thresh: float) -> None:
    """As ``iou3d_nms3d_forward`` with every yaw taken as 0."""
    half = boxes[:, 3:5] / 2
    kept = _greedy_axis_aligned(torch.cat([boxes[:, :2] - half, boxes[:, :2] + half], 1), nms_overlap_thresh)
    keep[: len(kept)] = kept.to(keep.device)
    num_out.fill_(len(kept))


def _inside(boxes: Tensor, points: Tensor) -> Tensor:
    """bool [M, T]: points [M, 3] in boxes [T, 7] given by their bottom centres."""
    centred = boxes.clone()
    centred[:, 2] += boxes[:, 5] / 2
    return geometry.points_in_boxes(points, centred)


def points_in_boxes_part_forward(boxes: Tensor, points: Tensor, box_idx_of_points: Tensor) -> None:
    """Writes the first box that holds a point into int32 [B, M]; the entries of points in no box keep their value.

    boxes: [B, T, 7] (bottom centre); points: [B, M, 3].
    """
    for sample, (sample_boxes, sample_points) in enumerate(zip(boxes, points, strict=True)):
        inside = _inside(sample_boxes, sample_points)
        if inside.shape[1]:
            hit = inside.any(1)
            box_idx_of_points[sample][hit] = inside[hit].int().argmax(1).int()  # argmax gives the first of equal values


def points_in_boxes_cpu_forward(boxes: Tensor, points: Tensor, pts_indices: Tensor) -> None:
    """Writes 1 where a box holds a point, else 0, into int32 [T, M]. boxes: [T, 7] (bottom centre); points: [M, 3]."""
    pts_indices.copy_(_inside(boxes, points).t())


def points_in_boxes_all_forward(boxes: Tensor, points: Tensor, box_idx_of_points: Tensor) -> None:
    """Writes 1 where a box holds a point, else 0, into int32 [B, M, T]. boxes: [B, T, 7] (bottom centre); points: [B, M, 3]."""
    for sample, (sample_boxes, sample_points) in enumerate(zip(boxes, points, strict=True)):
        box_idx_of_points[sample].copy_(_inside(sample_boxes, sample_points))
