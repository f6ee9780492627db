"""A tiny data set in the raw KITTI layout, made anew by the tests that need one."""

import struct
import zlib
from pathlib import Path

import numpy as np

from visionrnn.datasets.kitti import Calibration, Labels, write_labels

IMAGE_SIZE = (120, 400)  # height, width
CALIBRATION = Calibration(
    P2=np.array([[200.0, 0, 200, 9], [0, 200, 60, 0.1], [0, 0, 1, 0.003]]),
    R0_rect=np.array([[0.9999, 0.0098, -0.0074], [-0.0099, 0.9999, -0.0043], [0.0074, 0.0044, 1.0]]),
    Tr_velo_to_cam=np.array([[0.0, -1, 0, 0], [0, 0, -1, -0.08], [1, 0, 0, -0.27]]),
)
BOXES = np.array(  # LiDAR frame: geometric centre, l, w, h, yaw
    [[12.0, 2.0, -0.9, 3.9, 1.6, 1.5, 0.3], [20.0, -4.0, -0.8, 0.8, 0.6, 1.8, -1.0], [16.0, 0.0, -0.8, 1.8, 0.6, 1.7, 2.0]]
)
NAMES = ("Car", "Pedestrian", "Cyclist")


def png(height: int, width: int) -> bytes:
    """A black grey-scale PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes(width)) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def calibration_text(calibration: Calibration = CALIBRATION) -> str:
    rows = {"P0": calibration.P2, "P1": calibration.P2, "P2": calibration.P2, "P3": calibration.P2}
    rows.update(R0_rect=calibration.R0_rect, Tr_velo_to_cam=calibration.Tr_velo_to_cam, Tr_imu_to_velo=np.eye(4)[:3])
    return "".join(f"{key}: {' '.join(f'{v:.12e}' for v in matrix.ravel())}\n" for key, matrix in rows.items())


def labels_of(boxes: np.ndarray, names: tuple[str, ...]) -> Labels:
    """LiDAR boxes → label rows with a 2D box 50 pixels high, and a DontCare region at the end."""
    camera = CALIBRATION.boxes_lidar_to_camera(boxes)
    count = len(boxes) + 1
    size = np.vstack([camera[:, 3:6], [[-1, -1, -1]]])
    return Labels(
        name=np.array([*names, "DontCare"]),
        truncated=np.zeros(count),
        occluded=np.array([0.0] * len(boxes) + [-1]),
        alpha=np.zeros(count),
        box2d=np.tile([10.0, 20, 60, 70], (count, 1)),
        size=size,
        location=np.vstack([camera[:, :3], [[-1000, -1000, -1000]]]),
        rotation_y=np.append(camera[:, 6], -10),
    )


def points_of(boxes: np.ndarray, rng: np.random.Generator, inside: int = 40, ground: int = 300) -> np.ndarray:
    """``inside`` points in each box and ``ground`` points on the road, ahead and behind."""
    clouds = [np.column_stack([rng.uniform(-30, 40, ground), rng.uniform(-10, 10, ground), np.full(ground, -1.73)])]
    for x, y, z, length, width, height, yaw in boxes:
        local = rng.uniform(-0.45, 0.45, (inside, 3)) * [length, width, height]
        cos, sin = np.cos(yaw), np.sin(yaw)
        clouds.append(local @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) + [x, y, z])
    xyz = np.vstack(clouds)
    return np.column_stack([xyz, rng.uniform(0, 1, len(xyz))]).astype(np.float32)


def write_frame(root: Path, frame: str, seed: int, boxes: np.ndarray = BOXES, names: tuple[str, ...] = NAMES) -> None:
    base = root / "training"
    for folder in ("velodyne", "calib", "label_2", "image_2"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    moved = boxes + np.array([1.0, 0.5, 0, 0, 0, 0, 0]) * rng.uniform(-1, 1)
    points_of(moved, rng).tofile(base / "velodyne" / f"{frame}.bin")
    (base / "calib" / f"{frame}.txt").write_text(calibration_text())
    (base / "image_2" / f"{frame}.png").write_bytes(png(*IMAGE_SIZE))
    write_labels(base / "label_2" / f"{frame}.txt", labels_of(moved, names))


def write_kitti(root: Path, train: int = 4, val: int = 2, empty: tuple[int, ...] = ()) -> Path:
    """``train`` + ``val`` frames 000000 …; the frames of ``empty`` have no objects. Returns ``root``."""
    frames = [f"{i:06d}" for i in range(train + val)]
    for i, frame in enumerate(frames):
        none = i in empty
        write_frame(root, frame, i, BOXES[:0] if none else BOXES, () if none else NAMES)
    (root / "ImageSets").mkdir(exist_ok=True)
    (root / "ImageSets" / "train.txt").write_text("".join(f"{frame}\n" for frame in frames[:train]))
    (root / "ImageSets" / "val.txt").write_text("".join(f"{frame}\n" for frame in frames[train:]))
    return root
