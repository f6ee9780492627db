"""Voxel coordinates with repetitions → distinct ones, with everything a plan asks of them: one sort, one host synchronisation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from visionrnn.registry import SERIALIZERS
from visionrnn.serialization.neighbours import both_ways, search_ahead
from visionrnn.serialization.plan import NOTHING, Plan

BEYOND = torch.iinfo(torch.int64).max // 2
"""A key larger than any voxel's."""


@dataclass(frozen=True)
class Merged:
    """coords: [M, 4], distinct, in ascending (batch, x, y, z); counts: how many of each sample.

    inverse: [N], the row of ``coords`` that each given row went into; M for rows that were not valid. sorted_rows: [V], the valid given
    rows in ascending order of their voxel, and sorted_inverse [V], their rows of ``coords``. cache: what the plan asked for, by the keys
    that :class:`~visionrnn.serialization.Voxels` uses.
    """

    coords: Tensor
    counts: tuple[int, ...]
    inverse: Tensor
    sorted_rows: Tensor
    sorted_inverse: Tensor
    cache: dict[Any, Any]


def merge_coords(
    coords: Tensor, spatial_shape: tuple[int, int, int], batch_size: int, plan: Plan = NOTHING, valid: Tensor | None = None
) -> Merged:
    """Distinct coordinates of ``coords`` [N, 4], integers (batch, z, y, x) inside the grid, in any order.

    valid: [N] bool, rows to be used (all when absent); the others may lie outside the grid. The keys for the ascending order and for all
    of the plan's traversals are sorted in one call, before repetitions are removed, and the host waits once: for the numbers of
    voxels, which decide the size of what is returned, and of neighbours, which decide the work of a convolution.

    Raises ValueError for samples outside 0 … batch_size - 1, and for a serializer that gives two voxels one key.
    """
    depth, height, width = spatial_shape
    strides = (height + 1) * (depth + 1), depth + 1  # with a gap after each line: a step out of the grid leads to no voxel
    volume = (width + 1) * strides[0]
    if valid is not None:
        coords = coords * valid.unsqueeze(1)
    batch, z, y, x = coords.long().unbind(1)
    keys = [(batch * volume + x * strides[0] + y * strides[1] + z).unsqueeze(0)]
    keys += [SERIALIZERS.get(name)(coords, spatial_shape, window, shift) for name, window, shift in plan.traversals]
    stacked = torch.cat(keys)
    if valid is not None:
        stacked.masked_fill_(~valid, BEYOND)
    ordered, permutation = stacked.sort(dim=1, stable=True)  # so what is summed per voxel rounds alike in any batch
    first = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[:, 1:], ordered[:, :-1], out=first[:, 1:])
    rank = first.cumsum(1).sub_(1)

    distinct = ordered.new_full((coords.shape[0] + 1,), BEYOND).scatter_(0, rank[0], ordered[0])
    limits = torch.arange(batch_size + 2, device=coords.device) * volume
    limits[-1:].fill_(BEYOND)
    clashes = (rank[:, -1:] != rank[:1, -1:]).sum().view(1)  # orders with fewer keys than there are voxels
    numbers = [torch.searchsorted(distinct, limits), torch.searchsorted(ordered[0], limits[-2:-1]), clashes]
    ahead = search_ahead(distinct, strides) if plan.neighbours else None
    if ahead is not None:
        numbers.append((ahead >= 0).sum(1))
    fetched = torch.cat(numbers).tolist()
    bounds, (total, used, clashing), pairs = fetched[: batch_size + 1], fetched[batch_size + 1 : batch_size + 4], fetched[batch_size + 4 :]
    number = bounds[-1]
    if bounds[0] or number != total:
        raise ValueError(
            f"coords: expected the sample, their first column, in [0, {batch_size}), and places inside the grid {spatial_shape}"
        )
    if clashing:
        names = sorted({traversal.serializer for traversal in plan.traversals})
        raise ValueError(f"serializer: expected a key of its own for each voxel, but {clashing} orders of {names} have fewer keys")

    inverse = torch.empty_like(rank[0]).scatter_(0, permutation[0], rank[0])
    row = rank.new_empty(number + 1).scatter_(0, rank[0], permutation[0])[:number]  # any of the rows that went into each
    cache: dict[Any, Any] = {}
    if plan.traversals:
        owner = inverse.index_select(0, permutation[1:].flatten()).view_as(rank[1:])
        size = len(owner), number + 1
        orders = rank.new_empty(size).scatter_(1, rank[1:], owner)[:, :number]
        places = rank.new_empty(size).scatter_(1, owner, rank[1:])[:, :number]
        pairs_of_rows = zip(orders.unflatten(0, (-1, 2)), places.unflatten(0, (-1, 2)), strict=True)
        cache.update(zip((("traversal", traversal) for traversal in plan.traversals), pairs_of_rows, strict=True))
    if ahead is not None:
        cache["neighbours"] = both_ways(ahead[:, :number], tuple(pairs))
    counts = tuple(stop - start for start, stop in pairwise(bounds))
    return Merged(coords.index_select(0, row), counts, inverse, permutation[0, :used], rank[0, :used], cache)
