"""A batch of sparse 3D feature maps, with spconv 2's attribute names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from visionrnn.errors import DataError
from visionrnn.layers.sparse_rulebook import check_coords, triple


class SparseConvTensor:
    """Features of the occupied voxels of a batch of 3D grids.

    ``features``: [N, C]; ``indices``: [N, 4] int32 or int64, (batch, z, y, x), each voxel once, any order; ``spatial_shape``: (z, y, x).
    ``cache`` holds what depends on coordinates only (rulebooks by ``indice_key``); give the same dict to tensors with the same
    coordinates to share it.

    Raises DataError when shapes, dtype, device or batch size do not fit. Coordinates are compared with the grid when a rulebook is
    built from them.
    """

    def __init__(
        self, features: Tensor, indices: Tensor, spatial_shape: Sequence[int], batch_size: int, cache: dict[Any, Any] | None = None
    ):
        check_coords(indices)
        if features.ndim != 2 or len(features) != len(indices):
            raise DataError(
                f"sparse features have shape {list(features.shape)}; expected [{len(indices)}, C], one row per voxel coordinate"
            )
        if features.device != indices.device:
            raise DataError(f"sparse features are on {features.device}, voxel coordinates on {indices.device}; expected the same device")
        if batch_size < 1:
            raise DataError(f"batch_size={batch_size}; expected at least 1")
        self.features = features
        self.indices = indices
        self.spatial_shape = list(triple(spatial_shape, "spatial_shape", 1))
        self.batch_size = int(batch_size)
        self.cache: dict[Any, Any] = {} if cache is None else cache

    def replace_feature(self, features: Tensor) -> SparseConvTensor:
        """The same voxels and cache with other features [N, C']."""
        return type(self)(features, self.indices, self.spatial_shape, self.batch_size, self.cache)

    def dense(self, channels_first: bool = True) -> Tensor:
        """[B, C, z, y, x] (or [B, z, y, x, C]), zeros where there is no voxel; differentiable."""
        depth, height, width = self.spatial_shape
        batch, z, y, x = self.indices.long().unbind(1)
        row = ((batch * depth + z) * height + y) * width + x
        cells = self.features.new_zeros(self.batch_size * depth * height * width, self.features.shape[1])
        grid = cells.index_copy_(0, row, self.features).view(self.batch_size, depth, height, width, -1)
        return grid.permute(0, 4, 1, 2, 3).contiguous() if channels_first else grid

    def __repr__(self) -> str:
        count, channels = self.features.shape
        return f"SparseConvTensor({count} voxels, {channels} channels, spatial_shape={self.spatial_shape}, batch_size={self.batch_size})"
