"""mmdet3d's voxel detectors where a sample of the batch may have no voxels, and CenterPoint without velocities.

mmdet3d reads the batch size off the last voxel's index, which is wrong when the last sample has none and fails when no sample has any.
"""

from __future__ import annotations

from typing import Any

import torch
from mmcv.transforms import BaseTransform
from mmdet3d.models.detectors import CenterPoint, VoxelNet
from mmdet3d.registry import MODELS, TRANSFORMS
from torch import Tensor


@MODELS.register_module()
class HardVoxelNet(VoxelNet):
    """mmdet3d's VoxelNet (SECOND, PointPillars) for any distribution of voxels over the samples; same options, same parameters."""

    def extract_feat(self, batch_inputs_dict: dict[str, Any]) -> Any:
        """Head input from ``points`` (a list of B clouds) and ``voxels`` (voxels [N, P, F], num_points [N], coors [N, 4] as b, z, y, x)."""
        voxels = batch_inputs_dict["voxels"]
        features = self.voxel_encoder(voxels["voxels"], voxels["num_points"], voxels["coors"])
        x = self.backbone(self.middle_encoder(features, voxels["coors"], len(batch_inputs_dict["points"])))
        return self.neck(x) if self.with_neck else x


@MODELS.register_module()
class HardCenterPoint(CenterPoint):
    """mmdet3d's CenterPoint for any distribution of voxels over the samples; predicted boxes have no velocity columns.

    Training boxes need the two columns all the same: put ``AppendZeroVelocity`` before the packing transform.
    """

    def init_weights(self) -> None:
        """Also sets the biases of the heat maps (to a probability of 0.1), which mmengine does not reach inside mmdet3d's ModuleList."""
        super().init_weights()
        for head in self.pts_bbox_head.task_heads:
            torch.nn.init.constant_(head.heatmap[-1].bias, head.init_bias)

    def extract_pts_feat(self, voxel_dict: dict[str, Tensor], points: list[Tensor] | None = None, *args: Any, **kwargs: Any) -> Any:
        """Head input from voxels as in ``HardVoxelNet`` and the list of B clouds ``points``."""
        if points is None:
            raise ValueError("points=None; expected the list of the batch's clouds, whose length is the batch size")
        features = self.pts_voxel_encoder(voxel_dict["voxels"], voxel_dict["num_points"], voxel_dict["coors"])
        x = self.pts_backbone(self.pts_middle_encoder(features, voxel_dict["coors"], len(points)))
        return self.pts_neck(x) if self.with_pts_neck else x

    def predict(self, *args: Any, **kwargs: Any) -> list:
        """mmdet3d's data samples with ``pred_instances_3d`` boxes of seven columns."""
        samples = super().predict(*args, **kwargs)
        for sample in samples:
            boxes = sample.pred_instances_3d.bboxes_3d
            sample.pred_instances_3d.bboxes_3d = type(boxes)(boxes.tensor[:, :7], box_dim=7)
        return samples


@TRANSFORMS.register_module()
class AppendZeroVelocity(BaseTransform):
    """Adds two zero columns (velocity in x and y, m/s) to ``gt_bboxes_3d``, which CenterPoint's head expects: [N, 7] → [N, 9]."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        boxes = results["gt_bboxes_3d"]
        if boxes.box_dim != 7:
            raise ValueError(f"gt_bboxes_3d has {boxes.box_dim} columns; expected 7 (x, y, z, l, w, h, yaw) to append the velocity to")
        tensor = torch.cat([boxes.tensor, boxes.tensor.new_zeros(len(boxes.tensor), 2)], 1)
        results["gt_bboxes_3d"] = type(boxes)(tensor, box_dim=9)
        return results
