"""mmcv's voxelisation and scatter operators in PyTorch (any device), with the calling convention of mmcv 2.1's compiled ones.

Points are [N, F] with x, y, z first, in the LiDAR frame, metres; voxel coordinates are (z, y, x); results go into the tensors handed in.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _coordinates(points: Tensor, voxel_size: Tensor, coors_range: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """Coordinates int64 [N, 3] as (z, y, x), validity [N] and the grid (X, Y, Z). NaN and Inf are out of range."""
    grid = torch.round((coors_range[3:] - coors_range[:3]) / voxel_size).long()
    size, low = (t.to(points.device, points.dtype) for t in (voxel_size, coors_range[:3]))
    cells = torch.floor((points[:, :3] - low) / size)
    valid = ((cells >= 0) & (cells < grid.to(points.device))).all(1)
    coords = cells.where(valid[:, None], cells.new_zeros(())).long().flip(1)
    return coords, valid, grid.tolist()


def dynamic_voxelize_forward(points: Tensor, voxel_size: Tensor, coors_range: Tensor, coors: Tensor, NDim: int = 3) -> None:
    """Writes each point's voxel into ``coors`` int32 [N, 3] as (z, y, x); (−1, −1, −1) where the point is out of range."""
    _require_three(NDim)
    coords, valid, _ = _coordinates(points, voxel_size, coors_range)
    coors.copy_(coords.masked_fill_(~valid[:, None], -1))


def hard_voxelize_forward(
    points: Tensor,
    voxel_size: Tensor,
    coors_range: Tensor,
    voxels: Tensor,
    coors: Tensor,
    num_points_per_voxel: Tensor,
    voxel_num: Tensor,
    max_points: int,
    max_voxels: int,
    NDim: int = 3,
    deterministic: bool = True,
) -> None:
    """First come, first served: voxels in the order of their first point, in each the first ``max_points`` points in order.

    Voxels after the first ``max_voxels`` are dropped. Fills ``voxels`` [max_voxels, max_points, F], ``coors`` [max_voxels, 3] (z, y, x),
    ``num_points_per_voxel`` [max_voxels] and the scalar ``voxel_num``. Always deterministic.
    """
    _require_three(NDim)
    coords, valid, (size_x, size_y, _) = _coordinates(points, voxel_size, coors_range)
    kept = valid.nonzero().squeeze(1)
    if len(kept) == 0:
        voxel_num.zero_()
        return
    coords = coords[kept]
    key = (coords[:, 0] * size_y + coords[:, 1]) * size_x + coords[:, 2]
    key, order = torch.sort(key, stable=True)
    _, group, counts = torch.unique_consecutive(key, return_inverse=True, return_counts=True)
    start = counts.cumsum(0) - counts  # of each group in the sorted points; the stable sort puts its earliest point there
    by_arrival = torch.argsort(order[start])
    voxel_of_group = torch.empty_like(by_arrival)
    voxel_of_group[by_arrival] = torch.arange(len(by_arrival), device=points.device)
    voxel = voxel_of_group[group]
    slot = torch.arange(len(key), device=points.device) - start[group]
    use = (voxel < max_voxels) & (slot < max_points)
    voxels[voxel[use], slot[use]] = points[kept[order[use]]]
    first = by_arrival[:max_voxels]
    coors[: len(first)] = coords[order[start[first]]].to(coors.dtype)
    num_points_per_voxel[: len(first)] = counts[first].clamp_max(max_points).to(num_points_per_voxel.dtype)
    voxel_num.fill_(len(first))


def _require_three(dimensions: int) -> None:
    if dimensions != 3:
        raise ValueError(f"NDim={dimensions}; expected 3 (x, y, z)")


def _unique_rows(coors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct rows of non-negative ``coors`` [N, D] in lexicographic order [M, D], each row's index in them [N], and counts [M]."""
    extents = (coors.amax(0) + 1).tolist()
    total = 1
    for extent in extents:
        total *= extent
    if total >= 2**63:
        return torch.unique(coors, dim=0, return_inverse=True, return_counts=True)
    key = torch.zeros(len(coors), dtype=torch.long, device=coors.device)
    for column, extent in zip(coors.unbind(1), extents, strict=True):
        key = key * extent + column
    key, inverse, counts = torch.unique(key, return_inverse=True, return_counts=True)
    columns = []
    for extent in reversed(extents):
        columns.append(key % extent)
        key = key // extent
    return torch.stack(columns[::-1], 1).to(coors.dtype), inverse, counts


def dynamic_point_to_voxel_forward(feats: Tensor, coors: Tensor, reduce_type: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reduces point features [N, C] over equal coordinates int [N, D] by ``"max"``, ``"sum"`` or ``"mean"``.

    Points with a negative coordinate belong to no voxel. Returns voxel features [M, C], coordinates [M, D] in lexicographic order, each
    point's voxel int32 [N] (−1: none) and the number of points per voxel int32 [M].
    Raises ValueError for another ``reduce_type``.
    """
    if reduce_type not in ("max", "sum", "mean"):
        raise ValueError(f"reduce_type={reduce_type!r}; expected 'max', 'sum' or 'mean'")
    point_to_voxel = torch.full((len(coors),), -1, dtype=torch.int32, device=coors.device)
    kept = (coors >= 0).all(1).nonzero().squeeze(1)
    if len(kept) == 0:
        empty = point_to_voxel.new_empty(0)
        return feats.new_empty((0, feats.shape[1])), coors.new_empty((0, coors.shape[1])), point_to_voxel, empty
    voxel_coors, inverse, counts = _unique_rows(coors[kept])
    point_to_voxel[kept] = inverse.int()
    out = feats.new_zeros((len(voxel_coors), feats.shape[1]))
    if reduce_type == "max":
        out.scatter_reduce_(0, inverse[:, None].expand(-1, feats.shape[1]), feats[kept], "amax", include_self=False)
    else:
        out.index_add_(0, inverse, feats[kept])
        if reduce_type == "mean":
            out /= counts[:, None].to(out.dtype)
    return out, voxel_coors, point_to_voxel, counts.int()


def dynamic_point_to_voxel_backward(
    grad_feats: Tensor,
    grad_reduced_feats: Tensor,
    feats: Tensor,
    reduced_feats: Tensor,
    coors_idx: Tensor,
    reduce_count: Tensor,
    reduce_type: str,
) -> None:
    """Writes the gradient with respect to the point features [N, C] into ``grad_feats``; of equal maxima the earliest point gets it."""
    grad_feats.zero_()
    kept = (coors_idx >= 0).nonzero().squeeze(1)
    if len(kept) == 0:
        return
    voxel = coors_idx[kept].long()
    if reduce_type != "max":
        gradient = grad_reduced_feats / reduce_count[:, None].to(grad_reduced_feats.dtype) if reduce_type == "mean" else grad_reduced_feats
        grad_feats[kept] = gradient[voxel]
        return
    last = len(feats)
    candidate = kept[:, None].where(feats[kept] == reduced_feats[voxel], kept.new_tensor(last))  # [K, C]
    winner = torch.full(reduced_feats.shape, last, dtype=torch.long, device=feats.device)
    winner.scatter_reduce_(0, voxel[:, None].expand_as(candidate), candidate, "amin")
    found = winner < last  # a NaN maximum equals nothing and has no winner
    channel = torch.arange(feats.shape[1], device=feats.device).expand_as(winner)
    grad_feats[winner[found], channel[found]] = grad_reduced_feats[found]
