"""The KITTI object detection layout: calibrations, label files, splits, frame paths.

Formats: the object development kit's readme (A. Geiger et al., "Are we ready for autonomous driving?", CVPR 2012).

- ``training/calib/NNNNNN.txt``: lines ``KEY: numbers``; P0–P3 [3, 4] project the rectified camera frame to pixels, R0_rect [3, 3]
  rectifies, Tr_velo_to_cam [3, 4] maps LiDAR points to camera 0.
- ``training/label_2/NNNNNN.txt``: one object a line, 15 columns (type, truncated, occluded, alpha, x1 y1 x2 y2, h w l, x y z, ry),
  detections have a score as the 16th.

Camera frame: x right, y down, z front; a camera box is x, y, z of its BOTTOM centre, l, h, w, rotation_y.
LiDAR frame: x front, y left, z up; a LiDAR box is x, y, z of its GEOMETRIC centre, l, w, h, yaw (counter-clockwise from +x).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from visionrnn.datasets.files import atomic_write
from visionrnn.datasets.image_size import read_image_size
from visionrnn.errors import DataError

__all__ = [
    "Calibration",
    "FramePaths",
    "Labels",
    "count_points_in_boxes",
    "frame_paths",
    "inside_boxes",
    "points_in_image",
    "read_calibration",
    "read_image_size",
    "read_labels",
    "read_split",
    "wrap_angle",
    "write_labels",
]

_CALIBRATION_SHAPES = {
    "P0": (3, 4),
    "P1": (3, 4),
    "P2": (3, 4),
    "P3": (3, 4),
    "R0_rect": (3, 3),
    "Tr_velo_to_cam": (3, 4),
    "Tr_imu_to_velo": (3, 4),
}
_REQUIRED = ("P2", "R0_rect", "Tr_velo_to_cam")
_ALIASES = {"R_rect": "R0_rect", "Tr_velo_cam": "Tr_velo_to_cam", "Tr_imu_velo": "Tr_imu_to_velo"}  # as the tracking benchmark writes them


def wrap_angle(angle: np.ndarray) -> np.ndarray:
    """Angles in radians brought into [-pi, pi)."""
    return (np.asarray(angle) + math.pi) % (2 * math.pi) - math.pi


def _square(matrix: np.ndarray) -> np.ndarray:
    """[3, 3] or [3, 4] → homogeneous [4, 4]."""
    out = np.eye(4)
    out[: matrix.shape[0], : matrix.shape[1]] = matrix
    return out


@dataclass(frozen=True)
class Calibration:
    """Matrices of one frame, float64. ``P2`` is the left colour camera, the one labels refer to; the others are optional."""

    P2: np.ndarray
    R0_rect: np.ndarray
    Tr_velo_to_cam: np.ndarray
    P0: np.ndarray | None = None
    P1: np.ndarray | None = None
    P3: np.ndarray | None = None
    Tr_imu_to_velo: np.ndarray | None = None

    @property
    def lidar2cam(self) -> np.ndarray:
        """[4, 4]: LiDAR → rectified camera frame, R0_rect · Tr_velo_to_cam."""
        return _square(self.R0_rect) @ _square(self.Tr_velo_to_cam)

    @property
    def cam2img(self) -> np.ndarray:
        """[4, 4]: rectified camera frame → homogeneous pixels of the left colour camera."""
        return _square(self.P2)

    @property
    def lidar2img(self) -> np.ndarray:
        """[4, 4]: LiDAR → homogeneous pixels of the left colour camera."""
        return self.cam2img @ self.lidar2cam

    def lidar_to_camera(self, points: np.ndarray) -> np.ndarray:
        """[N, 3] LiDAR points in metres → [N, 3] in the rectified camera frame."""
        matrix = self.lidar2cam
        return np.asarray(points, dtype=np.float64)[:, :3] @ matrix[:3, :3].T + matrix[:3, 3]

    def camera_to_lidar(self, points: np.ndarray) -> np.ndarray:
        """[N, 3] points of the rectified camera frame → [N, 3] in the LiDAR frame."""
        matrix = np.linalg.inv(self.lidar2cam)
        return np.asarray(points, dtype=np.float64)[:, :3] @ matrix[:3, :3].T + matrix[:3, 3]

    def camera_to_image(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[N, 3] camera points → pixels [N, 2] (column, row) and depth [N] in metres; pixels mean nothing where depth ≤ 0."""
        projected = np.asarray(points, dtype=np.float64)[:, :3] @ self.P2[:, :3].T + self.P2[:, 3]
        depth = projected[:, 2]
        safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
        return projected[:, :2] / safe[:, None], depth

    def lidar_to_image(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[N, 3] LiDAR points → pixels [N, 2] (column, row) and depth [N] in metres; pixels mean nothing where depth ≤ 0."""
        return self.camera_to_image(self.lidar_to_camera(points))

    def boxes_camera_to_lidar(self, boxes: np.ndarray) -> np.ndarray:
        """Camera boxes [N, 7] (bottom x, y, z, l, h, w, ry) → LiDAR boxes [N, 7] (centre x, y, z, l, w, h, yaw).

        The bottom centre is moved and half the height added along the LiDAR's z; yaw = -ry - pi/2, as OpenPCDet and mmdet3d do.
        """
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 7)
        center = self.camera_to_lidar(boxes[:, :3])
        length, height, width = boxes[:, 3], boxes[:, 4], boxes[:, 5]
        center[:, 2] += height / 2
        yaw = wrap_angle(-boxes[:, 6] - math.pi / 2)
        return np.column_stack([center, length, width, height, yaw])

    def boxes_lidar_to_camera(self, boxes: np.ndarray) -> np.ndarray:
        """LiDAR boxes [N, 7] (centre x, y, z, l, w, h, yaw) → camera boxes [N, 7] (bottom x, y, z, l, h, w, ry)."""
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 7)
        bottom = boxes[:, :3].copy()
        bottom[:, 2] -= boxes[:, 5] / 2
        rotation = wrap_angle(-boxes[:, 6] - math.pi / 2)
        return np.column_stack([self.lidar_to_camera(bottom), boxes[:, 3], boxes[:, 5], boxes[:, 4], rotation])


@dataclass(frozen=True)
class Labels:
    """Objects of one frame, one row each, in the camera frame. ``score`` is None for ground truth. Arrays are float64 but for ``name``.

    name [N] str; truncated [N] in 0–1; occluded [N] 0–3; alpha [N] radians; box2d [N, 4] x1, y1, x2, y2 pixels; size [N, 3] l, h, w
    metres (the file has h, w, l); location [N, 3] bottom centre, camera frame; rotation_y [N] radians. DontCare rows hold -1 sizes.
    """

    name: np.ndarray
    truncated: np.ndarray
    occluded: np.ndarray
    alpha: np.ndarray
    box2d: np.ndarray
    size: np.ndarray
    location: np.ndarray
    rotation_y: np.ndarray
    score: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.name)

    def __getitem__(self, index: np.ndarray | slice) -> Labels:
        """The rows of a mask, an index array or a slice."""
        return replace(self, **{f.name: v[index] for f in fields(self) if (v := getattr(self, f.name)) is not None})

    @property
    def boxes(self) -> np.ndarray:
        """Camera boxes [N, 7]: bottom x, y, z, l, h, w, rotation_y."""
        return np.column_stack([self.location, self.size, self.rotation_y])

    @property
    def difficulty(self) -> np.ndarray:
        """[N] int: 0 easy, 1 moderate, 2 hard, -1 beyond (2D box height, occlusion and truncation limits of the benchmark)."""
        height = self.box2d[:, 3] - self.box2d[:, 1]
        out = np.full(len(self), -1, dtype=np.int64)
        for level, min_height, max_occlusion, max_truncation in ((2, 25, 2, 0.5), (1, 25, 1, 0.3), (0, 40, 0, 0.15)):
            out[(height > min_height) & (self.occluded <= max_occlusion) & (self.truncated <= max_truncation)] = level
        return out


def _lines(path: Path, what: str, remedy: str) -> list[tuple[int, str]]:
    """Non-empty lines with their numbers, from 1."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: {what} file not found; {remedy}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file; expected a KITTI {what} file") from None
    return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _numbers(path: Path, line: int, words: list[str]) -> list[float]:
    try:
        values = [float(word) for word in words]
    except ValueError:
        wrong = next(word for word in words if not _is_number(word))
        raise DataError(f"{path}, line {line}: {wrong!r} is not a number") from None
    if not all(math.isfinite(value) for value in values):
        raise DataError(f"{path}, line {line}: NaN or infinite value; every number must be finite")
    return values


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def read_calibration(path: str | Path) -> Calibration:
    """Reads a KITTI calibration file. Raises DataError naming the file and line (missing file, missing key, count or kind of numbers)."""
    path = Path(path)
    found: dict[str, np.ndarray] = {}
    for line, text in _lines(path, "calibration", f"expected the lines {', '.join(_REQUIRED)} of the frame"):
        key, *words = text.replace(":", " ", 1).split()
        key = _ALIASES.get(key, key)
        shape = _CALIBRATION_SHAPES.get(key)
        if shape is None:
            continue
        if len(words) != math.prod(shape):
            raise DataError(f"{path}, line {line}: {key} has {len(words)} numbers, expected {math.prod(shape)} ({shape[0]} × {shape[1]})")
        found[key] = np.array(_numbers(path, line, words)).reshape(shape)
    missing = [key for key in _REQUIRED if key not in found]
    if missing:
        raise DataError(f"{path}: no line for {', '.join(missing)}; a KITTI calibration needs {', '.join(_REQUIRED)}")
    if abs(np.linalg.det(found["R0_rect"] @ found["Tr_velo_to_cam"][:, :3])) < 1e-6:
        raise DataError(f"{path}: R0_rect · Tr_velo_to_cam cannot be inverted; expected a rotation")
    return Calibration(**found)


