"""``visionrnn test --show-dir``: a bird's-eye picture of every frame's detections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class PictureHook(Hook):
    """Writes ``out_dir/NAME.png`` for every tested frame: points, boxes with a score of ``score_thr`` or more, ground truth dashed."""

    priority = "LOWEST"

    def __init__(self, out_dir: str, score_thr: float = 0.3):
        self.out_dir, self.score_thr = Path(out_dir), score_thr
        self._written = 0

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        from visionrnn.visualization.boxes import draw_bev
        from visionrnn.visualization.figure import save_png

        classes = (runner.test_dataloader.dataset.metainfo or {}).get("classes", ())
        for points, sample in zip(data_batch["inputs"]["points"], outputs, strict=True):
            found = sample.pred_instances_3d
            kept = found.scores_3d >= self.score_thr
            truth = sample.get("eval_ann_info") or {}
            png = draw_bev(
                points.cpu(),
                _geometric(found.bboxes_3d[kept]),
                found.labels_3d[kept].cpu(),
                found.scores_3d[kept].cpu(),
                classes=classes,
                ground_truth=_geometric(truth["gt_bboxes_3d"]) if "gt_bboxes_3d" in truth else None,
            )
            name = Path(sample.metainfo.get("lidar_path") or f"{sample.metainfo.get('sample_idx', self._written)}").stem
            save_png(self.out_dir / f"{name}.png", png)
            self._written += 1

    def after_test_epoch(self, runner: Any, metrics: Any = None) -> None:
        runner.logger.info(f"{self._written} pictures in {self.out_dir}")


def _geometric(boxes: Any) -> Any:
    """mmdet3d's LiDAR boxes (bottom centre) as an array [N, 7] with geometric centre."""
    return torch.cat([boxes.gravity_center, boxes.tensor[:, 3:7]], dim=1).cpu()
