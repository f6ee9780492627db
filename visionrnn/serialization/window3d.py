"""Voxel coordinates → sort keys along x and along y inside 3D windows (LION, Liu et al. 2024, section 3.2)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from visionrnn.registry import SERIALIZERS
from visionrnn.serialization.constants import kept_on_device

AXES = (("x", "y", "z"), ("y", "x", "z"))  # slowest to fastest, of the first and of the second order


@SERIALIZERS.register("window")
def window_keys(coords: Tensor, spatial_shape: tuple[int, int, int], window: tuple[int, int, int], shift: bool = False) -> Tensor:
    """Sort keys [2, N], int64: sample first, then window, then place inside the window; unique for unique voxels.

    coords: [N, 4] as (batch, z, y, x); spatial_shape: (z, y, x); window: voxels along (x, y, z). In the first row x is the slowest
    axis among windows and inside them, in the second y; z is the fastest. ``shift`` moves all windows by half a window.
    """
    if len(window) != 3 or min(window) < 1:
        raise ValueError(f"window: expected three sizes (x, y, z) of at least 1, got {window}")
    return sum_of_tables(coords, spatial_shape, _tables(tuple(spatial_shape), tuple(window), bool(shift), coords.device))


@SERIALIZERS.register("scene")
def scene_keys(coords: Tensor, spatial_shape: tuple[int, int, int], window: tuple[int, int, int], shift: bool = False) -> Tensor:
    """Keys as :func:`window_keys` with one window around the whole scene: x-major and y-major. ``window`` and ``shift`` have no effect."""
    depth, height, width = spatial_shape
    return window_keys(coords, spatial_shape, (width, height, depth), False)


def sum_of_tables(coords: Tensor, spatial_shape: tuple[int, int, int], tables: Tensor) -> Tensor:
    """[2, N] keys that are a sum of one term for the sample and one for each axis.

    tables: [2, 1 + Z + Y + X], the sample's stride, then the terms of all places along z, y and x.
    """
    stride, *terms = tables.split((1, *spatial_shape), 1)
    keys = stride * coords[:, 0]
    for axis, term in enumerate(terms, start=1):
        keys += term.index_select(1, coords[:, axis])
    return keys


@kept_on_device
def _tables(shape: tuple[int, int, int], window: tuple[int, int, int], shift: bool, device: torch.device) -> Tensor:
    extent = dict(zip("zyx", shape, strict=True))
    size = dict(zip("xyz", window, strict=True))
    place = {axis: np.arange(extent[axis]) + (size[axis] // 2 if shift else 0) for axis in "xyz"}
    rows = []
    for axes in AXES:
        terms, stride = {axis: np.zeros(extent[axis], np.int64) for axis in axes}, 1
        for axis in reversed(axes):  # from the last digit of the key to its first: places inside windows, then windows
            terms[axis] += place[axis] % size[axis] * stride
            stride *= size[axis]
        for axis in reversed(axes):
            terms[axis] += place[axis] // size[axis] * stride
            stride *= -(-extent[axis] // size[axis]) + 1
        rows.append(np.concatenate([[stride], terms["z"], terms["y"], terms["x"]]))
    return torch.from_numpy(np.stack(rows))
