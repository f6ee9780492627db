"""Boxes from the maps of a centre head: candidates, rectified scores, suppression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visionrnn.integrations.mmdet3d.heads_common import nms_3d, nms_by_class, rectify, within
from visionrnn.integrations.mmdet3d.heads_common.codes import decode
from visionrnn.integrations.mmdet3d.heads_common.grid import Grid


@dataclass(frozen=True)
class Selection:
    """Which candidates become detections.

    max_candidates: best cells of all classes of a sample. score_threshold: on the score before rectification. limit: range of centres
    (x, y, z minima, maxima; metres) or None. nms_threshold: rotated overlap seen from above beyond which the weaker box goes; one number
    for all boxes together, or one per class for each class by itself. nms_pre, nms_post: boxes that take part and stay, per run of the
    suppression. rectifier: weight a of the predicted overlap in score^(1 − a) · overlap^a, one number or one per class.
    """

    score_threshold: float = 0.1
    max_candidates: int = 500
    limit: Sequence[float] | None = None
    nms_threshold: float | Sequence[float] = 0.7
    nms_pre: int = 4096
    nms_post: int = 500
    rectifier: float | Sequence[float] = 0.0

    def check(self, num_classes: int) -> None:
        """Raises ValueError when a list does not have one entry per class."""
        for name in ("nms_threshold", "rectifier"):
            value = getattr(self, name)
            if isinstance(value, Sequence) and len(value) != num_classes:
                raise ValueError(f"test_cfg.{name}: expected one number or {num_classes}, one per class, got {len(value)}")


@dataclass(frozen=True)
class Detections:
    """boxes [N, 7 or 9] with geometric centres, scores [N], labels int64 [N]; by falling score."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def take(self, index: Tensor) -> Detections:
        return Detections(self.boxes[index], self.scores[index], self.labels[index])


def detect(maps: Mapping[str, Tensor], codes: Tensor, grid: Grid, selection: Selection) -> Detections:
    """Detections of one sample: maps by branch [C, Y, X] (heat-map logits ``hm``; 2 · IoU − 1 under ``iou``), codes [8 or 10, Y, X]."""
    scores = maps["hm"].float().sigmoid()  # [K, Y, X]
    _, height, width = scores.shape
    best, index = scores.flatten().topk(min(selection.max_candidates, scores.numel()))
    index, best = index[best > selection.score_threshold], best[best > selection.score_threshold]
    label, cell = index // (height * width), index % (height * width)
    places = torch.stack([cell % width, cell // width], 1).float()
    found = Detections(decode(codes.flatten(1)[:, cell].t(), places, grid), best, label)
    if "iou" in maps:
        share = best.new_tensor(selection.rectifier)
        rectified = rectify(best, maps["iou"].float().flatten()[cell], share[label] if share.dim() else share)
        found = Detections(found.boxes, rectified, label)
    if selection.limit is not None:
        found = found.take(within(found.boxes, selection.limit))
    return suppress(found, selection)


def suppress(found: Detections, selection: Selection) -> Detections:
    """Non-maximum suppression over all boxes, or class by class."""
    threshold, numbers = selection.nms_threshold, (selection.nms_pre, selection.nms_post)
    if isinstance(threshold, Sequence):
        return found.take(nms_by_class(found.boxes, found.scores, found.labels, dict(enumerate(threshold)), *numbers))
    return found.take(nms_3d(found.boxes, found.scores, threshold, *numbers))
