"""Boxes from the maps of a centre head: candidates, rectified scores, suppression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visionrnn.integrations.mmdet3d.heads.center_targets import decode
from visionrnn.integrations.mmdet3d.heads_common.boxes import nms_3d, within
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
    """boxes [N, 7 or 9] with geometric centres, scores [N], labels int64 [N]; by falling score within each run of the suppression."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def take(self, index: Tensor) -> Detections:
        return Detections(self.boxes[index], self.scores[index], self.labels[index])


def rectify(scores: Tensor, overlaps: Tensor, labels: Tensor, rectifier: float | Sequence[float]) -> Tensor:
    """score^(1 − a) · overlap^a with the class's a (Hu et al. 2022, AFDetV2); overlaps are clamped to [0, 1]. All [N]."""
    weight = scores.new_tensor(rectifier)
    weight = weight[labels] if weight.dim() else weight
    return scores ** (1 - weight) * overlaps.clamp(0, 1) ** weight


def detect(maps: Mapping[str, Tensor], codes: Tensor, grid: Grid, selection: Selection) -> Detections:
    """Detections of one sample: maps by branch [C, Y, X] (heat-map logits under ``hm``, overlap under ``iou``), codes [8 or 10, Y, X]."""
    scores = maps["hm"].float().sigmoid()  # [K, Y, X]
    classes, height, width = scores.shape
    best, index = scores.flatten().topk(min(selection.max_candidates, scores.numel()))
    index, best = index[best > selection.score_threshold], best[best > selection.score_threshold]
    label, cell = index // (height * width), index % (height * width)
    places = torch.stack([cell % width, cell // width], 1).float()
    found = Detections(decode(codes.flatten(1)[:, cell].t(), places, grid), best, label)
    if "iou" in maps:
        overlaps = (maps["iou"].float().flatten()[cell] + 1) / 2
        found = Detections(found.boxes, rectify(best, overlaps, label, selection.rectifier), label)
    if selection.limit is not None:
        found = found.take(within(found.boxes, selection.limit))
    return suppress(found, selection, classes)


def suppress(found: Detections, selection: Selection, num_classes: int) -> Detections:
    """Non-maximum suppression over all boxes, or class by class."""
    options = selection.nms_pre, selection.nms_post
    if not isinstance(selection.nms_threshold, Sequence):
        return found.take(nms_3d(found.boxes, found.scores, selection.nms_threshold, *options))
    kept = []
    for label in range(num_classes):
        members = (found.labels == label).nonzero().squeeze(1)
        kept.append(members[nms_3d(found.boxes[members], found.scores[members], selection.nms_threshold[label], *options)])
    return found.take(torch.cat(kept))
