"""The real KITTI frame 000008, read where it lies beside the project: voxels, and training that finds its cars."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from visionrnn.datasets.kitti import read_calibration, read_labels
from visionrnn.datasets.points import load_points
from visionrnn.datasets.voxelize import DynamicVFE
from visionrnn.geometry import iou3d

CONFIG = "lion-mamba_1xb1_one-frame-3d-car"
KITTI_LAYOUT = (0, -40, -3, 70.4, 40, 1), (0.2, 0.2, 0.125)
NUSCENES_LAYOUT = (-54, -54, -5, 54, 54, 3), (0.3, 0.3, 0.25)


def count_voxels(path: Path, columns: int, layout: tuple) -> int:
    points = torch.from_numpy(load_points(path, columns))
    return DynamicVFE(columns, [8, 8], *layout)(points, torch.zeros(len(points), dtype=torch.long), 1)[2][0]


def test_voxels_on_lions_grids(shared_dir):
    assert count_voxels(shared_dir / "data/kitti_real/training/velodyne/000008.bin", 4, KITTI_LAYOUT) == 6017
    (nuscenes,) = (shared_dir / "data/nuscenes_real").glob("*.pcd.bin")
    points = torch.from_numpy(np.fromfile(nuscenes, dtype=np.float32).reshape(-1, 5))
    assert DynamicVFE(5, [8, 8], *NUSCENES_LAYOUT)(points, torch.zeros(len(points), dtype=torch.long), 1)[2] == (7782,)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_training_finds_all_cars(shared_dir, tmp_path):
    """Prepare, train, detect, with the commands a user types: 6 cars with 3D IoU ≥ 0.5 at score ≥ 0.3, at most 2 false boxes."""
    pytest.importorskip("mmdet3d")
    data = tmp_path / "kitti"
    shutil.copytree(shared_dir / "data/kitti_real", data)
    for folder in [data, *data.rglob("*")]:
        folder.chmod(0o755 if folder.is_dir() else 0o644)

    def run(tool: str, *words: object) -> None:
        script = Path(__file__).parents[1] / "tools" / f"{tool}.py"
        subprocess.run([sys.executable, script, *(str(word) for word in words)], check=True, cwd=tmp_path)

    work, found, cloud = tmp_path / "work", tmp_path / "found", data / "training/velodyne/000008.bin"
    run("create_data", "kitti", "--root", data)
    run("train", CONFIG, "--work-dir", work, "--cfg-options", f"data_root={data}")
    run("detect", CONFIG, work / "epoch_7.pth", cloud, "--out-dir", found, "--score-thr", 0.3)

    labels = read_labels(data / "training/label_2/000008.txt")
    truth = read_calibration(data / "training/calib/000008.txt").boxes_camera_to_lidar(labels.boxes)[np.array(labels.name) == "Car"]
    rows = json.loads((found / "000008.json").read_text(encoding="utf-8"))["boxes"]
    boxes = torch.tensor([[row[key] for key in ("x", "y", "z", "l", "w", "h", "yaw")] for row in rows], dtype=torch.float64)
    overlap = iou3d(torch.from_numpy(truth), boxes)
    assert (overlap.amax(1) >= 0.5).sum() == 6
    assert (overlap.amax(0) < 0.5).sum() <= 2
