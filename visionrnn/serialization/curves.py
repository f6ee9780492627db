"""Voxel coordinates → sort keys along space-filling curves through the whole scene: Z-order (Morton 1966) and Hilbert's (1891).

Grids of any size: the curve runs through the smallest cube with a power of two as side, and skips what lies outside. The second order
of each is the first with x and y exchanged, so that two blocks see two different neighbourhoods. ``window`` and ``shift`` have no effect.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from visionrnn.registry import SERIALIZERS
from visionrnn.serialization.constants import kept_on_device
from visionrnn.serialization.window3d import AXES, sum_of_tables


def bits_of(spatial_shape: tuple[int, int, int]) -> int:
    """Bits of the largest coordinate of a grid."""
    return max(max(spatial_shape) - 1, 1).bit_length()


@SERIALIZERS.register("z_order")
def z_order_keys(coords: Tensor, spatial_shape: tuple[int, int, int], window: tuple[int, int, int], shift: bool = False) -> Tensor:
    """Sort keys [2, N], int64: sample first, then the bits of x, y, z (y, x, z) in turn, highest first."""
    shape = tuple(spatial_shape)
    return sum_of_tables(coords, spatial_shape, _z_order_tables(shape, coords.device))


@kept_on_device
def _z_order_tables(shape: tuple[int, int, int], device: torch.device) -> Tensor:
    bits, rows = bits_of(shape), []
    for axes in AXES:
        terms = [np.array([1 << 3 * bits])]
        for axis, extent in zip("zyx", shape, strict=True):
            place = np.arange(extent)
            spread = [(place >> bit & 1) << 3 * bit + 2 - axes.index(axis) for bit in range(bits)]
            terms.append(np.sum(spread, axis=0))
        rows.append(np.concatenate(terms))
    return torch.from_numpy(np.stack(rows).astype(np.int64))


@SERIALIZERS.register("hilbert")
def hilbert_keys(coords: Tensor, spatial_shape: tuple[int, int, int], window: tuple[int, int, int], shift: bool = False) -> Tensor:
    """Sort keys [2, N], int64: sample first, then the place on Hilbert's curve, whose consecutive cells are neighbours.

    Skilling 2004, "Programming the Hilbert curve": coordinates → the transposed form of the place, one bit plane after the other.
    """
    bits = bits_of(spatial_shape)
    batch, z, y, x = coords.long().unbind(1)
    digits = [torch.stack([x, y]), torch.stack([y, x]), torch.stack([z, z])]  # slowest axis first, for both orders
    for bit in reversed(range(1, bits)):
        low = (1 << bit) - 1
        for axis in range(3):
            flip = digits[axis] >> bit & 1  # 1: invert the first axis's lower bits; 0: exchange them with this axis's
            change = (digits[0] ^ digits[axis]) & (low * (1 - flip))
            digits[axis] = digits[axis] ^ change
            digits[0] = digits[0] ^ change ^ (low * flip)
    for axis in (1, 2):
        digits[axis] = digits[axis] ^ digits[axis - 1]
    parity = torch.zeros_like(digits[0])
    for bit in range(1, bits):
        parity = parity ^ ((1 << bit) - 1) * (digits[2] >> bit & 1)
    keys = batch.expand_as(parity)
    for bit in reversed(range(bits)):
        for axis in range(3):
            keys = keys << 1 | (digits[axis] ^ parity) >> bit & 1
    return keys
