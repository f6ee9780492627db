"""Centre head on the occupied cells of a bird's-eye grid: no dense map, so long ranges cost what their occupied cells cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmdet3d.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from visionrnn.integrations.mmdet3d.heads_common import PRIOR, focal_heatmap_loss, nms_3d, within
from visionrnn.integrations.mmdet3d.heads_common.codes import CODES, decode
from visionrnn.integrations.mmdet3d.heads_common.counts import share_of_count
from visionrnn.integrations.mmdet3d.heads_common.grid import Grid
from visionrnn.integrations.mmdet3d.heads_common.options import filled
from visionrnn.integrations.mmdet3d.heads_common.samples import detections, objects
from visionrnn.integrations.mmdet3d.sparse_center_targets import batch_targets
from visionrnn.layers.norm import RowBatchNorm
from visionrnn.layers.sparse_conv import SparseConvTensor, SubMConv3d
from visionrnn.serialization import Voxels

TRAINING = {"gaussian_overlap": 0.1, "min_radius": 2}
TESTING = {
    "candidates": 500,
    "score_thr": 0.1,
    "nms_thr": 0.2,
    "nms_pre": 1000,
    "nms_post": 83,
    "limit": (-200.0, -200.0, -20.0, 200.0, 200.0, 20.0),
}


class SparseBranch(nn.Module):
    """Submanifold 3 × 3 convolution, norm, ReLU, then one linear layer: what each branch of the head has."""

    def __init__(self, channels: int, outputs: int, norm: Mapping[str, Any], bias: float = 0.0):
        super().__init__()
        self.conv = SubMConv3d(channels, channels, (1, 3, 3), bias=False)
        self.norm = RowBatchNorm(channels, **norm)
        self.out = nn.Linear(channels, outputs)
        nn.init.kaiming_normal_(self.conv.weight)
        nn.init.kaiming_normal_(self.out.weight)
        nn.init.constant_(self.out.bias, bias)

    def forward(self, x: SparseConvTensor) -> Tensor:
        """[N, outputs]."""
        return self.out(self.norm(self.conv(x).features).relu())


@MODELS.register_module()
class LIONSparseCenterHead(nn.Module):
    """Sparse centre head of LION on Argoverse 2 (from SAFDNet, Zhang et al. 2024): heat map and boxes on occupied cells only.

    in_channels: width C of the voxels. groups: lists of labels, each with a head of its own; every label 0 … K − 1 once, any order.
    grid: options of Grid (point_cloud_range, voxel_size), which tell where cells lie. loc_weight and code_weights (x, y, z, l, w, h,
    cos yaw, sin yaw) weigh the L1 loss of the boxes. norm: options of BatchNorm.
    train_cfg: ``gaussian_overlap``, ``min_radius`` (cells). test_cfg: ``candidates`` best cells of a group and frame, of those the ones
    above ``score_thr`` with centres in ``limit``; then rotated NMS ``nms_thr`` within the group, ``nms_pre`` in, at most ``nms_post`` out.

    The nearest occupied cell of an object carries its peak and its box, so objects without points at their centre are learnt too.
    Raises ValueError for groups that do not hold each label once, unknown options, and code_weights of another length than 8.
    """

    def __init__(
        self,
        in_channels: int,
        groups: Sequence[Sequence[int]],
        grid: Mapping[str, Any],
        loc_weight: float = 0.25,
        code_weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2),
        norm: Mapping[str, Any] | None = None,
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.groups = tuple(tuple(int(label) for label in group) for group in groups)
        labels = sorted(label for group in self.groups for label in group)
        if labels != list(range(len(labels))) or not all(self.groups):
            raise ValueError(f"groups={list(groups)}: expected lists that hold each label 0 … K − 1 once, none empty")
        if len(code_weights) != sum(CODES.values()):
            raise ValueError(f"code_weights: expected 8 numbers (x, y, z, l, w, h, cos yaw, sin yaw), got {len(code_weights)}")
        self.num_classes = len(labels)
        self.grid = Grid(**grid)
        self.loc_weight, self.code_weights = loc_weight, tuple(code_weights)
        self.train_cfg = filled(train_cfg, TRAINING, "train_cfg")
        self.test_cfg = filled(test_cfg, TESTING, "test_cfg")
        options = {"eps": 1e-3, "momentum": 0.01, **(norm or {})}
        self.heads = nn.ModuleList()
        for group in self.groups:
            parts = {name: SparseBranch(in_channels, width, options) for name, width in CODES.items()}
            parts["heatmap"] = SparseBranch(in_channels, len(group), options, bias=PRIOR)
            self.heads.append(nn.ModuleDict(parts))

    def forward(self, voxels: Voxels) -> list[dict[str, Tensor]]:
        """For each group: center [N, 2], center_z [N, 1], dim [N, 3], rot [N, 2], heatmap [N, labels of the group], all logits or codes.

        voxels: the occupied cells, spatial_shape (1, Y, X). Raises ValueError for voxels with a height or another grid.
        """
        x = self._occupied(voxels)
        return [{name: branch(x) for name, branch in head.items()} for head in self.heads]  # type: ignore[operator]

    def _occupied(self, voxels: Voxels) -> SparseConvTensor:
        if tuple(voxels.spatial_shape) != (1, *self.grid.shape):
            raise ValueError(f"voxels have spatial_shape {tuple(voxels.spatial_shape)}; the head's grid gives {(1, *self.grid.shape)}")
        return SparseConvTensor(voxels.features, voxels.coords, voxels.spatial_shape, voxels.batch_size, voxels.cache)

    # ---- training

    def loss(self, voxels: Voxels, batch_data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Losses by name, two for each group, from ``gt_instances_3d`` of each sample (bboxes_3d in the LiDAR frame, labels_3d)."""
        return self.loss_by_feat(self(voxels), voxels, batch_data_samples)

    def loss_by_feat(self, outputs: list[dict[str, Tensor]], voxels: Voxels, batch_data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """CornerNet's focal loss over peaks, and L1 of the codes over objects; both numbers are means over the processes."""
        device = voxels.features.device
        truths = [objects(sample.gt_instances_3d, device) for sample in batch_data_samples]
        boxes, labels = [boxes[:, :7] for boxes, _ in truths], [labels for _, labels in truths]
        cells = voxels.coords[:, [3, 2]]
        targets = batch_targets(
            self.grid,
            cells,
            voxels.counts,
            boxes,
            labels,
            self.num_classes,
            self.train_cfg["gaussian_overlap"],
            self.train_cfg["min_radius"],
        )
        members = [torch.isin(targets.labels, targets.labels.new_tensor(group)) for group in self.groups]
        heat = [focal_heatmap_loss(out["heatmap"], targets.heat[:, list(group)]) for out, group in zip(outputs, self.groups, strict=True)]
        numbers = torch.stack([*(peaks for _, peaks in heat), *(member.sum() for member in members)]).tolist()
        divisors = [share_of_count(number, device) for number in numbers]
        losses = {}
        weights = targets.codes.new_tensor(self.code_weights)
        for i, (out, member) in enumerate(zip(outputs, members, strict=True)):
            found = torch.cat([out[name] for name in CODES], dim=1).index_select(0, targets.rows[member]).float()
            difference = (found - targets.codes[member]).abs() * weights
            losses[f"group{i}.loss_heatmap"] = heat[i][0] / divisors[i]
            losses[f"group{i}.loss_bbox"] = self.loc_weight * difference.sum() / divisors[len(members) + i]
        return losses

    # ---- prediction

    @torch.no_grad()
    def predict(self, voxels: Voxels, batch_data_samples: Sequence[Any], rescale: bool = False) -> list[InstanceData]:
        """For each sample its boxes: bboxes_3d (LiDARInstance3DBoxes), scores_3d, labels_3d; group after group, best first in each.

        Only the heat maps are computed everywhere; the branches of the boxes see the candidates and the cells round them. In training
        mode they see all cells, whose statistics BatchNorm then takes.
        """
        if self.training:
            return self.predict_by_feat(self(voxels), voxels)
        x = self._occupied(voxels)

        def codes(group: int, rows: Tensor) -> Tensor:
            near, place = _surroundings(x, rows)
            return torch.cat([self.heads[group][name](near)[place] for name in CODES], dim=1)  # type: ignore[index, operator]

        return self._detect([head["heatmap"](x) for head in self.heads], codes, voxels)  # type: ignore[index, operator]

    def predict_by_feat(self, outputs: list[dict[str, Tensor]], voxels: Voxels) -> list[InstanceData]:
        """Boxes of each sample from the outputs of :meth:`forward`."""
        codes = [torch.cat([out[name] for name in CODES], dim=1) for out in outputs]
        return self._detect([out["heatmap"] for out in outputs], lambda group, rows: codes[group][rows], voxels)

    def _detect(self, heat: list[Tensor], codes: Callable[[int, Tensor], Tensor], voxels: Voxels) -> list[InstanceData]:
        """Boxes from each group's heat map [N, labels of the group] and ``codes`` (group, rows [M]) → [M, 8]."""
        found = []  # group by group, the boxes of each sample
        for number, (group, logits) in enumerate(zip(self.groups, heat, strict=True)):
            candidates = [self._candidates(part, group) for part in logits.float().sigmoid().split(list(voxels.counts))]
            starts = [sum(voxels.counts[:b]) for b in range(voxels.batch_size)]
            rows = torch.cat([row + start for (row, _, _), start in zip(candidates, starts, strict=True)])
            boxes = decode(codes(number, rows).float(), voxels.coords[rows][:, [3, 2]], self.grid)
            parts = boxes.split([len(row) for row, _, _ in candidates])
            found.append([self._kept(part, scores, labels) for part, (_, scores, labels) in zip(parts, candidates, strict=True)])
        results = []
        for sample in zip(*found, strict=True):
            boxes, scores, labels = (torch.cat(part) for part in zip(*sample, strict=True))
            results.append(detections(boxes, scores, labels))
        return results

    def _candidates(self, scores: Tensor, group: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, scores and labels, [M] each, of the best cells of one sample: scores [N, labels of the group]."""
        best, place = scores.flatten().topk(min(int(self.test_cfg["candidates"]), scores.numel()))
        above = best > self.test_cfg["score_thr"]
        best, place = best[above], place[above]
        return place // len(group), best, place.new_tensor(list(group))[place % len(group)]

    def _kept(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What limits and suppression leave of one group's boxes [M, 7] in one sample."""
        cfg = self.test_cfg
        inside = within(boxes, cfg["limit"])
        boxes, scores, labels = boxes[inside], scores[inside], labels[inside]
        kept = nms_3d(boxes, scores, cfg["nms_thr"], cfg["nms_pre"], cfg["nms_post"])
        return boxes[kept], scores[kept], labels[kept]


def _surroundings(x: SparseConvTensor, rows: Tensor) -> tuple[SparseConvTensor, Tensor]:
    """The cells within one of cells ``rows`` [M], as a tensor of their own, and the places [M] of those cells in it."""
    height, width = x.spatial_shape[1] + 2, x.spatial_shape[2] + 2  # a margin, so that neighbours never run into other rows
    batch, _, down, right = x.indices.long().unbind(1)
    keys = (batch * height + down + 1) * width + right + 1
    steps = torch.arange(-1, 2, device=keys.device)
    wanted = keys[rows][:, None] + (steps[:, None] * width + steps).flatten()
    near = torch.isin(keys, wanted)
    chosen = SparseConvTensor(x.features[near], x.indices[near], x.spatial_shape, x.batch_size)
    return chosen, (near.cumsum(0) - 1)[rows]
