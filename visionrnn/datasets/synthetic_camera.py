"""Camera 2 of a synthetic frame: calibration in KITTI's form, one ray per pixel, and a flat-shaded picture.

Rectified camera frame: x right, y down, z forward, metres. Picture: 1242 × 375 pixels.
"""

from __future__ import annotations

import numpy as np

from visionrnn.datasets.kitti import Calibration
from visionrnn.datasets.synthetic_rays import NOTHING, Hits, RayGrid, scene_surfaces
from visionrnn.datasets.synthetic_scene import Scene
from visionrnn.datasets.synthetic_sensor import in_window
from visionrnn.datasets.synthetic_shapes import FACADE, GLASS, LEAVES

WIDTH, HEIGHT = 1242, 375
SUN = (-0.35, 0.5, 0.79)


def _turn(axis: int, degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def _calibration() -> Calibration:
    """One rig: cameras a little turned against each other and the LiDAR, as mounted by hand; the same for every frame."""
    axes = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])  # LiDAR → camera without any tilt
    rectify = _turn(0, 0.25) @ _turn(1, 0.55) @ _turn(2, -0.4)
    to_camera = rectify.T @ _turn(0, 0.15) @ _turn(2, 0.05) @ axes
    intrinsics = np.array([[721.0, 0.0, 609.5], [0.0, 721.0, 172.5], [0.0, 0.0, 1.0]])
    baselines = (0.0, -0.5372, 0.0622, -0.4709)  # x of camera 0's origin in the frames of the four cameras, metres
    projections = [np.column_stack([intrinsics, intrinsics @ [x, 0.0, 0.0027 if k > 1 else 0.0]]) for k, x in enumerate(baselines)]
    return Calibration(
        P0=projections[0],
        P1=projections[1],
        P2=projections[2],
        P3=projections[3],
        R0_rect=rectify,
        Tr_velo_to_cam=np.column_stack([to_camera, [-0.004, -0.076, -0.272]]),
        Tr_imu_to_velo=np.column_stack([_turn(0, 0.85) @ _turn(1, -0.1) @ _turn(2, 0.04), [-0.81, 0.32, -0.8]]),
    )


CALIBRATION = _calibration()


def calibration_text() -> str:
    """A KITTI calibration file: P0 to P3, R0_rect, Tr_velo_to_cam, Tr_imu_to_velo."""
    lines = []
    for key in ("P0", "P1", "P2", "P3", "R0_rect", "Tr_velo_to_cam", "Tr_imu_to_velo"):
        lines.append(f"{key}: " + " ".join(f"{value:.12e}" for value in getattr(CALIBRATION, key).ravel()) + "\n")
    return "".join(lines)


class CameraRays(RayGrid):
    """One ray through the middle of every pixel of camera 2; row and column as in the picture."""

    def __init__(self) -> None:
        rotation, translation = CALIBRATION.lidar2cam[:3, :3], CALIBRATION.lidar2cam[:3, 3]
        matrix, offset = CALIBRATION.P2[:, :3], CALIBRATION.P2[:, 3]
        self.origin = rotation.T @ (-np.linalg.solve(matrix, offset) - translation)
        column, row = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
        x, y = (column - matrix[0, 2]) / matrix[0, 0], (row - matrix[1, 2]) / matrix[1, 1]
        scale = 1 / np.sqrt(x * x + y * y + 1)
        directions = [(rotation[0, k] * x + rotation[1, k] * y + rotation[2, k]) * scale for k in range(3)]
        self.dx, self.dy, self.dz = (axis.astype(np.float32) for axis in directions)

    def windows(self, corners: np.ndarray) -> np.ndarray:
        rotation, translation = CALIBRATION.lidar2cam[:3, :3], CALIBRATION.lidar2cam[:3, 3]
        low, high, visible = project_hull(corners @ rotation.T + translation)
        low, high = np.clip(np.nan_to_num(low), -9, 9999), np.clip(np.nan_to_num(high), -9, 9999)
        rows = np.column_stack([np.floor(low[:, 1]) - 1, np.ceil(high[:, 1]) + 2]).clip(0, HEIGHT)
        columns = np.column_stack([np.floor(low[:, 0]) - 1, np.ceil(high[:, 0]) + 2]).clip(0, WIDTH)
        return np.where(visible[:, None], np.column_stack([rows, columns]), 0).astype(int)


def project_hull(points: np.ndarray, near: float = 0.2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picture rectangle of hulls of points [N, K, 3] in the rectified camera frame, cut at `near` metres before the camera.

    Returns lowest and highest pixel, [N, 2] each, not clipped to the picture, and whether any of the hull lies before the camera [N].
    """
    depth = points[..., 2]
    before = depth >= near
    crosses = before[:, :, None] & ~before[:, None, :]  # segments from a point before the plane to one behind it
    gap = np.where(crosses, depth[:, :, None] - depth[:, None, :], 1.0)
    weight = np.where(crosses, (near - depth[:, None, :]) / gap, 0.0)[..., None]
    cut = weight * points[:, :, None, :] + (1 - weight) * points[:, None, :, :]
    pairs = depth.shape[1] ** 2
    usable = np.concatenate([before, crosses.reshape(len(points), pairs)], axis=1)
    every = np.concatenate([points, cut.reshape(len(points), pairs, 3)], axis=1)
    homogeneous = every @ CALIBRATION.P2[:, :3].T + CALIBRATION.P2[:, 3]
    pixel = homogeneous[..., :2] / np.where(usable, homogeneous[..., 2], 1.0)[..., None]
    low = np.where(usable[..., None], pixel, np.inf).min(axis=1)
    high = np.where(usable[..., None], pixel, -np.inf).max(axis=1)
    return low, high, usable.any(axis=1)


def paint(scene: Scene, rays: CameraRays, hits: Hits, rng: np.random.Generator) -> np.ndarray:
    """Flat-shaded picture, uint8 [375, 1242, 3] RGB, of what the camera's rays met."""
    table = scene_surfaces(scene)
    empty = hits.surface == NOTHING
    colour = np.array([item.colour for item in table], dtype=np.float32)[hits.surface]
    kind = np.where(empty, 0, np.array([item.kind for item in table])[hits.surface])
    nx, ny, nz = hits.normal
    light = 0.55 + 0.45 * np.clip(nx * SUN[0] + ny * SUN[1] + nz * SUN[2], 0, 1)
    leaves = kind == LEAVES
    light[leaves] *= 1 + np.float32(0.25) * rng.standard_normal(int(leaves.sum()), dtype=np.float32)
    distance = np.where(empty, np.float32(0), hits.distance)
    x, y, z = (float(o) + distance * d for o, d in zip(rays.origin, (rays.dx, rays.dy, rays.dz), strict=True))
    colour[(kind == FACADE) & (np.abs(nz) < 0.5) & in_window(x, y, z)] = (62, 74, 88)
    light = np.where(kind == GLASS, 0.9 * light + np.clip(rays.dz, 0, 1), light)
    haze = (1 - np.exp(-distance / 220))[..., None]
    picture = colour * light[..., None] * (1 - haze) + np.array([186, 202, 220], dtype=np.float32) * haze
    up = np.clip(rays.dz * 3, 0, 1)[..., None]
    sky = np.array([206, 220, 234], dtype=np.float32) * (1 - up) + np.array([104, 156, 214], dtype=np.float32) * up
    return np.where(empty[..., None], sky, picture).clip(0, 255).astype(np.uint8)
