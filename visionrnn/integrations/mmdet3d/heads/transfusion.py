"""TransFusion's head with local attention, as LION has it on nuScenes: peaks of a heat map look at the map round them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn

from visionrnn.integrations.mmdet3d.heads_common import PRIOR, focal_heatmap_loss, local_maxima, nms_by_class, rectify, usable, within
from visionrnn.integrations.mmdet3d.heads_common.counts import share_of_count
from visionrnn.integrations.mmdet3d.heads_common.grid import Grid
from visionrnn.integrations.mmdet3d.heads_common.options import filled
from visionrnn.integrations.mmdet3d.heads_common.samples import detections, objects
from visionrnn.integrations.mmdet3d.transfusion.assigner import HungarianAssigner
from visionrnn.integrations.mmdet3d.transfusion.boxes import CODES, BoxCode
from visionrnn.integrations.mmdet3d.transfusion.decoder import DecoderLayer
from visionrnn.integrations.mmdet3d.transfusion.layers import Branches, ConvNorm, RowsAreX, one_hot
from visionrnn.integrations.mmdet3d.transfusion.targets import assign, heat_map

TRAINING: Mapping[str, Any] = {
    "gaussian_overlap": 0.1,
    "min_radius": 2,
    "assigner": {},
    "code_weights": (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2),
    "loss_heatmap": {"loss_weight": 1.0},
    "loss_cls": {"type": "mmdet.FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0},
    "loss_bbox": {"type": "mmdet.L1Loss", "loss_weight": 0.25},
    "loss_iou": {"type": "mmdet.L1Loss", "loss_weight": 0.5},
}
TESTING: Mapping[str, Any] = {
    "score_thr": 0.0,
    "limit": (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0),
    "iou_share": 0.5,
    "nms_classes": (8, 9),
    "nms_thr": 0.175,
    "nms_pre": 1000,
    "nms_post": 100,
}


class Proposals(NamedTuple):
    """What the head says of B samples, K classes and P queries, the best cells of the heat map.

    heat [B, K, Y, X]: logits of the dense heat map. labels int [B, P]: the class in whose map a query was found. peaks [B, P]: its
    score there. logits [B, P, K], codes [B, P, 10] (see BoxCode), overlaps [B, P]: 2 · IoU − 1 that the head expects of its box.
    """

    heat: Tensor
    labels: Tensor
    peaks: Tensor
    logits: Tensor
    codes: Tensor
    overlaps: Tensor


@MODELS.register_module()
class LIONTransFusionHead(BaseModule):
    """TransFusion head (Bai et al. 2022) with attention to the cells round each query and with an IoU branch, as LION trains on nuScenes.

    in_channels: width of the neck's map. num_classes: K. grid: options of Grid (point_cloud_range, voxel_size, stride), which tell where
    the map's cells lie. num_proposals: queries per sample. point_classes: labels of objects no larger than a cell; every cell of theirs
    may become a query, of the others only those which are the largest of the 3 × 3 round them. decoder: options of DecoderLayer
    (channels, num_heads, ffn_channels, radius, wrap_borders).

    Released weights expect ``decoder=dict(wrap_borders=True)``, which repeats what the published head does at the left and right border;
    the default does not. Classes are numbers here, and the data set must have them in LION's order (car, truck, construction_vehicle,
    bus, trailer, barrier, motorcycle, bicycle, pedestrian, traffic_cone), where pedestrian and traffic_cone are 8 and 9.

    train_cfg: ``gaussian_overlap``, ``min_radius`` (cells) of the heat map's peaks; ``assigner``, options of HungarianAssigner;
    ``code_weights`` of the box's 10 numbers; ``loss_heatmap``, ``loss_cls``, ``loss_bbox``, ``loss_iou``. test_cfg: boxes with scores
    above ``score_thr`` and centres within ``limit`` (metres) stay; scores become score^(1 − a) · IoU^a with a = ``iou_share``; rotated
    NMS with ``nms_thr``, ``nms_pre`` in, ``nms_post`` out, within each class of ``nms_classes`` only. What is not given is LION's.

    Unlike the published head, the dense heat map starts from scores of 0.1, not 0.5, and the IoU branch learns the IoU of the boxes
    themselves, not of boxes moved up by half their height. Raises ValueError: unknown options, classes that are not there.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        grid: Mapping[str, Any],
        num_proposals: int = 200,
        point_classes: Sequence[int] = (8, 9),
        decoder: Mapping[str, Any] | None = None,
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.train_cfg, self.test_cfg = filled(train_cfg, TRAINING, "train_cfg"), filled(test_cfg, TESTING, "test_cfg")
        for name, labels in (("point_classes", point_classes), ("test_cfg['nms_classes']", self.test_cfg["nms_classes"])):
            if not set(labels) <= set(range(num_classes)):
                raise ValueError(f"{name}={tuple(labels)}: expected labels 0 … {num_classes - 1}")
        width = sum(CODES.values())
        weights = self.train_cfg["code_weights"]
        if len(weights) != width:
            raise ValueError(f"train_cfg.code_weights: expected {width} numbers, one per number of the code, got {len(weights)}")
        self.num_classes, self.num_proposals, self.point_classes = num_classes, num_proposals, tuple(point_classes)
        self.grid = Grid(**grid)
        self.code = BoxCode(self.grid)
        self.assigner = HungarianAssigner(**filled(self.train_cfg["assigner"], vars(HungarianAssigner()), "train_cfg.assigner"))
        losses = (MODELS.build(dict(self.train_cfg[name])) for name in ("loss_cls", "loss_bbox", "loss_iou"))
        self.loss_cls, self.loss_bbox, self.loss_iou = losses

        options = dict(decoder or {})
        channels = options.setdefault("channels", 128)
        self.shared_conv = RowsAreX(in_channels, channels)
        self.heatmap_head = nn.Sequential(ConvNorm(channels), RowsAreX(channels, num_classes))
        nn.init.constant_(self.heatmap_head[1].bias, PRIOR)  # type: ignore[arg-type]
        self.class_encoding = nn.Conv1d(num_classes, channels, 1)
        self.decoder = DecoderLayer(**options)
        self.prediction_head = Branches(channels, {**CODES, "iou": 1, "heatmap": num_classes})

    def forward(self, feats: Sequence[Tensor]) -> Proposals:
        """``feats``: the neck's maps, the first of which, [B, in_channels, Y, X], is used. Raises ValueError for a map of another size."""
        self.grid.check(feats[0].shape)
        features = self.shared_conv(feats[0])
        heat = self.heatmap_head(features)
        labels, places, peaks = self._best(heat.detach().float().sigmoid())
        cells = torch.stack([places % self.grid.shape[1], places // self.grid.shape[1]], -1)  # [B, P, 2] as x, y

        tokens = features.flatten(2).transpose(1, 2).contiguous()  # [B, Y · X, C]
        first = torch.arange(len(tokens), device=places.device)[:, None] * tokens.shape[1]
        queries = tokens.flatten(0, 1).index_select(0, (places + first).flatten()).view(*places.shape, -1)
        classes = self.class_encoding(one_hot(labels, self.num_classes, queries.dtype).transpose(1, 2)).transpose(1, 2)
        found = self.prediction_head(self.decoder(queries + classes, cells, tokens, self.grid.shape))
        found["center"] = found["center"] + (cells + 0.5)
        codes = torch.cat([found[name] for name in CODES], -1)
        return Proposals(heat, labels, peaks, found["heatmap"], codes, found["iou"].squeeze(-1))

    def _best(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Labels, cells (y · X + x) and scores, [B, P] each, of the best peaks of the map [B, K, Y, X]."""
        peaks = local_maxima(scores, 3, border=False)
        points = one_hot(torch.tensor(self.point_classes, device=scores.device), self.num_classes, torch.bool).any(0)
        peaks = torch.where(points[:, None, None], scores, peaks).flatten(1)
        values, index = peaks.topk(min(self.num_proposals, peaks.shape[1]), 1)
        number = scores[0, 0].numel()
        return index // number, index % number, values

    # ---- training

    def loss(self, feats: Sequence[Tensor], batch_data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Losses by name, from ``gt_instances_3d`` of each sample (bboxes_3d in the LiDAR frame with 7 or 9 columns, labels_3d)."""
        return self.loss_by_feat(self(feats), batch_data_samples)

    def loss_by_feat(self, found: Proposals, batch_data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Focal losses of heat map (per peak) and class (per object), L1 of the code and of the expected IoU (per object).

        Numbers of peaks and objects are means over the processes. Velocities that are NaN are left out; so are objects that are not
        ``usable``.
        """
        truths = [self._truth(sample.gt_instances_3d, found.codes.device) for sample in batch_data_samples]
        logits, codes, overlaps = (part.float() for part in (found.logits, found.codes, found.overlaps))
        targets = assign(self.code.decode(codes), logits, truths, self.code, self.assigner)
        spread = self.train_cfg["gaussian_overlap"], self.train_cfg["min_radius"]
        drawn = torch.stack([heat_map(*truth, self.grid, self.num_classes, *spread) for truth in truths])
        heat, peaks = focal_heatmap_loss(found.heat, drawn)
        peaks_number, number = (share_of_count(int(count), heat.device) for count in (peaks, len(targets.rows)))

        known = targets.codes.isfinite()
        weights = known * codes.new_tensor(self.train_cfg["code_weights"])
        answers = codes.flatten(0, 1).index_select(0, targets.rows)
        hopes = overlaps.flatten().index_select(0, targets.rows)
        return {
            "loss_heatmap": self.train_cfg["loss_heatmap"]["loss_weight"] * heat / peaks_number,
            "loss_cls": self.loss_cls(logits.flatten(0, 1), targets.labels.flatten(), avg_factor=number),
            "loss_bbox": self.loss_bbox(answers, targets.codes.nan_to_num(0.0), weights, avg_factor=number),
            "loss_iou": self.loss_iou(hopes, 2 * targets.overlaps - 1, avg_factor=number),
        }

    def _truth(self, instances: Any, device: torch.device) -> tuple[Tensor, Tensor]:
        """Boxes [M, 7 or 9] and labels [M] of the objects to learn."""
        boxes, labels = objects(instances, device)
        taught = usable(boxes, labels, self.num_classes)
        return boxes[taught], labels[taught]

    # ---- prediction

    @torch.no_grad()
    def predict(self, feats: Sequence[Tensor], batch_data_samples: Sequence[Any], rescale: bool = False) -> list[InstanceData]:
        """For each sample its boxes, best first: bboxes_3d (LiDARInstance3DBoxes with 9 columns), scores_3d, labels_3d.

        ``rescale`` has no meaning for point clouds.
        """
        return self.predict_by_feat(self(feats))

    def predict_by_feat(self, found: Proposals) -> list[InstanceData]:
        """Boxes of each sample from what :meth:`forward` returns."""
        boxes = self.code.decode(found.codes.float())
        own = found.logits.float().gather(2, found.labels[..., None]).squeeze(-1).sigmoid()
        scores = own * found.peaks
        options = self.test_cfg
        good = (scores > options["score_thr"]) & within(boxes.flatten(0, 1), options["limit"]).view_as(scores)
        scores = rectify(scores, found.overlaps.float(), options["iou_share"])
        thresholds = dict.fromkeys(options["nms_classes"], options["nms_thr"])
        results = []
        for sample, keep in enumerate(good):
            kept = boxes[sample][keep], scores[sample][keep], found.labels[sample][keep]
            final = nms_by_class(*kept, thresholds, options["nms_pre"], options["nms_post"])
            results.append(detections(*(part[final] for part in kept)))
        return results
