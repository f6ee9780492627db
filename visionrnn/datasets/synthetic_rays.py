"""Casting a grid of rays against a scene.

Rays form a grid [H, W] (laser × azimuth, or pixel row × column), all from one origin. Each solid is tested only against the rays
inside its angular window, which is a rectangle of the grid, so the work is rays-near-it, not rays × solids. All arithmetic on rays is
element by element in float32, without BLAS, so results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from visionrnn.datasets.synthetic_ground import SURFACES
from visionrnn.datasets.synthetic_scene import Scene
from visionrnn.datasets.synthetic_shapes import Solid

NOTHING = -1
Window = tuple[slice, slice]


class RayGrid:
    """Unit directions dx, dy, dz, each float32 [H, W], from `origin` [3] in the LiDAR frame."""

    origin: np.ndarray
    dx: np.ndarray
    dy: np.ndarray
    dz: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.dx.shape[0], self.dx.shape[1]

    def windows(self, corners: np.ndarray) -> np.ndarray:
        """Grid rectangle that holds each point set: corners [N, K, 3] → int [N, 4] (row from, row to, column from, column to)."""
        raise NotImplementedError(f"{type(self).__name__} has no windows")

    def split(self, window: np.ndarray) -> Iterator[Window]:
        """The rectangle as slices; more than one where columns wrap around."""
        r0, r1, c0, c1 = (int(value) for value in window)
        if r0 < r1 and c0 < c1:
            yield slice(r0, r1), slice(c0, c1)


@dataclass
class Hits:
    """What each ray met; arrays are [H, W].

    distance: metres, inf for nothing; surface: index into `surfaces`, -1 for nothing; thing: index of the labelled object, -1 for others;
    normal: three arrays, unit, facing the origin; alone, seen [objects]: rays that would meet the object if nothing else stood there
    (only objects of the scene are left out, also the ground), and rays that do.
    """

    distance: np.ndarray
    surface: np.ndarray
    thing: np.ndarray
    normal: tuple[np.ndarray, np.ndarray, np.ndarray]
    alone: np.ndarray
    seen: np.ndarray


def scene_surfaces(scene: Scene) -> list:
    """Surfaces in the order in which `Hits.surface` counts them: the ground's parts, the background, the objects' solids."""
    solids = scene.background + [solid for thing in scene.objects for solid in thing.solids]
    return list(SURFACES) + [solid.surface for solid in solids]


def cast(scene: Scene, rays: RayGrid, rng: np.random.Generator, nearest: float = 0.3) -> Hits:
    """First thing each ray meets beyond `nearest` metres."""
    shape = rays.shape
    distance = scene.ground.cast(rays.origin, rays.dx, rays.dy, rays.dz)
    x = float(rays.origin[0]) + _finite(distance) * rays.dx
    y = float(rays.origin[1]) + _finite(distance) * rays.dy
    on_ground = np.isfinite(distance)
    surface = np.where(on_ground, scene.ground.parts(x, y), NOTHING).astype(np.int32)
    normal = tuple(np.ascontiguousarray(axis, dtype=np.float32) for axis in scene.ground.normal(x, y))
    thing = np.full(shape, NOTHING, dtype=np.int32)
    stamp = np.full(shape, NOTHING, dtype=np.int32)
    alone = np.zeros(len(scene.objects), dtype=np.int64)

    owners = [NOTHING] * len(scene.background) + [i for i, item in enumerate(scene.objects) for _ in item.solids]
    solids = scene.background + [solid for item in scene.objects for solid in item.solids]
    windows = rays.windows(_padded_corners(solids)) if solids else np.zeros((0, 4), dtype=int)
    for index, (solid, owner) in enumerate(zip(solids, owners, strict=True)):
        for window in rays.split(windows[index]):
            dx, dy, dz = rays.dx[window], rays.dy[window], rays.dz[window]
            t, normals = intersect(solid, rays.origin, dx, dy, dz, nearest)
            if solid.surface.free_path > 0:
                t = _inside(t, normals[3], solid.surface.free_path, rng)
            hit = np.isfinite(t)
            if owner >= 0:
                fresh = hit & (stamp[window] != owner)
                stamp[window][fresh] = owner
                alone[owner] += int(fresh.sum())
            closer = t < distance[window]
            if closer.any():
                distance[window][closer] = t[closer]
                surface[window][closer] = len(SURFACES) + index
                thing[window][closer] = owner
                for axis in range(3):
                    normal[axis][window][closer] = normals[axis][closer]
    seen = np.bincount(thing[thing >= 0], minlength=len(scene.objects)).astype(np.int64)
    return Hits(distance, surface, thing, (normal[0], normal[1], normal[2]), alone, seen)


def intersect(
    solid: Solid, origin: np.ndarray, dx: np.ndarray, dy: np.ndarray, dz: np.ndarray, nearest: float
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Distance to a solid (inf: missed) and (nx, ny, nz, distance at which the ray leaves it)."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if solid.planes is not None:
            enter, leave, normals = _through_planes(solid.planes, origin, dx, dy, dz)
        else:
            enter, leave, normals = _through_quadric(solid, origin, dx, dy, dz)
        missed = ~((enter < leave) & (enter > nearest))
    return np.where(missed, np.float32(np.inf), enter), (*normals, leave)


def _through_planes(planes: np.ndarray, origin: np.ndarray, dx: np.ndarray, dy: np.ndarray, dz: np.ndarray):
    enter = np.full(dx.shape, -np.inf, dtype=np.float32)
    leave = np.full(dx.shape, np.inf, dtype=np.float32)
    face = np.zeros(dx.shape, dtype=np.int8)
    gaps = planes[:, 3] - planes[:, :3] @ origin
    for number, ((nx, ny, nz, _), gap) in enumerate(zip(planes.tolist(), gaps.tolist(), strict=True)):
        along = nx * dx + ny * dy + nz * dz
        t = np.float32(gap) / along
        inward = along < 0
        later = inward & (t > enter)
        enter = np.where(later, t, enter)
        face = np.where(later, np.int8(number), face)
        leave = np.where(~inward & (t < leave), t, leave)
        if gap < 0:  # the origin is outside this plane: rays that do not come in through it miss
            leave = np.where(inward, leave, np.float32(-np.inf))
    table = planes[:, :3].astype(np.float32)
    return enter, leave, tuple(table[face, axis] for axis in range(3))


def _through_quadric(solid: Solid, origin: np.ndarray, dx: np.ndarray, dy: np.ndarray, dz: np.ndarray):
    assert solid.inverse is not None and solid.centre is not None
    m = solid.inverse.tolist()
    ox, oy, oz = ((solid.inverse * (origin - solid.centre)).sum(axis=1)).tolist()
    ex, ey, ez = (row[0] * dx + row[1] * dy + row[2] * dz for row in m)
    ball = solid.kind == "ellipsoid"
    squared = ex * ex + ey * ey + (ez * ez if ball else 0)
    closest = -(ox * ex + oy * ey + (oz * ez if ball else 0)) / squared
    px, py, pz = ox + closest * ex, oy + closest * ey, oz + closest * ez
    half = np.sqrt((1 - px * px - py * py - (pz * pz if ball else 0)) / squared)  # nan where the ray passes by
    enter, leave = closest - half, closest + half
    if ball:
        lx, ly, lz = ox + enter * ex, oy + enter * ey, oz + enter * ez
    else:
        one, other = (-1 - oz) / ez, (1 - oz) / ez
        low, high = np.minimum(one, other), np.maximum(one, other)
        cap = low > enter
        enter, leave = np.where(cap, low, enter), np.minimum(leave, high)
        lx, ly = np.where(cap, 0, ox + enter * ex), np.where(cap, 0, oy + enter * ey)
        lz = np.where(cap, -np.sign(ez), 0)
    nx, ny, nz = (m[0][axis] * lx + m[1][axis] * ly + m[2][axis] * lz for axis in range(3))
    scale = 1 / np.sqrt(nx * nx + ny * ny + nz * nz)
    return enter, leave, (nx * scale, ny * scale, nz * scale)


def _inside(t: np.ndarray, leave: np.ndarray, free_path: float, rng: np.random.Generator) -> np.ndarray:
    """Return from a random depth of porous stuff; inf where the ray goes right through."""
    hit = np.isfinite(t)
    depth = rng.standard_exponential(int(hit.sum()), dtype=np.float32) * np.float32(free_path)
    deeper = t[hit] + depth
    out = t.copy()
    out[hit] = np.where(deeper < leave[hit], deeper, np.float32(np.inf))
    return out


def _padded_corners(solids: list[Solid]) -> np.ndarray:
    """Culling corners of all solids, [N, K, 3], short lists filled with their first corner."""
    width = max(len(solid.corners) for solid in solids)
    out = np.empty((len(solids), width, 3))
    for row, solid in zip(out, solids, strict=True):
        row[:] = solid.corners[0]
        row[: len(solid.corners)] = solid.corners
    return out


def _finite(distance: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(distance), distance, np.float32(0))
