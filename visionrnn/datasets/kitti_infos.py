"""One frame of KITTI as mmdet3d 1.4's info files (version 2) describe it: plain Python values, boxes in the camera frame."""

from __future__ import annotations

from typing import Any

import numpy as np

from visionrnn.datasets.kitti import Calibration, FramePaths, Labels

CATEGORIES = ("Pedestrian", "Cyclist", "Car", "Van", "Truck", "Person_sitting", "Tram", "Misc")  # the order info files count in


def metainfo(names: set[str]) -> dict[str, Any]:
    """Head of an info file; those of ``names`` that are no category (DontCare as a rule) have the label -1."""
    categories = {name: label for label, name in enumerate(CATEGORIES)}
    categories.update(dict.fromkeys(sorted(names - set(CATEGORIES)), -1))
    return {"categories": categories, "dataset": "kitti", "info_version": "1.1"}


def frame_info(
    paths: FramePaths, calibration: Calibration, image_size: tuple[int, int], labels: Labels | None, counts: np.ndarray | None
) -> dict[str, Any]:
    """The entry of one frame in ``data_list``.

    ``image_size`` is (height, width); ``counts`` [N] is the number of points in each box, -1 for DontCare; both labels and counts are None
    for the test split. File names are stored without folders: the data set's config has the prefixes.
    """
    lidar2cam = calibration.lidar2cam
    images: dict[str, Any] = {}
    for number, projection in enumerate((calibration.P0, calibration.P1, calibration.P2, calibration.P3)):
        if projection is not None:
            matrix = np.vstack([projection, [0, 0, 0, 1]])
            images[f"CAM{number}"] = {"cam2img": matrix.tolist(), "lidar2img": (matrix @ lidar2cam).tolist()}
    images["CAM2"].update(height=image_size[0], width=image_size[1], lidar2cam=lidar2cam.tolist())
    if paths.image.exists():
        images["CAM2"]["img_path"] = paths.image.name
    rectification = np.eye(4)
    rectification[:3, :3] = calibration.R0_rect
    images["R0_rect"] = rectification.tolist()
    lidar = {
        "lidar_path": paths.points.name,
        "num_pts_feats": 4,
        "Tr_velo_to_cam": np.vstack([calibration.Tr_velo_to_cam, [0, 0, 0, 1]]).tolist(),
    }
    if calibration.Tr_imu_to_velo is not None:
        lidar["Tr_imu_to_velo"] = np.vstack([calibration.Tr_imu_to_velo, [0, 0, 0, 1]]).tolist()
    info: dict[str, Any] = {"sample_idx": frame_number(paths.frame), "images": images, "lidar_points": lidar}
    if labels is not None and counts is not None:
        info["instances"] = _instances(calibration, labels, counts)
    return info


def frame_number(frame: str) -> int | str:
    """The frame's number where its name is one ("000008" → 8), else its name."""
    return int(frame) if frame.isdecimal() else frame


def _instances(calibration: Calibration, labels: Labels, counts: np.ndarray) -> list[dict[str, Any]]:
    middle = labels.location.copy()
    middle[:, 1] -= labels.size[:, 1] / 2  # bottom → geometric centre; y points down
    pixels, depth = calibration.camera_to_image(middle)
    difficulty, boxes = labels.difficulty, labels.boxes
    out, objects = [], 0
    for i, name in enumerate(labels.name.tolist()):
        label = CATEGORIES.index(name) if name in CATEGORIES else -1
        ignored = name == "DontCare"
        out.append(
            {
                "bbox": labels.box2d[i].tolist(),
                "bbox_label": label,
                "bbox_3d": boxes[i].tolist(),
                "bbox_label_3d": label,
                "depth": float(depth[i]),
                "center_2d": pixels[i].tolist(),
                "num_lidar_pts": int(counts[i]),
                "difficulty": int(difficulty[i]),
                "truncated": float(labels.truncated[i]),
                "occluded": int(labels.occluded[i]),
                "alpha": float(labels.alpha[i]),
                "score": 0.0,
                "index": -1 if ignored else objects,
                "group_id": i,
            }
        )
        objects += not ignored
    return out