def read_labels(path: str | Path) -> Labels:
    """Reads a KITTI label (15 columns) or detection (16, with score) file; an empty file is a frame without objects.

    A detection without a 3D box has the sizes -1 -1 -1, as DontCare regions do.
    Raises DataError naming the file and line: missing file, wrong number of columns, text where a number belongs, NaN, a negative size.
    """
    path = Path(path)
    names, rows, columns = [], [], 0
    for line, text in _lines(path, "label", "a frame without objects has an empty file"):
        words = text.split()
        if len(words) not in (15, 16):
            raise DataError(
                f"{path}, line {line}: {len(words)} columns, expected 15 (type truncated occluded alpha x1 y1 x2 y2 h w l x y z ry) "
                "or 16 (the same and a score)"
            )
        if columns and len(words) != columns:
            raise DataError(f"{path}, line {line}: {len(words)} columns, but the lines above have {columns}; expected one kind in a file")
        columns = len(words)
        values = _numbers(path, line, words[1:])
        image_only = columns == 16 and values[7:10] == [-1, -1, -1]  # a detection without a 3D box
        if words[0] != "DontCare" and min(values[7:10]) < 0 and not image_only:
            raise DataError(f"{path}, line {line}: size h w l {' '.join(words[8:11])} is negative; expected metres")
        names.append(words[0])
        rows.append(values)
    table = np.array(rows, dtype=np.float64).reshape(len(rows), max(columns - 1, 14))
    return Labels(
        name=np.array(names, dtype=np.str_),
        truncated=table[:, 0],
        occluded=table[:, 1],
        alpha=table[:, 2],
        box2d=table[:, 3:7],
        size=table[:, [9, 7, 8]],  # h, w, l → l, h, w
        location=table[:, 10:13],
        rotation_y=table[:, 13],
        score=table[:, 14] if columns == 16 else None,
    )


