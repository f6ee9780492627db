"""Voxel coordinates → scan order along x or y inside 3D windows (LION, Liu et al. 2024, section 3.2)."""

from __future__ import annotations

from torch import Tensor

from visionrnn.registry import SERIALIZERS


def window_keys(coords: Tensor, spatial_shape: tuple[int, int, int], window: tuple[int, int, int], shift: bool, axis: str) -> Tensor:
    """Sort keys [N], int64: sample first, then window, then place inside the window; unique for unique voxels.

    coords: [N, 4] as (batch, z, y, x); spatial_shape: (z, y, x); window: voxels along (x, y, z). ``axis`` is the slowest axis among
    windows and inside them, "x" or "y"; z is the fastest. ``shift`` moves all windows by half a window.
    """
    if axis not in ("x", "y"):
        raise ValueError(f"axis={axis!r}; expected 'x' or 'y'")
    z, y, x = (coords[:, i].long() for i in (1, 2, 3))
    key = coords[:, 0].long()
    places = {"x": (x, window[0], spatial_shape[2]), "y": (y, window[1], spatial_shape[1]), "z": (z, window[2], spatial_shape[0])}
    order = ("x", "y", "z") if axis == "x" else ("y", "x", "z")
    shifted = {name: place + size // 2 if shift else place for name, (place, size, _) in places.items()}
    for name in order:
        _, size, extent = places[name]
        key = key * (-(-extent // size) + 1) + shifted[name] // size
    for name in order:
        size = places[name][1]
        key = key * size + shifted[name] % size
    return key


@SERIALIZERS.register("window")
def window_orders(
    coords: Tensor,
    spatial_shape: tuple[int, int, int],
    window: tuple[int, int, int],
    shift: bool = False,
    axes: tuple[str, ...] = ("x", "y"),
) -> tuple[Tensor, ...]:
    """One order [N] per axis: ``features[order]`` is the scan sequence, sample after sample."""
    return tuple(window_keys(coords, spatial_shape, window, shift, axis).argsort() for axis in axes)
