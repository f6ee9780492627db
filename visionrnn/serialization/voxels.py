"""Voxels of a batch with everything that follows from their coordinates alone, computed once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from visionrnn.serialization.constants import constant
from visionrnn.serialization.groups import Groups, make_groups
from visionrnn.serialization.merge import Merged, merge_coords
from visionrnn.serialization.neighbours import Neighbours
from visionrnn.serialization.plan import Plan, Traversal
from visionrnn.serialization.route import Route


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
        if coords.dim() != 2 or coords.shape[1] != 4 or coords.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"coords: expected int32 or int64 [N, 4] as (batch, z, y, x), got {coords.dtype} {list(coords.shape)}")
        if features.dim() != 2 or len(features) != len(coords):
            raise ValueError(f"features: expected [{len(coords)}, C], one row per coordinate, got {list(features.shape)}")
        if features.device != coords.device:
            raise ValueError(f"features are on {features.device}, coords on {coords.device}; expected one device")
        limit = (batch_size, *spatial_shape)
        wrong = ((coords < 0) | (coords >= constant(limit, torch.int64, coords.device))).any()
        unsorted = (coords[1:, 0] < coords[:-1, 0]).any()
        samples = torch.arange(batch_size + 1, device=coords.device)
        starts = torch.searchsorted(coords[:, 0].long().contiguous(), samples)
        *bounds, outside, mixed = torch.cat([starts, wrong[None].long(), unsorted[None].long()]).tolist()
        if outside:
            raise ValueError(f"coords: expected values in [0, {list(limit)}) for (batch, z, y, x)")
        if mixed:
            raise ValueError("coords: expected rows sample after sample; sort them by their first column")
        depth, height, width = spatial_shape
        counts = tuple(stop - start for start, stop in pairwise(bounds))
        return cls(features, coords, (depth, height, width), counts)

    @classmethod
    def from_merged(cls, features: Tensor, merged: Merged, spatial_shape: tuple[int, int, int]) -> Voxels:
        """Features [M, C] of the distinct coordinates that a merge left, with what it has prepared."""
        return cls(features, merged.coords, spatial_shape, merged.counts, merged.cache)

    @property
    def batch_size(self) -> int:
        return len(self.counts)

    def with_features(self, features: Tensor) -> Voxels:
        """The same coordinates, and all that is cached for them, with other features."""
        return replace(self, features=features)

    def prepare(self, plan: Plan) -> None:
        """Computes what the plan asks for and the cache lacks: nothing, or one sort and one host synchronisation.

        Raises ValueError for coordinates that occur more than once.
        """
        missing = Plan(
            tuple(traversal for traversal in plan.traversals if ("traversal", traversal) not in self.cache),
            plan.neighbours and "neighbours" not in self.cache,
        )
        if not missing.traversals and not missing.neighbours:
            return
        merged = merge_coords(self.coords, self.spatial_shape, self.batch_size, missing)
        if len(merged.coords) < len(self.coords):
            repeated = len(self.coords) - len(merged.coords)
            raise ValueError(f"coords: {repeated} of {len(self.coords)} rows repeat another; expected each (batch, z, y, x) once")
        place, row = merged.inverse, merged.sorted_rows  # rows may stand in another order here than there
        for traversal in missing.traversals:
            orders, places = merged.cache["traversal", traversal]
            self.cache["traversal", traversal] = row[orders], places.index_select(1, place)
        if missing.neighbours:
            self.cache["neighbours"] = merged.cache["neighbours"].of_rows(place, row)

    def orders(self, serializer: str, window: tuple[int, int, int], shift: bool) -> tuple[Tensor, Tensor]:
        """Both scan orders [N] of a registered serializer: ``features[order]`` is the sequence, sample after sample."""
        first, second = self._traversed(Traversal(serializer, window, shift))[0]
        return first, second

    def neighbours(self) -> Neighbours:
        """The 26 neighbours of all voxels."""
        self.prepare(Plan(neighbours=True))
        return self.cache["neighbours"]

    def groups(self, size: int, padding: str) -> Groups:
        """Groups of ``size`` along any order."""
        key = ("groups", size, padding)
        if key not in self.cache:
            self.cache[key] = make_groups(self.counts, size, padding, self.coords.device)
        return self.cache[key]

    def route(self, traversal: Traversal, size: int, padding: str) -> Route:
        """How features go through two blocks, one per order, in groups of ``size``."""
        key = ("route", traversal, size, padding)
        if key not in self.cache:
            self.cache[key] = Route.through(self.groups(size, padding), *self._traversed(traversal))
        return self.cache[key]

    def _traversed(self, traversal: Traversal) -> tuple[Tensor, Tensor]:
        """Orders [2, N], and places of the rows in them [2, N]."""
        self.prepare(Plan((traversal,)))
        return self.cache["traversal", traversal]

    def dense(self) -> Tensor:
        """[B, C, Z, Y, X], zero where there is no voxel."""
        depth, height, width = self.spatial_shape
        batch, z, y, x = self.coords.long().unbind(1)
        cells = self.features.new_zeros(self.batch_size * depth * height * width, self.features.shape[1])
        cells = cells.index_copy_(0, ((batch * depth + z) * height + y) * width + x, self.features)
        return cells.unflatten(0, (self.batch_size, depth, height, width)).permute(0, 4, 1, 2, 3)
