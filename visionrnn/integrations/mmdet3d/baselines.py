"""mmdet3d's voxel detectors where a sample of the batch may have no voxels, and CenterPoint without velocities.

mmdet3d reads the batch size off the last voxel's index, which is wrong when the last sample has none and fails when no sample has any.
"""

from __future__ import annotations

from typing import Any

import torch
from mmdet3d.models.detectors import CenterPoint, VoxelNet
from mmdet3d.registry import MODELS
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
    """mmdet3d's CenterPoint for any distribution of voxels over the samples, and for boxes with and without velocities.

    mmdet3d's head needs velocities: boxes of seven columns are trained on with two zero columns. Predicted boxes have seven columns.
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

    def loss(self, batch_inputs_dict: dict[str, Any], batch_data_samples: list, **kwargs: Any) -> dict[str, Tensor]:
        """mmdet3d's losses. ``gt_instances_3d`` of the samples may have boxes [N, 7]; they are replaced by boxes [N, 9] in place."""
        for sample in batch_data_samples:
            boxes = sample.gt_instances_3d.bboxes_3d
            if boxes.box_dim == 7:
                tensor = torch.cat([boxes.tensor, boxes.tensor.new_zeros(len(boxes.tensor), 2)], 1)
                sample.gt_instances_3d.bboxes_3d = type(boxes)(tensor, box_dim=9)
        return super().loss(batch_inputs_dict, batch_data_samples, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> list:
        """mmdet3d's data samples with ``pred_instances_3d`` boxes of seven columns."""
        samples = super().predict(*args, **kwargs)
        for sample in samples:
            boxes = sample.pred_instances_3d.bboxes_3d
            sample.pred_instances_3d.bboxes_3d = type(boxes)(boxes.tensor[:, :7], box_dim=7)
        return samples
