"""LION as mmdet3d modules: points → voxels → linear RNN → bird's-eye map → any of mmdet3d's 2D backbones, necks and heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet3d.models.detectors import VoxelNet
from mmdet3d.registry import MODELS
from torch import Tensor

from visionrnn.backbones.lion import LION, OFFICIAL_STAGES, Stage
from visionrnn.datasets.voxelize import DynamicVFE
from visionrnn.serialization import Voxels


@MODELS.register_module()
class PointVFE(DynamicVFE):
    """:class:`visionrnn.datasets.voxelize.DynamicVFE` with its voxels as :class:`~visionrnn.serialization.Voxels`."""

    def forward(self, points: Sequence[Tensor]) -> Voxels:  # type: ignore[override]
        """One cloud [P, F] (x, y, z in metres in the LiDAR frame, intensity, …) per sample, empty ones allowed."""
        batch = torch.cat([cloud.new_full((len(cloud),), i, dtype=torch.long) for i, cloud in enumerate(points)])
        features, coords, counts = super().forward(torch.cat(list(points)), batch, len(points))
        x, y, z = self.grid
        return Voxels(features, coords, (z, y, x), counts)


@MODELS.register_module()
class LIONEncoder(LION):
    """:class:`visionrnn.backbones.LION`, its voxels collapsed to a bird's-eye map [B, C · Z, Y, X], channel = c · Z + z."""

    def __init__(self, dim: int, operator: Mapping | str, stages: Sequence[Stage | Mapping] = OFFICIAL_STAGES, **options: Any):
        super().__init__(dim, operator, stages, **options)

    def forward(self, voxels: Voxels) -> Tensor:  # type: ignore[override]
        return super().forward(voxels).dense().flatten(1, 2)


@MODELS.register_module()
class PointVoxelNet(VoxelNet):
    """Detector on clouds of points: ``voxel_encoder`` (PointVFE) → ``middle_encoder`` (LIONEncoder) → backbone → neck → head.

    Voxelises all points of all samples at once; samples without points or voxels are right wherever they stand in the batch.
    """

    def extract_feat(self, batch_inputs_dict: dict[str, Any]) -> Any:
        """Head input from ``points``, a list of B clouds [P, F]."""
        x = self.backbone(self.middle_encoder(self.voxel_encoder(batch_inputs_dict["points"])))
        return self.neck(x) if self.with_neck else x
