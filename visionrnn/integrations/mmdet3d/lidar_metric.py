"""Average precision in the LiDAR's frame as an mmengine metric, for data sets whose own metric is not here.

In a config: ``val_evaluator = dict(type="LidarAP", min_overlap=dict(Car=0.7, Pedestrian=0.5))``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmdet3d.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.registry import METRICS as ROOT_METRICS

from visionrnn.errors import DataError
from visionrnn.evaluation.kitti import band_name
from visionrnn.evaluation.lidar import DISTANCE_BANDS, Boxes, average_precision
from visionrnn.integrations.mmdet3d.metrics import lidar_detections


@ROOT_METRICS.register_module()  # found in a process whose scope is another package's, too
@METRICS.register_module()
class LidarAP(BaseMetric):
    """Average precision by 3D overlap (``visionrnn.evaluation.lidar``), over all objects and by distance. Not a benchmark's metric.

    It shows whether a training works, without a development kit; its numbers compare with nothing published. Truth is what the data set
    gives in testing (``eval_ann_info``), so no annotation file is named.

    Returns, with the prefix "lidar", in percent: ``mAP`` over the classes with objects, ``{Class}_AP`` and ``{Class}_AP_0-30m`` ….

    Args:
        min_overlap: the overlap a detection needs, one number or {class: number} with every class of the data set.
        point_cloud_range: x, y, z minima, then maxima; objects whose centre is outside need not be found.
        collect_device, prefix, collect_dir: as mmengine's BaseMetric.
    """

    default_prefix = "lidar"

    def __init__(
        self,
        min_overlap: float | Mapping[str, float],
        point_cloud_range: Sequence[float] | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ):
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        if point_cloud_range is not None and len(point_cloud_range) != 6:
            raise ValueError(f"point_cloud_range={point_cloud_range}; expected x, y, z minima, then maxima, in metres")
        self.min_overlap, self.point_cloud_range = min_overlap, point_cloud_range

    @property
    def _classes(self) -> tuple[str, ...]:
        return tuple((self.dataset_meta or {}).get("classes", ()))

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keeps each sample's detections and objects. Raises DataError for a sample without annotations."""
        for sample in data_samples:
            truth = sample.get("eval_ann_info")
            if not truth or "gt_bboxes_3d" not in truth:
                raise DataError(f"sample {sample.get('sample_idx')}: no annotations (a test split?); LidarAP needs those of the data set")
            found = lidar_detections(sample["pred_instances_3d"], self._classes)
            boxes = truth["gt_bboxes_3d"]
            whole = torch.cat((boxes.gravity_center, boxes.tensor[:, 3:7]), 1).double().numpy()
            self.results.append(
                (Boxes(whole, np.asarray(truth["gt_labels_3d"])), Boxes(found.boxes.astype(np.float64), found.labels, found.scores))
            )

    def compute_metrics(self, results: list[tuple[Boxes, Boxes]]) -> dict[str, float]:
        """Scores the detections of all processes. Raises DataError when a class has no ``min_overlap``."""
        classes = self._classes
        overlaps = self.min_overlap if isinstance(self.min_overlap, Mapping) else dict.fromkeys(classes, self.min_overlap)
        missing = [name for name in classes if name not in overlaps]
        if missing:
            raise DataError(f"LidarAP.min_overlap: nothing for {', '.join(missing)}; expected a number for every class")
        truth, found = ([frame[i] for frame in results] for i in range(2))
        scores = average_precision(truth, found, [overlaps[name] for name in classes], self.point_cloud_range)
        present = [score["AP"] for score in scores if score["objects"]]
        flat = {"mAP": sum(present) / len(present) if present else float("nan")}
        flat.update({f"{name}_AP": score["AP"] for name, score in zip(classes, scores, strict=True) if score["objects"]})
        lines = []
        for name, score in zip(classes, scores, strict=True):
            lines.append(f"{name:34}{overlaps[name]:5.2f}{score['AP']:8.2f}{score['objects']:9d}")
            for band, inside in zip(DISTANCE_BANDS, score["bands"], strict=True):
                if inside["objects"]:
                    flat[f"{name}_AP_{band_name(band)}m"] = inside["AP"]
        table = "\n".join([f"{'class':34}{'IoU':>5}{'AP':>8}{'objects':>9}", *lines])
        print_log(f"{len(results)} frames, 3D average precision in percent (no benchmark's metric)\n{table}", logger="current")
        return flat