def write_labels(path: str | Path, labels: Labels) -> None:
    """Writes ``labels`` as KITTI text with two decimals, and a score column (four decimals) when there are scores; atomic."""
    with atomic_write(path, "w") as file:
        for i in range(len(labels)):
            length, height, width = labels.size[i]
            numbers = [labels.alpha[i], *labels.box2d[i], height, width, length, *labels.location[i], labels.rotation_y[i]]
            words = [str(labels.name[i]), f"{labels.truncated[i]:.2f}", str(int(labels.occluded[i])), *(f"{v:.2f}" for v in numbers)]
            if labels.score is not None:
                words.append(f"{labels.score[i]:.4f}")
            file.write(" ".join(words) + "\n")


@dataclass(frozen=True)
class FramePaths:
    """Where the files of one frame lie; ``image`` is a .png or a .jpg, whichever exists (.png when neither does)."""

    frame: str
    points: Path
    reduced: Path
    labels: Path
    calibration: Path
    image: Path


def frame_paths(root: str | Path, frame: str, folder: str = "training") -> FramePaths:
    """Paths of ``frame`` (six digits as a rule) under ``root``; ``folder`` is "training" or "testing". Files need not exist."""
    base = Path(root) / folder
    image = base / "image_2" / f"{frame}.png"
    if not image.exists() and image.with_suffix(".jpg").exists():
        image = image.with_suffix(".jpg")
    return FramePaths(
        frame=frame,
        points=base / "velodyne" / f"{frame}.bin",
        reduced=base / "velodyne_reduced" / f"{frame}.bin",
        labels=base / "label_2" / f"{frame}.txt",
        calibration=base / "calib" / f"{frame}.txt",
        image=image,
    )


