"""Puts the training data's statistics into every checkpoint, so that detection can warn of clouds that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from visionrnn.datasets.statistics import measure


@HOOKS.register_module()
class StatisticsHook(Hook):
    """Measures the point files of up to ``frames`` frames of the train set, without augmentation, and adds ``meta.data_statistics``.

    Frames are spread evenly over the set. A dataset without point files (``lidar_points.lidar_path``) gets no statistics.
    """

    def __init__(self, frames: int = 64):
        self.frames = frames
        self._statistics: dict[str, Any] = {}

    def before_train(self, runner: Any) -> None:
        if runner.rank == 0:
            self._statistics = measure(raw_clouds(runner.train_dataloader.dataset, self.frames))
            if self._statistics:
                values = ", ".join(f"{name} {value:.4g}" for name, value in self._statistics.items())
                runner.logger.info(f"train set: {values}")

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        if self._statistics:
            checkpoint["meta"]["data_statistics"] = dict(self._statistics)


def raw_clouds(dataset: Any, frames: int) -> Iterator[np.ndarray]:
    """Point arrays [N, F] as stored in the files of ``frames`` evenly spread samples; wrappers such as RepeatDataset are looked through."""
    from visionrnn.datasets.points import load_points

    while not hasattr(dataset, "get_data_info") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    if not hasattr(dataset, "get_data_info") or len(dataset) == 0:
        return
    distinct = max(len(dataset) // getattr(dataset, "times", 1), 1)  # ``times`` repeats the frames in an epoch
    chosen = sorted({int(index) for index in np.linspace(0, distinct - 1, min(frames, distinct))})
    for index in chosen:
        points = dataset.get_data_info(index).get("lidar_points") or {}
        path = points.get("lidar_path")
        if path and Path(path).is_file():
            yield load_points(path, points.get("num_pts_feats"))
