"""LION as mmdet3d modules: points → voxels → linear RNN → bird's-eye map → any of mmdet3d's 2D backbones, necks and heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmdet3d.models.detectors import VoxelNet
from mmdet3d.registry import MODELS
from torch import Tensor, nn

from visionrnn.backbones.lion import LION, OFFICIAL_STAGES, Stage
from visionrnn.backbones.lion_sparse import SparseLION
from visionrnn.datasets.voxelize import DynamicVFE
from visionrnn.serialization import Plan, Voxels
from visionrnn.serialization.groups import to_device
from visionrnn.serialization.plan import NOTHING


@MODELS.register_module()
class PointVFE(DynamicVFE):
    """:class:`visionrnn.datasets.voxelize.DynamicVFE` with its voxels as :class:`~visionrnn.serialization.Voxels`."""

    def forward(self, points: Sequence[Tensor], plan: Plan = NOTHING) -> Voxels:  # type: ignore[override]
        """One cloud [P, F] (x, y, z in metres in the LiDAR frame, intensity, …) per sample, empty ones allowed.

        ``plan``: what the voxels will be asked for.
        """
        together = torch.cat(list(points))
        ends = to_device(np.cumsum([len(cloud) for cloud in points]), together.device)
        batch = torch.bucketize(torch.arange(len(together), device=together.device), ends, right=True)
        return self.voxels(together, batch, len(points), plan)


@MODELS.register_module()
class LIONEncoder(LION):
    """:class:`visionrnn.backbones.LION`, its voxels collapsed to a bird's-eye map [B, C · Z, Y, X], channel = c · Z + z."""

    def __init__(self, dim: int, operator: Mapping | str, stages: Sequence[Stage | Mapping] = OFFICIAL_STAGES, **options: Any):
        super().__init__(dim, operator, stages, **options)

    def forward(self, voxels: Voxels) -> Tensor:  # type: ignore[override]
        return super().forward(voxels).dense().flatten(1, 2)


@MODELS.register_module()
class SparseLIONEncoder(SparseLION):
    """:class:`visionrnn.backbones.SparseLION` for heads that take voxels: no map is made. Returns Voxels, ``spatial_shape`` (1, Y, X)."""


MODELS.register_module(name="Identity", module=nn.Identity, force=True)  # no backbone: mmdet3d's detectors always build one


@MODELS.register_module()
class PointVoxelNet(VoxelNet):
    """Detector on clouds of points: ``voxel_encoder`` (PointVFE) → ``middle_encoder`` (LIONEncoder) → backbone → neck → head.

    Voxelises all points of all samples at once; samples without points or voxels are right wherever they stand in the batch. Without
    ``backbone`` the head gets what the middle encoder returns (SparseLIONEncoder: Voxels).
    """

    def __init__(self, voxel_encoder: Any, middle_encoder: Any, backbone: Any = None, neck: Any = None, **options: Any):
        super().__init__(voxel_encoder, middle_encoder, backbone or {"type": "Identity"}, neck, **options)

    def extract_feat(self, batch_inputs_dict: dict[str, Any]) -> Any:
        """Head input from ``points``, a list of B clouds [P, F]."""
        plan = getattr(self.middle_encoder, "first_plan", NOTHING)
        x = self.backbone(self.middle_encoder(self.voxel_encoder(batch_inputs_dict["points"], plan)))
        return self.neck(x) if self.with_neck else x
