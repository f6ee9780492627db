"""LION's centre head on Waymo and ONCE: CenterPoint's head (Yin et al. 2021), with a branch for the overlap, with or without velocities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from mmdet3d.models.dense_heads.base_3d_dense_head import Base3DDenseHead
from mmdet3d.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional

from visionrnn.integrations.mmdet3d.heads.center_boxes import Selection, detect
from visionrnn.integrations.mmdet3d.heads.center_targets import CenterTargets, Peaks, assign
from visionrnn.integrations.mmdet3d.heads_common import PRIOR, aligned_iou_3d, focal_heatmap_loss
from visionrnn.integrations.mmdet3d.heads_common.codes import CODES, decode
from visionrnn.integrations.mmdet3d.heads_common.counts import share_of_count
from visionrnn.integrations.mmdet3d.heads_common.grid import Grid
from visionrnn.integrations.mmdet3d.heads_common.options import filled
from visionrnn.integrations.mmdet3d.heads_common.samples import detections, objects

EXTRA = {"iou": 1, "vel": 2}
NORM: Mapping[str, Any] = {"type": "BN", "eps": 1e-3, "momentum": 0.01}
TRAINING: Mapping[str, Any] = {"peaks": {}, "heatmap_weight": 1.0, "box_weight": 2.0, "iou_weight": 1.0, "code_weights": None}


@MODELS.register_module()
class LIONCenterHead(Base3DDenseHead):
    """One heat map per class and, at each cell, the box of an object whose centre lies there.

    grid: options of :class:`~visionrnn.integrations.mmdet3d.heads_common.grid.Grid`, the cells of the map the head gets.
    extra: branches besides centre, height, size and heading: "iou" (the box's overlap with the object, as 2 · IoU − 1), "vel" (m/s).
    feat_channels: width of the shared convolution and of all branches. conv_bias: whether convolutions before a norm have a bias.
    train_cfg: ``peaks`` (options of ``center_targets.Peaks``), ``heatmap_weight``, ``box_weight``, ``iou_weight``, ``code_weights`` (one
    per number of the code, 8 or 10; all 1 if None). test_cfg: options of ``center_boxes.Selection``.
    Raises ValueError for unknown branches or options, and for lists of the wrong length.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        grid: Mapping[str, Any],
        extra: Sequence[str] = (),
        feat_channels: int = 64,
        norm_cfg: Mapping[str, Any] = NORM,
        conv_bias: bool = False,
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ):
        super().__init__(init_cfg=init_cfg)
        if not set(extra) <= set(EXTRA):
            raise ValueError(f"extra={list(extra)}; expected some of {list(EXTRA)}")
        self.num_classes, self.grid = num_classes, Grid(**grid)
        self.code_branches = [*CODES, *(["vel"] if "vel" in extra else [])]
        self.training_options = filled(train_cfg, TRAINING, "train_cfg")
        self.peaks = Peaks(**filled(self.training_options["peaks"], vars(Peaks()), "train_cfg.peaks"))
        self.selection = Selection(**filled(test_cfg, vars(Selection()), "test_cfg"))
        self.selection.check(num_classes)
        sizes = {**CODES, **{name: size for name, size in EXTRA.items() if name in extra}, "hm": num_classes}
        width = sum(size for name, size in sizes.items() if name in self.code_branches)
        weights = self.training_options["code_weights"] or [1.0] * width
        if len(weights) != width:
            raise ValueError(f"train_cfg.code_weights: expected {width} numbers, one per number of the code, got {len(weights)}")
        self.register_buffer("code_weights", torch.tensor(weights, dtype=torch.float32), persistent=False)

        def layer(channels: int) -> nn.Sequential:
            conv = nn.Conv2d(channels, feat_channels, 3, padding=1, bias=conv_bias)
            return nn.Sequential(conv, build_norm_layer(dict(norm_cfg), feat_channels)[1], nn.ReLU(inplace=True))

        self.shared_conv = layer(in_channels)
        self.branches = nn.ModuleDict(
            {name: nn.Sequential(layer(feat_channels), nn.Conv2d(feat_channels, size, 3, padding=1)) for name, size in sizes.items()}
        )
        self._initialise()

    def _initialise(self) -> None:
        """Kaiming for the boxes; PyTorch's default for the heat map, whose bias says 10 % everywhere."""
        for name, branch in self.branches.items():
            for conv in branch.modules():
                if name == "hm" or not isinstance(conv, nn.Conv2d):
                    continue
                nn.init.kaiming_normal_(conv.weight)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
        nn.init.constant_(self.branches["hm"][-1].bias, PRIOR)  # type: ignore[index]

    def forward(self, feats: Sequence[Tensor]) -> tuple[dict[str, Tensor]]:
        """Maps by branch, [B, channels, Y, X] each, from the neck's only map [B, C, Y, X]. Raises ValueError for a map off the grid."""
        (x,) = feats
        self.grid.check(x.shape)
        x = self.shared_conv(x)
        return ({name: branch(x) for name, branch in self.branches.items()},)

    def codes(self, maps: Mapping[str, Tensor]) -> Tensor:
        """[B, 8 or 10, Y, X] float32."""
        return torch.cat([maps[name] for name in self.code_branches], 1).float()

    def loss_by_feat(self, maps: dict[str, Tensor], gt: list[InstanceData], metas: Any = None, ignored: Any = None) -> dict[str, Tensor]:
        """Losses ``loss_heatmap``, ``loss_bbox`` and, with that branch, ``loss_iou``: sums over all processes' objects, per object."""
        targets = self._targets(gt, maps["hm"].device)
        options = self.training_options
        heatmap, peaks = focal_heatmap_loss(maps["hm"], targets.heat)
        objects = share_of_count(len(targets.cells), heatmap.device)
        codes = self.codes(maps).permute(0, 2, 3, 1).flatten(0, 2).index_select(0, targets.cells)  # [M, 8 or 10]
        known = ~targets.codes.isnan()  # velocities may be unknown
        error = functional.l1_loss(codes, torch.where(known, targets.codes, codes.detach()), reduction="none").sum(0)
        losses = {
            "loss_heatmap": options["heatmap_weight"] * heatmap / share_of_count(int(peaks), heatmap.device),
            "loss_bbox": options["box_weight"] * (error * self.code_weights).sum() / objects,
        }
        if "iou" in maps:
            predicted = maps["iou"].float().flatten().index_select(0, targets.cells)
            distance = (predicted - (2 * self._overlaps(codes.detach(), targets) - 1)).abs().sum()
            losses["loss_iou"] = options["iou_weight"] * distance / objects
        return losses

    def _overlaps(self, codes: Tensor, targets: CenterTargets) -> Tensor:
        """IoU [M] of the boxes told by codes [M, 8 or 10] with their objects."""
        width = self.grid.shape[1]
        rows = targets.cells // width % self.grid.shape[0]
        return aligned_iou_3d(decode(codes, torch.stack([targets.cells % width, rows], 1), self.grid), targets.boxes)

    @torch.no_grad()
    def _targets(self, gt: list[InstanceData], device: torch.device) -> CenterTargets:
        boxes, labels = [], []
        for sample in gt:
            box, label = objects(sample, device)
            if "vel" not in self.code_branches:
                box = box[:, :7]
            elif box.shape[1] == 7:
                box = torch.cat([box, box.new_full((len(box), 2), float("nan"))], 1)
            boxes.append(box)
            labels.append(label)
        return assign(boxes, labels, self.num_classes, self.grid, self.peaks)

    @torch.no_grad()
    def predict_by_feat(self, maps: dict[str, Tensor], **ignored: Any) -> list[InstanceData]:
        """For each sample, best first: ``bboxes_3d`` (LiDARInstance3DBoxes, bottom centres), ``scores_3d`` and ``labels_3d``."""
        codes = self.codes(maps)
        results = []
        for index, code in enumerate(codes):
            found = detect({name: value[index] for name, value in maps.items()}, code, self.grid, self.selection)
            results.append(detections(found.boxes, found.scores, found.labels))
        return results
