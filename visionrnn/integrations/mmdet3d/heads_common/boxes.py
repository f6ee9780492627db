"""Boxes of detection heads: scores, suppression, overlap of pairs, limits. Boxes are as in ``heads_common``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from visionrnn.geometry import bev, iou3d, nms_rotated


def nms_3d(boxes: Tensor, scores: Tensor, threshold: float, pre: int | None = None, post: int | None = None) -> Tensor:
    """Greedy suppression by the rotated overlap seen from above, as all of LION's detectors do it.

    boxes [N, 7 or more], scores [N]. Only the ``pre`` best boxes take part, and at most ``post`` are kept (None: no limit). Returns the
    kept indices int64 [K] by falling score; of equal scores the earlier box comes first. Raises ValueError when shapes do not fit.
    """
    _check(boxes, "boxes")
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f"scores: expected shape [{len(boxes)}], one for each box, got {list(scores.shape)}")
    order = scores.detach().sort(descending=True, stable=True).indices[:pre]
    kept = nms_rotated(bev(boxes.detach()[order, :7]), scores.detach()[order], threshold)
    return order[kept[:post]]


def nms_by_class(
    boxes: Tensor, scores: Tensor, labels: Tensor, thresholds: Mapping[int, float], pre: int | None = None, post: int | None = None
) -> Tensor:
    """:func:`nms_3d` within each class of ``thresholds`` (label → overlap), ``pre`` and ``post`` for each; boxes of other classes all stay.

    boxes [N, 7 or more], scores [N], labels int [N]. Returns the kept indices int64 [K] by falling score, of all classes together.
    """
    stays = torch.ones_like(labels, dtype=torch.bool)
    for label, threshold in thresholds.items():
        members = (labels == label).nonzero().squeeze(1)
        stays[members] = False
        stays[members[nms_3d(boxes[members], scores[members], threshold, pre, post)]] = True
    order = scores.sort(descending=True, stable=True).indices
    return order[stays[order]]


def rectify(scores: Tensor, overlaps: Tensor, share: float | Tensor) -> Tensor:
    """score^(1 − share) · IoU^share (Hu et al. 2022, AFDetV2), where a branch says 2 · IoU − 1 in ``overlaps``, limited to −1 … 1.

    scores and overlaps have the same shape; share is one number or one for each score.
    """
    return scores ** (1 - share) * ((overlaps + 1) / 2).clamp(0, 1) ** share


def aligned_iou_3d(a: Tensor, b: Tensor) -> Tensor:
    """Volume overlap [N] (intersection over union) of the pairs of boxes a [N, 7 or more] and b [N, 7 or more]; 0 for empty boxes."""
    return iou3d(_check(a, "a")[:, :7], _check(b, "b")[:, :7], aligned=True)


def usable(boxes: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """bool [M]: which objects teach something: boxes [M, 7 or more] of numbers and with an extent, labels int [M] in 0 … K − 1.

    mmdet3d labels objects of other classes −1. Velocities may be NaN.
    """
    return boxes[:, :7].isfinite().all(1) & (boxes[:, 3:6] > 0).all(1) & (labels >= 0) & (labels < num_classes)


def within(boxes: Tensor, limit: Sequence[float]) -> Tensor:
    """bool [N]: whether the centres of boxes [N, 7 or more] lie in ``limit`` (x, y, z minima, then maxima; metres), its faces included."""
    if len(limit) != 6:
        raise ValueError(f"limit: expected 6 numbers (x, y, z minima, then maxima), got {len(limit)}")
    centres = _check(boxes, "boxes")[:, :3]
    bounds = centres.new_tensor(limit)
    return ((centres >= bounds[:3]) & (centres <= bounds[3:])).all(1)


def _check(boxes: Tensor, name: str) -> Tensor:
    if boxes.dim() != 2 or boxes.shape[1] < 7:
        raise ValueError(f"{name}: expected shape [N, 7 or more] (x, y, z, l, w, h, yaw, …), got {list(boxes.shape)}")
    return boxes
