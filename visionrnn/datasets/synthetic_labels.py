"""KITTI labels of a synthetic frame: boxes in the camera frame and the picture, truncation, occlusion, DontCare."""

from __future__ import annotations

import numpy as np

from visionrnn.datasets.kitti import Labels, wrap_angle
from visionrnn.datasets.synthetic_camera import CALIBRATION, HEIGHT, WIDTH, project_hull
from visionrnn.datasets.synthetic_rays import NOTHING, Hits
from visionrnn.datasets.synthetic_scene import Scene

LABEL_RANGE = 70.0
MIN_POINTS = 5
MIN_PIXELS = 12


def camera_corners(boxes: np.ndarray) -> np.ndarray:
    """Camera boxes [N, 7] (bottom x, y, z, l, h, w, rotation_y) → corners [N, 8, 3] in the rectified camera frame."""
    length, height, width = boxes[:, 3:4], boxes[:, 4:5], boxes[:, 5:6]
    x = length / 2 * np.array([1, 1, -1, -1, 1, 1, -1, -1])
    z = width / 2 * np.array([1, -1, -1, 1, 1, -1, -1, 1])
    y = height * np.array([0, 0, 0, 0, -1, -1, -1, -1])
    c, s = np.cos(boxes[:, 6:]), np.sin(boxes[:, 6:])
    return np.stack([c * x + s * z, y, c * z - s * x], axis=2) + boxes[:, None, :3]


def _area(box: np.ndarray) -> np.ndarray:
    return (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])


def make_labels(scene: Scene, points_per_object: np.ndarray, camera: Hits) -> tuple[Labels, np.ndarray]:
    """Labels of what is in the picture, nearest first, then DontCare; and for each row the object's index [N] (-1: DontCare).

    points_per_object [objects]: LiDAR returns; camera: what the camera's rays met.
    Occlusion is the share of the object's own pixels (those that would show it if it stood alone) that other things cover: 0 up to 15 %,
    1 up to 50 %, 2 up to 90 %, 3 above. Truncation is the share of its projected box outside the picture.
    A visible object becomes DontCare when it is beyond 70 m, has fewer than 5 LiDAR returns, fewer than 12 visible pixels, or 95 % of it
    is outside the picture. Numbers are rounded as KITTI writes them, and 2D boxes and alpha follow from the rounded 3D boxes.
    """
    lidar = np.array([thing.box for thing in scene.objects]).reshape(-1, 7)
    boxes = np.round(CALIBRATION.boxes_lidar_to_camera(lidar), 2)
    low, high, before = project_hull(camera_corners(boxes))
    whole = np.where(before[:, None], np.concatenate([low, high], axis=1), 0.0)
    clipped = whole.clip(0, [WIDTH - 1, HEIGHT - 1, WIDTH - 1, HEIGHT - 1])
    truncated = (1 - _area(clipped) / np.maximum(_area(whole), 1e-6)).clip(0, 1)
    share = camera.seen / np.maximum(camera.alone, 1)
    occluded = (share < 0.85).astype(int) + (share < 0.5) + (share < 0.1)

    visible = before & (_area(clipped) > 0) & (camera.seen > 0)
    distance = np.hypot(lidar[:, 0], lidar[:, 1])
    good = visible & (points_per_object >= MIN_POINTS) & (camera.seen >= MIN_PIXELS) & (distance < LABEL_RANGE) & (truncated < 0.95)
    order = np.argsort(distance, kind="stable")
    rows = np.concatenate([order[good[order]], order[(visible & ~good)[order]]])
    ignored = ~good[rows]

    def column(values: np.ndarray, filler: float) -> np.ndarray:
        values = np.round(values[rows].astype(np.float64), 2)
        values[ignored] = filler
        return values

    labels = Labels(
        name=np.array(["DontCare" if skip else scene.objects[row].name for row, skip in zip(rows, ignored, strict=True)], dtype=np.str_),
        truncated=column(truncated, -1),
        occluded=column(occluded, -1),
        alpha=column(wrap_angle(boxes[:, 6] - np.arctan2(boxes[:, 0], boxes[:, 2])), -10),
        box2d=np.round(clipped[rows], 2),
        size=column(boxes[:, 3:6], -1),
        location=column(boxes[:, :3], -1000),
        rotation_y=column(boxes[:, 6], -10),
    )
    return labels, np.where(ignored, NOTHING, rows)
