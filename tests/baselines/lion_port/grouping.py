"""Voxels → sort keys of windows, and groups filled with copies, sample by sample."""

from __future__ import annotations

import torch
from torch import Tensor


def window_order(coords: Tensor, spatial_shape: tuple[int, ...], window: tuple[int, ...], shift: bool, axis: str) -> Tensor:
    """Order [N] of coords [N, 4] (batch, z, y, x) by sample, window, place in the window; ``axis`` (x or y) slowest, z fastest."""
    key = coords[:, 0]
    columns = {"x": (coords[:, 3], window[0], spatial_shape[2]), "y": (coords[:, 2], window[1], spatial_shape[1])}
    columns["z"] = (coords[:, 1], window[2], spatial_shape[0])
    names = ("x", "y", "z") if axis == "x" else ("y", "x", "z")
    for name in names:
        place, size, extent = columns[name]
        key = key * (-(-extent // size) + 1) + (place + (size // 2 if shift else 0)) // size
    for name in names:
        place, size, _ = columns[name]
        key = key * size + (place + (size // 2 if shift else 0)) % size
    return key.argsort()


def group_maps(coords: Tensor, batch_size: int, size: int) -> tuple[Tensor, Tensor]:
    """Where each slot of the filled groups reads its voxel [P], and the slot of each voxel [N].

    A sample's last group is filled with the same slots of the group before it, or, if it is the only one, with its own voxels over again.
    """
    reads, slots, start, filled = [], [], 0, 0
    for sample in range(batch_size):
        number = int((coords[:, 0] == sample).sum())
        groups = -(-number // size)
        place = torch.arange(groups * size, device=coords.device)
        copied = place - size if groups > 1 else place % number
        reads.append(start + torch.where(place < number, place, copied))
        slots.append(filled + place[:number])
        start, filled = start + number, filled + groups * size
    return torch.cat(reads), torch.cat(slots)
