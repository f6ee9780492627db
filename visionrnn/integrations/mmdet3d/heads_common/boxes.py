"""Boxes of detection heads: suppression, overlap of pairs, limits. Boxes as in ``heads_common``: geometric centre, l, w, h, yaw, …"""

from __future__ import annotations

from collections.abc import Sequence

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


def aligned_iou_3d(a: Tensor, b: Tensor) -> Tensor:
    """Volume overlap [N] (intersection over union) of the pairs of boxes a [N, 7 or more] and b [N, 7 or more]; 0 for empty boxes."""
    return iou3d(_check(a, "a")[:, :7], _check(b, "b")[:, :7], aligned=True)


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
