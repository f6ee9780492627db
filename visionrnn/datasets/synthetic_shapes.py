"""Convex solids that rays are cast against: prisms, ellipsoids, cylinders.

A solid is described in metres. Composite things (a car, a tree) are lists of solids built about their own origin (x front, y left,
z up, standing on z = 0) and then put into the scene with `placed`. A ray enters and leaves a convex solid once, so each kind answers
with one interval of the ray; `visionrnn.datasets.synthetic_sensor` uses nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

PLAIN, GLASS, FACADE, LEAVES, RETRO = range(5)
"""Kinds of surface: opaque; window glass (rarely returns); wall with a grid of windows; foliage; retro-reflecting sheet."""


@dataclass(frozen=True)
class Surface:
    """What a solid is made of.

    reflectivity: 0 to 1 at perpendicular incidence; colour: RGB, 0 to 255; kind: one of the constants above;
    free_path: mean depth in metres that a ray travels inside before it returns (0: at the surface), which makes foliage porous.
    """

    reflectivity: float
    colour: tuple[int, int, int]
    kind: int = PLAIN
    free_path: float = 0.0


@dataclass(frozen=True)
class Solid:
    """One convex solid.

    kind: "prism" (planes [P, 4], inside is n·x <= d), "ellipsoid" or "cylinder" (inside after local = inverse @ (x - centre):
    the unit ball, or the unit disc in x, y with |z| <= 1).
    corners [K, 3]: points whose convex hull holds the solid, for culling.
    """

    kind: str
    surface: Surface
    corners: np.ndarray
    planes: np.ndarray | None = None
    centre: np.ndarray | None = None
    axes: np.ndarray | None = None  # [3, 3], columns are the half axes; `inverse` is its inverse
    inverse: np.ndarray | None = None

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest x, y, z of the solid itself (not of its culling corners)."""
        if self.kind == "prism":
            return self.corners.min(axis=0), self.corners.max(axis=0)
        assert self.axes is not None and self.centre is not None
        if self.kind == "ellipsoid":
            extent = np.sqrt((self.axes**2).sum(axis=1))
        else:
            extent = np.sqrt((self.axes[:, :2] ** 2).sum(axis=1)) + np.abs(self.axes[:, 2])
        return self.centre - extent, self.centre + extent

    def placed(self, yaw: float, offset: np.ndarray) -> Solid:
        """Turned by `yaw` (radians, counter-clockwise) about the z axis, then moved by `offset` [3]."""
        turn = rotation_z(yaw)
        corners = self.corners @ turn.T + offset
        if self.planes is not None:
            normals = self.planes[:, :3] @ turn.T
            return replace(self, corners=corners, planes=np.column_stack([normals, self.planes[:, 3] + normals @ offset]))
        assert self.axes is not None and self.centre is not None and self.inverse is not None
        return replace(self, corners=corners, centre=turn @ self.centre + offset, axes=turn @ self.axes, inverse=self.inverse @ turn.T)


def rotation_z(angle: float) -> np.ndarray:
    """Rotation matrix [3, 3] about z, counter-clockwise, radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def rotation_y(angle: float) -> np.ndarray:
    """Rotation matrix [3, 3] about y; positive angles tilt +z towards +x."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def rectangle(x0: float, x1: float, y0: float, y1: float, chamfer: float = 0.0) -> np.ndarray:
    """Counter-clockwise outline [4 or 8, 2] of a rectangle whose corners are cut by `chamfer` metres."""
    if chamfer <= 0:
        return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    c = chamfer
    outline = [[x0 + c, y0], [x1 - c, y0], [x1, y0 + c], [x1, y1 - c], [x1 - c, y1], [x0 + c, y1], [x0, y1 - c], [x0, y0 + c]]
    return np.array(outline)


def prism(bottom: np.ndarray, low: float, top: np.ndarray, high: float, surface: Surface) -> Solid:
    """Hull between a counter-clockwise outline [n, 2] at height `low` and one with parallel edges at height `high`."""
    below = np.column_stack([bottom, np.full(len(bottom), low)])
    above = np.column_stack([top, np.full(len(top), high)])
    edge_below, edge_above = np.roll(below, -1, axis=0) - below, np.roll(above, -1, axis=0) - above
    edge = np.where((edge_below**2).sum(1, keepdims=True) >= (edge_above**2).sum(1, keepdims=True), edge_below, edge_above)
    normals = np.cross(edge, above - below)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    sides = np.column_stack([normals, (normals * below).sum(axis=1)])
    planes = np.vstack([sides, [0.0, 0.0, 1.0, high], [0.0, 0.0, -1.0, -low]])
    return Solid("prism", surface, np.vstack([below, above]), planes=planes)


def block(x0: float, x1: float, y0: float, y1: float, low: float, high: float, surface: Surface) -> Solid:
    """Axis-parallel box."""
    outline = rectangle(x0, x1, y0, y1)
    return prism(outline, low, outline, high, surface)


def _quadric(kind: str, centre: np.ndarray, axes: np.ndarray, surface: Surface) -> Solid:
    signs = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)], dtype=float)
    return Solid(kind, surface, centre + signs @ axes.T, centre=centre, axes=axes, inverse=np.linalg.inv(axes))


def ellipsoid(centre: tuple[float, float, float], half: tuple[float, float, float], surface: Surface, tilt: float = 0.0) -> Solid:
    """Ellipsoid with half axes `half`, its z axis tilted towards +x by `tilt` radians."""
    return _quadric("ellipsoid", np.array(centre, dtype=float), rotation_y(tilt) @ np.diag(half), surface)


def pillar(x: float, y: float, low: float, high: float, radius: float, surface: Surface) -> Solid:
    """Upright cylinder."""
    return _quadric("cylinder", np.array([x, y, (low + high) / 2]), np.diag([radius, radius, (high - low) / 2]), surface)


def wheel(x: float, y: float, radius: float, width: float, surface: Surface) -> Solid:
    """Cylinder lying along y that touches z = 0."""
    axes = np.array([[radius, 0.0, 0.0], [0.0, 0.0, width / 2], [0.0, radius, 0.0]])
    return _quadric("cylinder", np.array([x, y, radius]), axes, surface)


def shape_bounds(solids: list[Solid]) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest x, y, z over a composite shape."""
    lows, highs = zip(*(solid.bounds() for solid in solids), strict=True)
    return np.min(lows, axis=0), np.max(highs, axis=0)
