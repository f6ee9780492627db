"""LION's Waymo, nuScenes, ONCE and Argoverse 2 configs train and validate, on made-up frames and a part of their range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmdet3d", reason="mmdet3d is not installed")
from lidar_files import write_lidar
from mmengine.config import Config

from visionrnn.integrations.mmengine import SafeRunner
from visionrnn.integrations.mmengine.data_root import set_data_root

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "lion"
NAMES = {
    "waymo": ("lion-rwkv_8xb2-24e_waymo-3d-3class", 20.48),
    "nuscenes": ("lion-mamba_8xb2-36e_nuscenes-3d-10class", 19.2),
    "once": ("lion-retnet_8xb2-80e_once-3d-5class", 19.2),
    "argoverse2": ("lion-mamba_8xb2-12e_argoverse2-3d-26class", 25.6),
}


def replace(node: Any, old: list, new: list) -> Any:
    """The config's values with every list ``old`` replaced by ``new``."""
    if isinstance(node, Mapping):
        return {key: replace(value, old, new) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return list(new) if list(node) == old else type(node)(replace(value, old, new) for value in node)
    return node


def small(name: str, reach: float, root: Path, work_dir: Path) -> Config:
    config = Config.fromfile(CONFIGS / f"{name}.py")
    old = list(config.point_cloud_range)
    new = [-reach, -reach, old[2], reach, reach, old[5]]
    config = Config(replace(config.to_dict(), old, new))
    set_data_root(config, root)
    loader = {"batch_size": 1, "num_workers": 0, "dataset": {"load_interval": 2}}  # one frame
    config.merge_from_dict(
        {
            "work_dir": str(work_dir),
            "experiment_name": name,
            "custom_imports": None,
            "train_dataloader": loader,
            "val_dataloader": loader,
            "test_dataloader": loader,
            "train_cfg": {"max_epochs": 2, "val_interval": 2},
            "env_cfg.dist_cfg.backend": "gloo",
        }
    )
    for hook in config.custom_hooks:
        hook["last_epochs"] = 1
    return config


@pytest.mark.slow
@pytest.mark.parametrize("data", NAMES)
def test_two_epochs(tmp_path, data):
    name, reach = NAMES[data]
    classes = Config.fromfile(CONFIGS / f"{name}.py").class_names
    root = write_lidar(tmp_path / "data", data, classes)
    runner = SafeRunner.from_cfg(small(name, reach, root, tmp_path / "work"))
    runner.train()
    losses = {key: value.data for key, value in runner.message_hub.log_scalars.items() if key.startswith("train/") and "loss" in key}
    assert "train/loss" in losses
    for key, (values, _) in losses.items():
        assert len(values) == 2 and all(math.isfinite(value) for value in values), key
    scores = [key for key in runner.message_hub.log_scalars if key.startswith("val/lidar/")]
    assert "val/lidar/mAP" in scores
    assert (tmp_path / "work" / "epoch_2.pth").is_file()