def read_split(root: str | Path, split: str) -> list[str]:
    """Frame names of ``ImageSets/{split}.txt``, in file order. Raises DataError: missing file, a name twice, spaces in a name."""
    path = Path(root) / "ImageSets" / f"{split}.txt"
    frames: dict[str, int] = {}
    for line, text in _lines(path, "split", f"expected one frame name a line, e.g. 000008, for the split {split!r}"):
        name = text.strip()
        if len(name.split()) != 1 or "/" in name or "\\" in name or name in (".", ".."):
            raise DataError(f"{path}, line {line}: {name!r} is not a frame name; expected one name a line, e.g. 000008")
        if name in frames:
            raise DataError(f"{path}, line {line}: frame {name} is listed already in line {frames[name]}; expected each frame once")
        frames[name] = line
    return list(frames)


def inside_boxes(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """points [P, ≥ 3] and LiDAR boxes [N, 7] (geometric centre) → bool [P, N]: which point lies in which box."""
    import torch

    from visionrnn.geometry import points_in_boxes

    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 7)
    xyz = np.ascontiguousarray(points[:, :3].T)
    out = np.zeros((len(points), len(boxes)), dtype=bool)
    for k, box in enumerate(boxes):
        reach = float(np.hypot(box[3], box[4])) / 2 + 1e-3  # only points this near need the exact test
        near = np.flatnonzero((np.abs(xyz[0] - box[0]) <= reach) & (np.abs(xyz[1] - box[1]) <= reach))
        if len(near):
            close = torch.from_numpy(xyz[:, near].T.astype(np.float64))
            out[near, k] = points_in_boxes(close, torch.from_numpy(box[None]))[:, 0].numpy()
    return out


def count_points_in_boxes(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """points [P, ≥ 3] and LiDAR boxes [N, 7] (geometric centre) → number of points inside each box, int64 [N]."""
    return inside_boxes(points, boxes).sum(axis=0)


def points_in_image(points: np.ndarray, calibration: Calibration, image_size: tuple[int, int]) -> np.ndarray:
    """LiDAR points [P, ≥ 3] → bool [P]: in front of the left colour camera and inside its image of (height, width) pixels."""
    pixels, depth = calibration.lidar_to_image(points)
    height, width = image_size
    return (depth > 0) & (pixels >= 0).all(axis=1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
