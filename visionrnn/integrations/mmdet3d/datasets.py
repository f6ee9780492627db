"""KITTI-format LiDAR frames for mmdet3d, in its own KittiDataset, made safe and repeatable.

The annotation file is read without executing anything in it, classes are Car, Pedestrian, Cyclist in this order, and every sample's
augmentation is a function of (seed, epoch, sample): it depends neither on the number of workers nor on what was loaded before.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmdet3d.datasets import KittiDataset
from mmdet3d.registry import DATASETS

from visionrnn.datasets.pickles import load_infos
from visionrnn.errors import DataError

CLASSES = ("Car", "Pedestrian", "Cyclist")


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Inside the block Python's, NumPy's and torch's CPU generators start from a seed mixed from ``numbers`` (≥ 0); afterwards they go on
    from where they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.random.default_generator.manual_seed(seed)  # the CPU's alone: workers must not touch a GPU
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@DATASETS.register_module()
class KittiLidarDataset(KittiDataset):
    """mmdet3d's KittiDataset on files of ``visionrnn create-data``.

    ``times``: how often a frame comes in an epoch, each time with its own augmentation (wrapping in RepeatDataset would repeat the same).
    ``seed``: of the augmentation; training sets the run's. Other options are KittiDataset's; ``metainfo``
    names the classes in the order of the labels, by default Car, Pedestrian, Cyclist. Raises DataError: annotation file missing, damaged
    or without frames, unknown class, point file missing or truncated, no frame with an object in training.
    """

    def __init__(
        self,
        data_root: str,
        ann_file: str,
        metainfo: dict[str, Any] | None = None,
        modality: dict[str, bool] | None = None,
        times: int = 1,
        seed: int = 0,
        **options: Any,
    ):
        classes: Sequence[str] = (metainfo or {}).get("classes", CLASSES)
        unknown = [name for name in classes if name not in self.METAINFO["classes"]]
        if unknown:
            raise DataError(f"metainfo.classes: {', '.join(unknown)} unknown; expected of {', '.join(self.METAINFO['classes'])}")
        if times < 1:
            raise ValueError(f"times={times}; expected at least 1")
        self.times = times
        self._moment = torch.tensor([seed, 0]).share_memory_()  # seed and epoch; workers that live on see them change
        super().__init__(
            data_root=data_root,
            ann_file=ann_file,
            metainfo={**(metainfo or {}), "classes": tuple(classes)},
            modality=dict(modality or {"use_lidar": True}),
            **options,
        )

    def set_epoch(self, epoch: int) -> None:
        """Chooses the augmentation of the coming epoch, before its data loader is started."""
        self._moment[1] = epoch

    def set_seed(self, seed: int) -> None:
        """Changes the seed of the augmentation, e.g. to the one of a resumed run."""
        self._moment[0] = seed

    def load_data_list(self) -> list[dict[str, Any]]:
        """Frames of the annotation file, as mmdet3d parses them."""
        content = load_infos(self.ann_file)
        if not isinstance(content, dict) or not {"metainfo", "data_list"} <= content.keys():
            raise DataError(
                f"{self.ann_file}: no metainfo and data_list; expected info version 2, make it anew with `visionrnn create-data kitti`"
            )
        if not content["data_list"]:
            raise DataError(f"{self.ann_file}: no frames; expected at least one (is the split's list in ImageSets empty?)")
        for key, value in content["metainfo"].items():
            self._metainfo.setdefault(key, value)
        return [self.parse_data_info({**info, "frame": info["sample_idx"]}) for info in content["data_list"]]

    def __len__(self) -> int:
        return super().__len__() * self.times

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Annotations of a sample; ``sample_idx`` is the frame's number in the annotation file, not its place in the list."""
        info = super().get_data_info(idx % super().__len__())
        info["sample_idx"] = info["frame"]
        return info

    def __getitem__(self, idx: int) -> dict[str, Any]:
        seed, epoch = self._moment.tolist()
        with seeded(seed, epoch, idx):
            if self.test_mode:
                return super().__getitem__(idx)
            for _ in range(self.max_refetch + 1):
                sample = self.prepare_data(idx)
                if sample is not None:
                    return sample
                idx = self._rand_another()  # a frame without objects, or the augmentation lost them all
        raise DataError(
            f"{self.ann_file}: no frame with an object of {', '.join(self.metainfo['classes'])} in {self.max_refetch + 1} draws; "
            "check the classes and the range, or train with filter_empty_gt=False"
        )
