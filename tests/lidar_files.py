"""Two frames each of Waymo, nuScenes, ONCE and Argoverse 2, made up, in the layout of mmdet3d's info files, with a database of objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from visionrnn.datasets.kitti import inside_boxes
from visionrnn.datasets.pickles import save_infos

COLUMNS = {"waymo": 6, "nuscenes": 5, "once": 4, "argoverse2": 4}
FOLDER = {"waymo": "training/velodyne", "nuscenes": "samples/LIDAR_TOP", "once": "data", "argoverse2": "sensor"}
CATEGORIES = {  # as the files count, which is not always the order of the configs' classes
    "waymo": ("Car", "Pedestrian", "Cyclist", "Sign"),
    "nuscenes": (
        "car",
        "truck",
        "trailer",
        "bus",
        "construction_vehicle",
        "bicycle",
        "motorcycle",
        "pedestrian",
        "traffic_cone",
        "barrier",
    ),
    "once": ("Car", "Truck", "Bus", "Pedestrian", "Cyclist"),
}
OBJECTS = {  # class, x, y, z of the box's middle, l, w, h, yaw
    "waymo": [("Car", 12, 3, 0.5, 4.5, 2.0, 1.6, 0.4), ("Pedestrian", -9, -6, 0.6, 0.9, 0.8, 1.8, 2.0), ("Sign", 5, -8, 1, 0.2, 1, 1, 0)],
    "nuscenes": [
        ("truck", 15, -4, -0.4, 8, 2.6, 3.0, -0.5),
        ("pedestrian", -7, 5, -0.9, 0.8, 0.7, 1.7, 1.0),
        ("trailer", -20, -12, 0.1, 10, 2.5, 3.2, 3.0),
    ],
    "once": [("Bus", 18, 6, -0.3, 11, 2.8, 3.1, 0.2), ("Cyclist", 6, -7, -0.9, 1.8, 0.7, 1.6, -2.0)],
    "argoverse2": [("Regular_vehicle", 25, 8, 0.4, 4.6, 1.9, 1.7, 0.9), ("Bollard", -60, 30, 0.1, 0.3, 0.3, 1.0, 0.0)],
}
PASTED = {"waymo": "Cyclist", "nuscenes": "bus", "once": "Car", "argoverse2": "Dog"}  # class of the database's object, in no frame
SPEED = 5.0  # m/s, along the heading
KEY_TIME = 100.0  # seconds


def cloud(data: str, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Points [N, columns], boxes [M, 7] of geometric centres, and names: 12 points in each box, ground, and some out of range."""
    rng = np.random.default_rng(seed)
    names = [row[0] for row in OBJECTS[data]]
    boxes = np.array([row[1:] for row in OBJECTS[data]], dtype=np.float64)
    boxes[:, :2] += rng.uniform(-0.5, 0.5, 2)
    ground = np.column_stack([rng.uniform(-70, 70, (400, 2)), np.full(400, -1.9)])
    ground = ground[~inside_boxes(ground, boxes + [0, 0, 0, 1, 1, 1, 0]).any(axis=1)]
    far = np.array([[300.0, 0, 0], [0, 0, 30.0]])
    xyz = np.concatenate([ground, far, *(points_in(box, rng) for box in boxes)])
    rest = rng.uniform(0, 2, (len(xyz), COLUMNS[data] - 3))
    return np.column_stack([xyz, rest]).astype(np.float32), boxes, names


