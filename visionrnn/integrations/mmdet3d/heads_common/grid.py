"""Cells of a bird's-eye map and metres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Where the cells of a bird's-eye map lie: cell (x, y) holds the places from its coordinate up to the next.

    point_cloud_range: x, y, z minima, then maxima, metres, LiDAR frame; voxel_size: x, y, z, metres; stride: voxels per cell and axis.
    """

    point_cloud_range: Sequence[float]
    voxel_size: Sequence[float]
    stride: int = 1

    def __post_init__(self):
        if len(self.point_cloud_range) != 6 or len(self.voxel_size) != 3 or min(self.voxel_size) <= 0 or self.stride < 1:
            raise ValueError(
                "grid: expected point_cloud_range of 6 numbers, voxel_size of 3 above 0 and stride of at least 1, got "
                f"{list(self.point_cloud_range)}, {list(self.voxel_size)} and {self.stride}"
            )

    @property
    def cell(self) -> tuple[float, float]:
        """Metres per cell along x and y."""
        return self.voxel_size[0] * self.stride, self.voxel_size[1] * self.stride

    @property
    def shape(self) -> tuple[int, int]:
        """Cells (Y, X) of the whole map."""
        low, high = self.point_cloud_range[:2], self.point_cloud_range[3:5]
        x, y = (round((high[i] - low[i]) / self.cell[i]) for i in range(2))
        return y, x

    def check(self, shape: torch.Size | Sequence[int]) -> None:
        """Raises ValueError unless a map's last two axes are this grid's (Y, X)."""
        if tuple(shape[-2:]) != self.shape:
            raise ValueError(
                f"map of {tuple(shape[-2:])} cells (Y, X): expected {self.shape} from point_cloud_range, voxel_size and stride "
                f"{self.stride} of the head's grid; change them or the strides of backbone and neck"
            )

    def cells(self, places: Tensor) -> Tensor:
        """Metres [..., 2] (x, y) → fractional cells."""
        return (places - places.new_tensor(self.point_cloud_range[:2])) / places.new_tensor(self.cell)

    def metres(self, cells: Tensor) -> Tensor:
        """Fractional cells [..., 2] (x, y) → metres."""
        return cells * cells.new_tensor(self.cell) + cells.new_tensor(self.point_cloud_range[:2])
