"""A prediction and a training step of a config on the first frame of a KITTI folder: ``python frame_step.py CONFIG ROOT OUT.json``.

Writes losses, gradients' state, detections, seconds and the peak memory of this process, in MB, after each step.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope

import visionrnn.integrations.mmdet3d  # noqa: F401  (makes mmdet3d importable)

# isort: split
from mmdet3d.registry import DATASETS, MODELS


class Steps:
    """Seconds of wall clock and of all threads, and peak memory so far, under names."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, float]] = {}
        self._begin()

    def _begin(self) -> None:
        self.wall, self.processor = time.perf_counter(), time.process_time()

    def done(self, name: str) -> None:
        seconds = {"seconds": time.perf_counter() - self.wall, "processor_seconds": time.process_time() - self.processor}
        self.rows[name] = {**seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
        self._begin()


def first_frame(dataset: Any, root: str) -> dict[str, Any]:
    """A batch of the dataset's first frame, through its pipeline."""
    dataset.update(data_root=root, ann_file="kitti_infos_train.pkl")
    for step in dataset.pipeline:
        if "data_root" in step:
            step["data_root"] = root
    return pseudo_collate([DATASETS.build(dataset)[0]])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("root")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    cfg = Config.fromfile(args.config)
    cfg.model.middle_encoder.drop_path = 0.0  # else blocks, some of which have one group only, may be left without a gradient
    torch.manual_seed(0)
    steps = Steps()
    with DefaultScope.overwrite_default_scope("mmdet3d"):
        model = MODELS.build(cfg.model)
        model.init_weights()
        steps.done("build")
        bias = model.bbox_head.conv_cls.bias
        with torch.no_grad():
            usual = bias.clone()
            bias.fill_(-1.0)  # scores round 0.27, above the threshold: every anchor is a candidate
            data = model.data_preprocessor(first_frame(cfg.test_dataloader.dataset, args.root), False)
            found = model.eval()(**data, mode="predict")[0].pred_instances_3d
            bias.copy_(usual)
        steps.done("prediction")
        data = model.train().data_preprocessor(first_frame(cfg.train_dataloader.dataset, args.root), True)
        losses = model(**data, mode="loss")
        steps.done("forward and loss")
        total, _ = model.parse_losses(losses)
        total.backward()
        steps.done("backward")
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    report = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "losses": {name: float(sum(value).detach()) for name, value in losses.items()},
        "gradients_broken": [name for name, value in gradients.items() if value is None or not torch.isfinite(value).all()],
        "gradients_zero": [name for name, value in gradients.items() if value is not None and not value.any()],
        "boxes": found.bboxes_3d.tensor.tolist(),
        "scores": found.scores_3d.tolist(),
        "labels": found.labels_3d.tolist(),
        "steps": steps.rows,
    }
    args.out.write_text(json.dumps(report))


if __name__ == "__main__":
    main()
