"""The ground-truth database: the points of every object of the training split, for pasting objects into other scenes.

``kitti_gt_database/{frame}_{class}_{k}.bin`` holds float32 rows x, y, z, intensity: the points inside the k-th object's box, less the box's
BOTTOM centre, not rotated, as mmdet3d's ObjectSample expects (OpenPCDet's database is relative to the geometric centre: not
interchangeable). ``kitti_dbinfos_train.pkl`` is {class: [entry]}; an entry's ``box3d_lidar`` [7] has the bottom centre too.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from visionrnn.datasets.files import atomic_write
from visionrnn.datasets.kitti import Labels
from visionrnn.datasets.kitti_infos import CATEGORIES, frame_number

DATABASE_FOLDER = "kitti_gt_database"


def write_objects(
    root: Path, frame: str, points: np.ndarray, boxes: np.ndarray, inside: np.ndarray, labels: Labels
) -> list[dict[str, Any]]:
    """Writes one file for each object with points and gives their entries, in label order.

    ``points`` [P, 4] float32, ``boxes`` [N, 7] (LiDAR frame, geometric centre), ``inside`` [P, N] bool. Beside what mmdet3d reads, an entry
    has ``crc``: the file's check sum.
    """
    entries = []
    for k, name in enumerate(labels.name.tolist()):
        if name not in CATEGORIES or not inside[:, k].any():
            continue
        bottom = boxes[k].copy()
        bottom[2] -= bottom[5] / 2
        cut = points[inside[:, k]].astype(np.float64)
        cut[:, :3] -= bottom[:3]
        data = cut.astype("<f4").tobytes()
        path = f"{DATABASE_FOLDER}/{frame}_{name}_{k}.bin"
        with atomic_write(root / path, sync=False) as file:
            file.write(data)
        entries.append(
            {
                "name": name,
                "path": path,
                "image_idx": frame_number(frame),
                "gt_idx": k,
                "box3d_lidar": bottom.astype(np.float32),
                "num_points_in_gt": len(cut),
                "difficulty": int(labels.difficulty[k]),
                "crc": zlib.crc32(data),
            }
        )
    return entries


def database_infos(entries: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Entries of all frames, in order → {class: entries}, with running ``group_id``; classes in the order of CATEGORIES."""
    infos: dict[str, list[dict[str, Any]]] = {name: [] for name in CATEGORIES}
    for group, entry in enumerate(entries):
        infos[entry["name"]].append({**{key: value for key, value in entry.items() if key != "crc"}, "group_id": group})
    return {name: found for name, found in infos.items() if found}
