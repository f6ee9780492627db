"""The real KITTI frame 000008 through the full KITTI configuration, on the CPU: loss, gradients, prediction, time and memory."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from visionrnn.geometry import bev, rotated_iou

pytest.importorskip("mmdet3d")

ROOT = Path(__file__).resolve().parents[1]
PARAMETERS = {"mamba": 7_226_696, "rwkv": 8_802_248, "retnet": 7_807_688, "xlstm": 7_949_672, "ttt": 7_290_480}  # as the authors' models
PEAK_MB = {"prediction": 4000, "backward": 8000}
"""More than the measured 1.7 to 1.8 GB and 5.3 (TTT) to 7.3 GB (xLSTM): a step keeps maps of 400 × 352 cells, up to 512 channels wide."""


@pytest.fixture(scope="module")
def kitti(shared_dir, tmp_path_factory) -> Path:
    """A folder with the frame, prepared with the command a user types."""
    data = tmp_path_factory.mktemp("real") / "kitti"
    shutil.copytree(shared_dir / "data/kitti_real", data)
    for folder in [data, *data.rglob("*")]:
        folder.chmod(0o755 if folder.is_dir() else 0o644)
    subprocess.run([sys.executable, ROOT / "tools/create_data.py", "kitti", "--root", data], check=True, cwd=data.parent)
    return data


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("operator", sorted(PARAMETERS))
def test_step_and_prediction(kitti, tmp_path, operator):
    """Losses are finite, all gradients too and none is zero; boxes are on the map and apart; memory holds."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment.update(PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES="")
    script, out = Path(__file__).parent / "integrations/frame_step.py", tmp_path / "report.json"
    config = ROOT / f"configs/lion/lion-{operator}_8xb2-80e_kitti-3d-3class.py"
    done = subprocess.run([sys.executable, script, config, kitti, out], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(out.read_text())
    for name, row in report["steps"].items():
        print(f"{operator}, {name}: {row['seconds']:.1f} s ({row['processor_seconds']:.1f} s of processors), {row['peak_mb']:.0f} MB")
    assert report["parameters"] == PARAMETERS[operator]
    assert set(report["losses"]) == {"loss_cls", "loss_bbox", "loss_dir"}
    assert all(math.isfinite(value) and 0 < value < 20 for value in report["losses"].values())
    assert report["gradients_broken"] == [] and report["gradients_zero"] == []
    boxes, scores = report["boxes"], report["scores"]
    assert 20 <= len(boxes) == len(scores) <= 500 and min(scores) > 0.1 and set(report["labels"]) <= {0, 1, 2}
    assert all(-5 < box[0] < 75 and -45 < box[1] < 45 and all(math.isfinite(value) for value in box) for box in boxes)
    seen = bev(torch.tensor(boxes, dtype=torch.float64))
    assert rotated_iou(seen, seen).triu(1).max() <= 0.0101
    assert all(report["steps"][step]["peak_mb"] < limit for step, limit in PEAK_MB.items())