def points_in(box: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """12 places [12, 3] well inside a box."""
    local = rng.uniform(-0.45, 0.45, (12, 3)) * box[3:6]
    cos, sin = np.cos(box[6]), np.sin(box[6])
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    return local @ turn + box[:3]


def write_lidar(root: Path, data: str, classes: list[str]) -> Path:
    """Files of two training and two validation frames below ``root``; ``classes`` are the config's."""
    categories = CATEGORIES.get(data) or tuple(reversed(classes))
    (root / FOLDER[data]).mkdir(parents=True)
    for split, first in (("train", 0), ("val", 10)):
        frames = [_frame(root, data, categories, first + k) for k in range(2)]
        metainfo = {"categories": {name: label for label, name in enumerate(categories)}, "dataset": data, "info_version": "1.1"}
        save_infos(root / f"{data}_infos_{split}.pkl", {"metainfo": metainfo, "data_list": frames})
    _database(root, data)
    return root


def _frame(root: Path, data: str, categories: tuple[str, ...], index: int) -> dict[str, Any]:
    points, boxes, names = cloud(data, index)
    file = f"{index:06d}.bin"
    points.tofile(root / FOLDER[data] / file)
    plain = file if data in ("waymo", "nuscenes") else f"{FOLDER[data]}/{file}"
    instances = []
    for name, box in zip(names, boxes, strict=True):
        stored = box.copy()
        if data == "waymo":
            stored[2] -= stored[5] / 2
        row = {"bbox_3d": stored.tolist(), "bbox_label_3d": categories.index(name), "num_lidar_pts": 12}
        if data == "nuscenes":
            row["velocity"] = [SPEED * np.cos(box[6]), SPEED * np.sin(box[6])]
        instances.append(row)
    if data == "nuscenes":
        instances[-1]["velocity"] = [float("nan")] * 2
    instances.append({**instances[0], "bbox_3d": [40.0, 0, *instances[0]["bbox_3d"][2:]], "num_lidar_pts": 0})  # nobody saw it
    info = {"sample_idx": f"frame {index}", "lidar_points": {"lidar_path": plain, "num_pts_feats": COLUMNS[data]}, "instances": instances}
    if data == "nuscenes":
        info.update(timestamp=KEY_TIME, lidar_sweeps=[_sweep(root, index, k) for k in range(3)] if index % 2 else [])
        info = {key: value for key, value in info.items() if value != []}  # as mmdet3d's converter leaves empty lists out
    return info


def _sweep(root: Path, index: int, k: int) -> dict[str, Any]:
    """A sweep 0.05 · (k + 1) s before, of a sensor 1 m further back each time: one point at x = 10 of the key-frame, one on the roof."""
    folder = root / "sweeps/LIDAR_TOP"
    folder.mkdir(parents=True, exist_ok=True)
    back = k + 1.0
    np.array([[10 + back, 0, -1, 7, 3], [0.2, 0.3, -1, 7, 3]], dtype=np.float32).tofile(folder / f"{index}_{k}.bin")
    pose = np.eye(4)
    pose[0, 3] = back  # from the key-frame's coordinates into the sweep's
    points = {"lidar_path": f"sweeps/LIDAR_TOP/{index}_{k}.bin", "lidar2sensor": pose.tolist()}
    return {"timestamp": KEY_TIME - 0.05 * (k + 1), "lidar_points": points}


def _database(root: Path, data: str) -> None:
    """One object of a class that no frame has, 8 points at 1.5 m above its bottom, and one with too few points."""
    name = PASTED[data]
    folder = root / f"{data}_gt_database"
    folder.mkdir()
    box = np.array([-15, 15, -1.0, 3, 1.5, 2.0, 0.7], dtype=np.float32)
    if data == "nuscenes":
        box = np.append(box, [SPEED * np.cos(0.7), SPEED * np.sin(0.7)]).astype(np.float32)
    rng = np.random.default_rng(1)
    points = np.column_stack([rng.uniform(-0.3, 0.3, (8, 2)), np.full(8, 1.5), np.full((8, COLUMNS[data] - 3), 1.0)]).astype(np.float32)
    entries = []
    for k, count in enumerate((8, 4)):
        # the least that Waymo's recipe takes of this class is 10
        cut = np.concatenate([points, points])[: 2 * count] if data == "waymo" else points[:count]
        path = f"{data}_gt_database/{k}_{name}.bin"
        cut.tofile(root / path)
        entries.append({"name": name, "path": path, "box3d_lidar": box + np.float32(k), "num_points_in_gt": len(cut), "difficulty": 0})
    save_infos(root / f"{data}_dbinfos_train.pkl", {name: entries})
