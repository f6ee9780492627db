"""A 64-beam rotating LiDAR like the HDL-64E, 10 Hz, 1.73 m above the road: which rays it sends and what it measures.

Geometry and noise follow the public data sheet (upper bank of 32 lasers about 1/3° apart from +2°, lower bank about 1/2° apart down to
-24.9°, azimuth step 0.1728°, range noise about 2 cm, 120 m). All 64 lasers start in one point here; the real ones sit a few
centimetres apart. A sweep is a snapshot: nothing moves while the sensor turns, as in KITTI's motion-corrected files.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from visionrnn.datasets.synthetic_ground import GRASS
from visionrnn.datasets.synthetic_rays import NOTHING, Hits, RayGrid, Window, cast, scene_surfaces
from visionrnn.datasets.synthetic_scene import Scene
from visionrnn.datasets.synthetic_shapes import FACADE, GLASS, LEAVES, RETRO

AZIMUTH_STEPS = 2083  # 360° / 0.1728°
MAX_RANGE = 120.0
MIN_RANGE = 0.9
RANGE_NOISE = 0.02


def beam_elevations() -> np.ndarray:
    """Elevations of the 64 lasers in degrees, highest first."""
    upper, lower = np.linspace(2.0, -8.53, 32), np.linspace(-8.87, -24.87, 32)
    unevenness = np.random.default_rng(64).normal(0.0, 0.015, 64)  # one fixed instrument, a little uneven as real ones are
    return np.concatenate([upper, lower]) + np.clip(unevenness, -0.03, 0.03)


class LidarRays(RayGrid):
    """Rays of one sweep: row = laser (highest first), column = azimuth, counter-clockwise; column 0 looks backwards.

    field_of_view: degrees about the x axis, 360 for the full turn; a smaller one keeps only the columns inside it.
    """

    def __init__(self, field_of_view: float = 360.0) -> None:
        self.origin = np.zeros(3)
        self.step = 2 * np.pi / AZIMUTH_STEPS
        half = min(int(np.ceil(np.radians(field_of_view) / 2 / self.step)), AZIMUTH_STEPS // 2)
        self.wraps = 2 * half + 1 >= AZIMUTH_STEPS
        self.first = -half  # azimuth of column c is (first + c + phase) * step
        elevation = np.radians(beam_elevations())[:, None]
        phase = np.random.default_rng(640).uniform(0, 1, (64, 1))  # the lasers of the instrument do not fire in line
        azimuth = (self.first + np.arange(2 * half + 1)[None, :] + phase) * self.step
        self.elevation = elevation[:, 0]
        self.dx = (np.cos(elevation) * np.cos(azimuth)).astype(np.float32)
        self.dy = (np.cos(elevation) * np.sin(azimuth)).astype(np.float32)
        self.dz = np.broadcast_to(np.sin(elevation), azimuth.shape).astype(np.float32)

    def windows(self, corners: np.ndarray) -> np.ndarray:
        plane, height = corners[..., :2], corners[..., 2]
        fan = np.linspace(-np.pi, np.pi, 72, endpoint=False)
        directions = np.stack([np.cos(fan), np.sin(fan)])  # [2, 72]
        near = (plane @ directions).min(axis=1).max(axis=1) * 0.995  # distance of the hull from the sensor's axis, a little less
        far = np.hypot(plane[..., 0], plane[..., 1]).max(axis=1)
        around = near < 0.05
        near = np.maximum(near, 0.05)
        low, high = height.min(axis=1), height.max(axis=1)
        top = np.arctan2(high, np.where(high > 0, near, far)) + 1e-3
        bottom = np.arctan2(low, np.where(low > 0, far, near)) - 1e-3
        row_from = np.searchsorted(-self.elevation, -top)
        row_to = np.searchsorted(-self.elevation, -bottom, side="right")

        middle = np.arctan2(plane[..., 1].mean(axis=1), plane[..., 0].mean(axis=1))
        offset = np.arctan2(plane[..., 1], plane[..., 0]) - middle[:, None]
        offset = (offset + np.pi) % (2 * np.pi) - np.pi
        column_from = np.floor((middle + offset.min(axis=1)) / self.step).astype(int) - 1 - self.first
        column_to = np.ceil((middle + offset.max(axis=1)) / self.step).astype(int) + 2 - self.first
        column_from[around], column_to[around] = 0, self.shape[1]
        return np.column_stack([row_from, row_to, column_from, column_to])

    def split(self, window: np.ndarray) -> Iterator[Window]:
        r0, r1, c0, c1 = (int(value) for value in window)
        width = self.shape[1]
        turns = (-width, 0, width) if self.wraps else (0,)
        for turn in turns:
            start, stop = max(c0 + turn, 0), min(c1 + turn, width)
            if r0 < r1 and start < stop:
                yield slice(r0, r1), slice(start, stop)


def measure(scene: Scene, rays: LidarRays, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Hits]:
    """One sweep.

    Returns points float32 [N, 4] (x, y, z in metres, LiDAR frame; intensity 0 to 1 in steps of 0.01), laser by laser from the highest;
    the labelled object each lies on, int [N], -1 for others; and what every ray met, before noise and drop-out.
    """
    hits = cast(scene, rays, rng, MIN_RANGE)
    row, column = np.nonzero(hits.surface != NOTHING)
    distance = hits.distance[row, column]
    surface = hits.surface[row, column]
    dx, dy, dz = rays.dx[row, column], rays.dy[row, column], rays.dz[row, column]
    incidence = np.abs(sum(n[row, column] * d for n, d in zip(hits.normal, (dx, dy, dz), strict=True)))
    table = scene_surfaces(scene)
    reflectivity = np.array([item.reflectivity for item in table], dtype=np.float32)[surface]
    kind = np.array([item.kind for item in table])[surface]
    incidence[kind == LEAVES] = 0.6
    incidence[kind == RETRO] = 1.0
    glass = (kind == GLASS) | ((kind == FACADE) & in_window(dx * distance, dy * distance, dz * distance))

    signal = reflectivity * incidence * (100 / distance) ** 2
    chance = 0.985 / (1 + (0.03 / np.maximum(signal, 1e-6)) ** 3)
    chance = np.where(glass, chance * (0.25 + 0.5 * incidence**4), chance)
    kept = (rng.random(len(distance), dtype=np.float32) < chance) & (distance < MAX_RANGE)

    noise = np.clip(rng.standard_normal(len(distance), dtype=np.float32), -3.5, 3.5) * np.float32(RANGE_NOISE)
    tufts = rng.random(len(distance), dtype=np.float32) * np.float32(0.06) / np.maximum(np.abs(dz), np.float32(0.12))
    measured = distance + noise - np.where(surface == GRASS, tufts, np.float32(0))
    bright = reflectivity * (0.75 + 0.25 * incidence) * np.exp(-distance / 150)
    bright[kind == LEAVES] *= rng.random(int((kind == LEAVES).sum()), dtype=np.float32) * np.float32(1.3)
    bright = np.where(kind == RETRO, np.float32(0.95), bright) * (
        1 + np.float32(0.12) * rng.standard_normal(len(distance), dtype=np.float32)
    )
    bright = np.where(glass, 0.1 * bright, bright)
    points = np.stack([measured * dx, measured * dy, measured * dz, np.round(np.clip(bright, 0, 0.99), 2)], axis=1)
    return points[kept].astype(np.float32), hits.thing[row, column][kept], hits


def in_window(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Whether a point of a facade lies on a window: a regular grid of openings, tied to place so that both sensors see the same."""
    return (np.mod(x + y + 500.0, 2.6) < 1.1) & (np.mod(z + 100.9, 3.0) > 0.9) & (np.mod(z + 100.9, 3.0) < 2.3)
