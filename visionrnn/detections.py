"""What a detector found in one cloud, and the two forms in which it is written: JSON and KITTI text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from visionrnn.datasets.kitti import Calibration, Labels, wrap_angle
from visionrnn.errors import DataError

CONVENTIONS = (
    "LiDAR frame: x forward, y left, z up, in metres; x, y, z is the geometric centre of the box; l along the heading, w across, h up; "
    "yaw in radians, counter-clockwise from +x"
)
KEYS = ("x", "y", "z", "l", "w", "h", "yaw")


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes of one cloud in the caller's LiDAR frame (x front, y left, z up), best first.

    boxes [M, 7] float32: x, y, z of the geometric centre, l, w, h in metres, yaw in radians; scores [M] float32 in 0–1; labels [M]
    int64, indices into ``classes``; ``latency``: seconds from points to boxes, without reading a file; ``source``: the file's path.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    latency: float = 0.0
    source: str = ""

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def names(self) -> list[str]:
        """Class name of each box [M]; "class_3" where the model has no names."""
        return [self.classes[label] if label < len(self.classes) else f"class_{label}" for label in self.labels]

    def above(self, threshold: float) -> Detections:
        """Only the boxes with at least this score."""
        keep = self.scores >= threshold
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep], self.classes, self.latency, self.source)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: file name, latency, conventions, classes, and a list of boxes with class, score and the seven numbers."""
        found = []
        for name, score, box in zip(self.names, self.scores, self.boxes, strict=True):
            numbers = {key: round(float(value), 4) for key, value in zip(KEYS, box, strict=True)}
            found.append({"class": name, "score": round(float(score), 6), **numbers})
        return {
            "file": self.source,
            "latency_seconds": round(self.latency, 6),
            "conventions": CONVENTIONS,
            "classes": list(self.classes),
            "boxes": found,
        }

    def to_json(self) -> str:
        """``to_dict`` as JSON text, one box a line."""
        content = self.to_dict()
        boxes = content.pop("boxes")
        head = json.dumps(content, indent=2, ensure_ascii=False)
        lines = ",\n".join("    " + json.dumps(box, ensure_ascii=False) for box in boxes)
        return head[:-2] + ',\n  "boxes": [' + (f"\n{lines}\n  " if boxes else "") + "]\n}\n"

    def to_kitti(self, calibration: Calibration, image_shape: tuple[int, int]) -> Labels:
        """The boxes as KITTI labels with scores: in the camera frame, with 2D boxes, for the evaluator (``kitti.write_labels``).

        ``image_shape``: (height, width) in pixels. Boxes that are nowhere in the image are left out, since KITTI labels nothing there. The
        2D box is the smallest round the visible part of the 3D box. truncated and occluded are unknown, -1.
        """
        box2d, visible = image_boxes(self.boxes, calibration, image_shape)
        camera = calibration.boxes_lidar_to_camera(self.boxes[visible])
        unknown = np.full(len(camera), -1.0)
        return Labels(
            name=np.array(self.names, dtype=np.str_)[visible],
            truncated=unknown,
            occluded=unknown,
            alpha=wrap_angle(camera[:, 6] - np.arctan2(camera[:, 0], camera[:, 2])),
            box2d=box2d[visible],
            size=camera[:, 3:6],
            location=camera[:, :3],
            rotation_y=camera[:, 6],
            score=self.scores[visible].astype(np.float64),
        )


def image_boxes(boxes: np.ndarray, calibration: Calibration, image_shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """LiDAR boxes [M, 7] → (2D boxes [M, 4] x1, y1, x2, y2 in pixels round what is in the image, visible [M] bool)."""
    from visionrnn.geometry import box_corners
    from visionrnn.visualization.camera import EDGES, project_segments

    height, width = image_shape
    corners = box_corners(torch.from_numpy(np.asarray(boxes, dtype=np.float64).reshape(-1, 7))).numpy()  # [M, 8, 3]
    start, end = (corners[:, EDGES[:, side]].reshape(-1, 3) for side in (0, 1))
    seen, pixels = project_segments(start, end, calibration.lidar2img[:3], (width, height))
    seen, pixels = seen.reshape(-1, len(EDGES)), pixels.reshape(-1, len(EDGES), 2, 2)
    low = np.where(seen[..., None, None], pixels, np.inf).min(axis=(1, 2))
    high = np.where(seen[..., None, None], pixels, -np.inf).max(axis=(1, 2))
    visible = seen.any(axis=1)
    return np.where(visible[:, None], np.concatenate([low, high], axis=1), 0.0), visible


def read_detections(path: str | Path) -> Detections:
    """Reads what ``Detections.to_json`` wrote. Raises DataError naming the file and the entry that is missing or wrong."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: detections file not found; expected the JSON written by visionrnn detect") from None
    except ValueError as error:
        raise DataError(f"{path}: not a JSON file ({error}); expected the JSON written by visionrnn detect") from None
    entries = content.get("boxes") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{path}: no list 'boxes'; expected the JSON written by visionrnn detect")
    classes = [str(name) for name in content.get("classes") or []]
    rows, scores, labels = [], [], []
    for i, entry in enumerate(entries):
        try:
            rows.append([float(entry[key]) for key in KEYS])
            scores.append(float(entry.get("score", 1.0)))
            name = str(entry["class"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path}: box {i}: {type(error).__name__} {error}; expected class, score, {', '.join(KEYS)}") from None
        if name not in classes:
            classes.append(name)
        labels.append(classes.index(name))
    boxes = np.array(rows, dtype=np.float32).reshape(-1, 7)
    source, latency = str(content.get("file", path.name)), float(content.get("latency_seconds") or 0.0)
    return Detections(boxes, np.array(scores, np.float32), np.array(labels, np.int64), tuple(classes), latency, source)
