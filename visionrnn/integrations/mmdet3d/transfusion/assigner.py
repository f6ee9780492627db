"""Which query answers for which object: the cheapest one-to-one assignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from visionrnn.geometry import iou3d

WORST = 100.0
"""Cost in place of one that is no number: predictions of a diverging model still get an assignment."""


@dataclass(frozen=True)
class HungarianAssigner:
    """cost = ``cls`` · focal cost + ``reg`` · L1 of centres in x and y + ``iou`` · (−3D IoU), as DETR3D and TransFusion have it.

    The focal cost (α, γ) of a class is its loss as a positive minus its loss as a negative. Centres are measured in lengths of the map.
    """

    cls: float = 0.15
    reg: float = 0.25
    iou: float = 0.25
    alpha: float = 0.25
    gamma: float = 2.0

    def cost(self, boxes: Tensor, logits: Tensor, targets: Tensor, labels: Tensor, extent: Sequence[float]) -> Tensor:
        """[P, M] for predictions boxes [P, 7 or more], logits [P, K] and objects targets [M, 7 or more], labels [M]; extent: x, y in m."""
        chosen = logits.index_select(1, labels)
        score = chosen.sigmoid()
        positive = self.alpha * (1 - score) ** self.gamma * F.softplus(-chosen)
        negative = (1 - self.alpha) * score**self.gamma * F.softplus(chosen)
        scale = boxes.new_tensor(extent)
        distance = torch.cdist(boxes[:, :2] / scale, targets[:, :2] / scale, p=1)
        overlap = iou3d(boxes[:, :7], targets[:, :7])
        return self.cls * (positive - negative) + self.reg * distance - self.iou * overlap

    @torch.no_grad()
    def __call__(self, boxes: Tensor, logits: Tensor, targets: Tensor, labels: Tensor, extent: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Indices int64 [min(P, M)] of the queries and of the objects they answer for, on the device of ``boxes``."""
        cost = self.cost(boxes.float(), logits.float(), targets.float(), labels, extent)
        pairs = linear_sum_assignment(cost.nan_to_num(WORST, WORST, -WORST).cpu().numpy())
        queries, objects = (torch.from_numpy(index).to(boxes.device) for index in pairs)
        return queries, objects
