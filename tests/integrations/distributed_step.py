"""One training step of a small detector by one process or several: ``python distributed_step.py OUT_DIR [--launcher pytorch]``.

Every rank writes its loss; rank 0 writes the gradients, averaged over the ranks (the step is plain SGD with rate 1, so they are the
change of the parameters).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

import visionrnn.integrations.mmdet3d  # noqa: F401  (makes mmdet3d importable)

# isort: split
from mmdet3d.registry import DATASETS, HOOKS
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.structures import InstanceData

from visionrnn.integrations.mmengine import SafeRunner

BASE = Path(__file__).resolve().parents[2] / "configs"
SMALLER = {51.2: 12.8, 25.6: 6.4, -25.6: -6.4, 512: 128, 256: 64}


@DATASETS.register_module()
class RandomScenes(Dataset):
    """Random points round one to three cars; scene k is a function of k."""

    def __init__(self, length: int = 4):
        self.length = length
        self.metainfo = {"classes": ("Car", "Pedestrian", "Cyclist")}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        centres = torch.rand(1 + index % 3, 2, generator=generator) * torch.tensor([10.0, 10.0]) + torch.tensor([1.0, -5.0])
        size = torch.tensor([-1.7, 3.9, 1.6, 1.5])
        boxes = torch.cat([centres, size.expand(len(centres), 4), torch.rand(len(centres), 1, generator=generator)], dim=1)
        points = torch.rand(600, 4, generator=generator) * torch.tensor([12.0, 12.0, 2.0, 1.0]) + torch.tensor([0.0, -6.0, -2.0, 0.0])
        sample = Det3DDataSample(
            gt_instances_3d=InstanceData(bboxes_3d=LiDARInstance3DBoxes(boxes), labels_3d=torch.zeros(len(boxes), dtype=torch.long))
        )
        sample.set_metainfo({"sample_idx": index, "box_type_3d": LiDARInstance3DBoxes, "box_mode_3d": 0})
        return {"inputs": {"points": points}, "data_samples": sample}


@HOOKS.register_module()
class StepLog(Hook):
    """Freezes BatchNorm and writes loss and gradients of the first step."""

    priority = "HIGHEST"

    def __init__(self, out: str):
        self.out = Path(out)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        for module in runner.model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
        self.before = {name: value.detach().clone() for name, value in runner.bare_model.named_parameters()}

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        losses = {name: float(value.detach() if hasattr(value, "detach") else value) for name, value in outputs.items()}
        (self.out / f"loss_{runner.rank}.json").write_text(json.dumps({**losses, "samples": len(data_batch["data_samples"])}))
        if runner.rank == 0:
            gradients = {name: self.before[name] - value.detach() for name, value in runner.bare_model.named_parameters()}
            torch.save(gradients, self.out / "gradients.pth")


def shrink(value: Any) -> Any:
    """The config of the model on a quarter of its range."""
    if isinstance(value, dict):
        return {key: shrink(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(shrink(item) for item in value)
    return SMALLER.get(value, value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def small_lion(pillars: dict[str, Any]) -> dict[str, Any]:
    """LION with 16 channels on a 32 × 32 × 16 grid; PointPillars' BEV net and head. No drop-path: ranks draw differently."""
    stages = [{"window": [7, 7, size], "group_size": group} for size, group in ((16, 64), (8, 32), (4, 32), (2, 16))]
    return {
        **pillars,
        "type": "PointVoxelNet",
        "data_preprocessor": {"type": "Det3DDataPreprocessor"},
        "voxel_encoder": {
            "type": "PointVFE",
            "in_channels": 4,
            "feat_channels": [16, 16],
            "point_cloud_range": [0, -6.4, -3, 12.8, 6.4, 1],
            "voxel_size": [0.4, 0.4, 0.25],
        },
        "middle_encoder": {
            "type": "LIONEncoder",
            "dim": 16,
            "operator": {"type": "mamba", "d_state": 4},
            "stages": stages,
            "out_group_size": 16,
            "drop_path": 0.0,
        },
        "backbone": {**pillars["backbone"], "in_channels": 16},
    }


def centre_head(model: dict[str, Any]) -> dict[str, Any]:
    """The model with a centre head, with overlap and velocities (which the boxes lack), on its map of 16 × 16 cells."""
    encoder = model["voxel_encoder"]
    grid = {"point_cloud_range": encoder["point_cloud_range"], "voxel_size": encoder["voxel_size"], "stride": 2}
    channels = sum(model["neck"]["out_channels"])
    head = {"type": "LIONCenterHead", "num_classes": 3, "in_channels": channels, "grid": grid, "extra": ["iou", "vel"]}
    return {**model, "bbox_head": head, "train_cfg": None, "test_cfg": None}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--launcher", default="none")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--model", choices=("pointpillars", "lion", "lion-centre"), default="pointpillars")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = shrink(Config.fromfile(BASE / "baselines" / "pointpillars_1xb2_synthetic-3d-3class.py").model.to_dict())
    if args.model != "pointpillars":
        model = small_lion(model)
    if args.model == "lion-centre":
        model = centre_head(model)
    runtime = Config.fromfile(BASE / "_base_" / "default_runtime.py")
    loader = {"batch_size": args.batch, "num_workers": 0, "sampler": {"type": "DefaultSampler", "shuffle": False}}
    runtime.merge_from_dict(
        {
            "work_dir": str(args.out / "work"),
            "launcher": args.launcher,
            "model": model,
            "train_dataloader": {**loader, "dataset": {"type": "RandomScenes"}},
            "train_cfg": {"by_epoch": True, "max_epochs": 1},
            "optim_wrapper": {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 1.0}},
            "custom_hooks": [{"type": "StepLog", "out": str(args.out)}],
            "default_hooks.param_scheduler": None,
        }
    )
    SafeRunner.from_cfg(runtime).train()


if __name__ == "__main__":
    main()
