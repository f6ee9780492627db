"""Points → voxels: coordinates on a grid, and the dynamic voxel feature encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from visionrnn.layers.linear import Linear
from visionrnn.layers.norm import RowBatchNorm
from visionrnn.serialization import Plan, Voxels, merge_coords
from visionrnn.serialization.constants import constant
from visionrnn.serialization.plan import NOTHING


def grid_shape(point_cloud_range: Sequence[float], voxel_size: Sequence[float]) -> tuple[int, int, int]:
    """Number of voxels along (x, y, z). Ranges are metres: x, y, z minima, then maxima."""
    x, y, z = (round((point_cloud_range[3 + i] - point_cloud_range[i]) / voxel_size[i]) for i in range(3))
    return x, y, z


def voxel_coords(
    points: Tensor, point_cloud_range: Sequence[float], voxel_size: Sequence[float], dtype: torch.dtype = torch.float64
) -> Tensor:
    """Integer (x, y, z) voxel [N, 3] of points [N, ≥ 3] in metres; may lie outside the grid.

    Sensors report whole millimetres, so many points lie exactly on the border of two voxels. In float64 they fall into the upper one, as
    the decimal numbers say; float32, the arithmetic of the official code, puts some of them (5 of 6 017 voxels on a KITTI frame) below.
    """
    low = constant(tuple(point_cloud_range[:3]), points.dtype, points.device)
    size = constant(tuple(voxel_size), dtype, points.device)
    return torch.floor((points[:, :3].to(dtype) - low.to(dtype)) / size).long()


class DynamicVFE(nn.Module):
    """Dynamic voxel feature encoder (Zhou et al. 2019): every point counts, however many share a voxel.

    A point's features are its own (x, y, z, intensity, …), its offset from the mean of its voxel's points, and from the voxel's
    centre. Each layer is Linear → BatchNorm → ReLU → maximum per voxel; all but the last have half the width and hand point and
    voxel features on together. ``coords_dtype``: see :func:`voxel_coords`.
    """

    def __init__(
        self,
        in_channels: int,
        feat_channels: Sequence[int],
        point_cloud_range: Sequence[float],
        voxel_size: Sequence[float],
        coords_dtype: torch.dtype = torch.float64,
    ):
        super().__init__()
        self.point_cloud_range, self.voxel_size = tuple(point_cloud_range), tuple(voxel_size)
        self.coords_dtype = coords_dtype
        self.grid = grid_shape(point_cloud_range, voxel_size)
        widths = [width // 2 for width in feat_channels[:-1]] + [feat_channels[-1]]
        inputs = [in_channels + 6, *feat_channels[:-1]]
        self.layers = nn.ModuleList(
            nn.Sequential(Linear(i, o, bias=False), RowBatchNorm(o, eps=1e-3, momentum=0.01), nn.ReLU())
            for i, o in zip(inputs, widths, strict=True)
        )
        self.in_channels, self.out_channels = in_channels, feat_channels[-1]

    def forward(self, points: Tensor, batch: Tensor, batch_size: int) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """points [P, F] in metres, batch [P] → features [N, C], coords [N, 4] (batch, z, y, x), voxels per sample."""
        voxels = self.voxels(points, batch, batch_size)
        return voxels.features, voxels.coords, voxels.counts

    def voxels(self, points: Tensor, batch: Tensor, batch_size: int, plan: Plan = NOTHING) -> Voxels:
        """points [P, F] in metres, batch [P] → voxels with features [N, C], in ascending (batch, x, y, z).

        Points outside the range are left out. ``plan``: what the voxels will be asked for.
        """
        if points.dim() != 2 or points.shape[1] != self.in_channels:
            raise ValueError(f"points: expected [P, {self.in_channels}] (x, y, z, …), got {list(points.shape)}")
        cell = voxel_coords(points, self.point_cloud_range, self.voxel_size, self.coords_dtype)
        inside = ((cell >= 0) & (cell < constant(self.grid, torch.int64, cell.device))).all(1)
        coords = torch.cat([batch.long().unsqueeze(1), cell.flip(1)], 1).int()
        shape = self.grid[2], self.grid[1], self.grid[0]
        merged = merge_coords(coords, shape, batch_size, plan, inside)
        points, voxel = points.index_select(0, merged.sorted_rows), merged.sorted_inverse  # points of one voxel follow each other
        features = self._point_features(points, voxel, merged.coords)
        for i, layer in enumerate(self.layers):
            features = layer(features)
            pooled = scatter_max(features, voxel, len(merged.coords))
            if i + 1 < len(self.layers):
                features = torch.cat([features, pooled.index_select(0, voxel)], 1)  # unlike [], adds in a fixed order backward
        return Voxels.from_merged(pooled, merged, shape)

    def _point_features(self, points: Tensor, voxel: Tensor, coords: Tensor) -> Tensor:
        number = len(coords)
        places = points[:, :3]
        count = points.new_zeros(number).index_add_(0, voxel, torch.ones_like(points[:, 0])).unsqueeze(1)
        total = torch.zeros(number, 3, dtype=torch.float64, device=points.device).index_add_(0, voxel, places.double())
        mean = total.to(points.dtype) / count  # summed so that the order of the points makes next to no difference
        low = constant(self.point_cloud_range[:3], points.dtype, points.device)
        size = constant(self.voxel_size, points.dtype, points.device)
        centre = (coords[:, 1:].flip(1).to(points.dtype) + 0.5) * size + low
        return torch.cat([points, places - mean.index_select(0, voxel), places - centre.index_select(0, voxel)], 1)


def scatter_max(features: Tensor, index: Tensor, number: int) -> Tensor:
    """Maximum [number, C] of the rows [P, C] that share an index; every index occurs."""
    out = features.new_full((number, features.shape[1]), -torch.inf)
    return out.scatter_reduce(0, index[:, None].expand_as(features), features, "amax", include_self=False)
