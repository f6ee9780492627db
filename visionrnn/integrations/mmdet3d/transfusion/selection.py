"""From scored boxes to the final ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from visionrnn.integrations.mmdet3d.heads_common import nms_3d


def rectify(scores: Tensor, overlap: Tensor, share: float) -> Tensor:
    """score^(1 − share) · IoU^share, where the IoU branch says 2 · IoU − 1 in ``overlap``, limited to −1 … 1 (Hu et al. 2022)."""
    return scores ** (1 - share) * ((overlap + 1) / 2).clamp(0, 1) ** share


def suppress(
    boxes: Tensor, scores: Tensor, labels: Tensor, classes: Sequence[int], options: tuple[float, int | None, int | None]
) -> Tensor:
    """Indices of the boxes [N, 9] that stay, by falling score: rotated NMS within each of ``classes``, all boxes of the others.

    options: the overlap two boxes may have at most, how many of a class take part, how many stay.
    """
    stays = torch.ones_like(labels, dtype=torch.bool)
    for label in classes:
        members = (labels == label).nonzero().squeeze(1)
        stays[members] = False
        stays[members[nms_3d(boxes[members], scores[members], *options)]] = True
    order = scores.sort(descending=True, stable=True).indices
    return order[stays[order]]
