"""Voxels of a batch with everything that follows from their coordinates alone, computed once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from visionrnn.registry import SERIALIZERS
from visionrnn.serialization.groups import Groups, make_groups


@dataclass(frozen=True)
class Voxels:
    """features [N, C]; coords [N, 4] integer (batch, z, y, x), sample after sample; spatial_shape (z, y, x).

    counts: voxels of each sample (0 allowed), known to the host so that nothing later waits for a GPU.
    ``cache`` belongs to the coordinates: :meth:`with_features` shares it.
    """

    features: Tensor
    coords: Tensor
    spatial_shape: tuple[int, int, int]
    counts: tuple[int, ...]
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_coords(cls, features: Tensor, coords: Tensor, spatial_shape: tuple[int, int, int], batch_size: int) -> Voxels:
        """Checks and counts. Raises ValueError for shapes that do not fit and coordinates outside the grid or not grouped by sample."""
        if coords.dim() != 2 or coords.shape[1] != 4 or coords.is_floating_point():
            raise ValueError(f"coords: expected integers [N, 4] as (batch, z, y, x), got {coords.dtype} {list(coords.shape)}")
        if features.dim() != 2 or len(features) != len(coords):
            raise ValueError(f"features: expected [{len(coords)}, C], one row per coordinate, got {list(features.shape)}")
        limit = torch.tensor([batch_size, *spatial_shape], device=coords.device)
        wrong = ((coords < 0) | (coords >= limit)).any()
        unsorted = (coords[1:, 0] < coords[:-1, 0]).any()
        counts = coords[:, 0].long().clamp(0, batch_size - 1).bincount(minlength=batch_size)
        *numbers, wrong, unsorted = torch.cat([counts, wrong[None].long(), unsorted[None].long()]).tolist()
        if wrong:
            raise ValueError(f"coords: expected values in [0, {limit.tolist()}) for (batch, z, y, x)")
        if unsorted:
            raise ValueError("coords: expected rows sample after sample; sort them by their first column")
        depth, height, width = spatial_shape
        return cls(features, coords, (depth, height, width), tuple(numbers))

    @property
    def batch_size(self) -> int:
        return len(self.counts)

    def with_features(self, features: Tensor) -> Voxels:
        """The same coordinates, and all that is cached for them, with other features."""
        return replace(self, features=features)

    def orders(self, serializer: str, window: tuple[int, int, int], shift: bool) -> tuple[Tensor, ...]:
        """Scan orders [N] of a registered serializer, one per axis; computed on first use."""
        key = ("orders", serializer, window, shift)
        if key not in self.cache:
            self.cache[key] = SERIALIZERS.get(serializer)(self.coords, self.spatial_shape, window, shift)
        return self.cache[key]

    def groups(self, size: int, padding: str) -> Groups:
        """Groups of ``size`` along any order; computed on first use."""
        key = ("groups", size, padding)
        if key not in self.cache:
            self.cache[key] = make_groups(self.counts, size, padding, self.coords.device)
        return self.cache[key]

    def dense(self) -> Tensor:
        """[B, C, Z, Y, X], zero where there is no voxel."""
        shape = (self.batch_size, *self.spatial_shape)
        out = self.features.new_zeros(*shape, self.features.shape[1])
        out = out.index_put(tuple(self.coords.long().unbind(1)), self.features)
        return out.permute(0, 4, 1, 2, 3)
