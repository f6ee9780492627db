"""LiDAR frames for mmdet3d from info files of its layout (version 2), made safe and repeatable.

Annotation files are read without executing anything in them, labels count in the order of the config's classes, and every sample's
augmentation is a function of (seed, epoch, sample): it depends neither on the number of workers nor on what was loaded before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet3d.datasets import Det3DDataset, KittiDataset
from mmdet3d.registry import DATASETS
from mmdet3d.structures import LiDARInstance3DBoxes

from visionrnn.datasets.pickles import load_infos
from visionrnn.errors import DataError
from visionrnn.integrations.mmengine.seeding import seeded

CLASSES = ("Car", "Pedestrian", "Cyclist")
ORIGINS = {"bottom": (0.5, 0.5, 0.0), "gravity": (0.5, 0.5, 0.5)}
MADE_BY = "mmdet3d's create_data, or a converter to its layout (the docstring of the data set's base config says what is expected)"
CAMERA_KEYS = ("images", "cam_instances", "cam_sync_instances", "image_sweeps")


class LidarFrames(Det3DDataset):
    """What the data sets here share: frames of an info file, and samples that depend on (seed, epoch, sample) alone.

    ``times``: how often a frame comes in an epoch, each time with its own augmentation (wrapping in RepeatDataset would repeat the same).
    ``seed``: of the augmentation; training sets the run's. Other options are Det3DDataset's.
    """

    def __init__(self, *, times: int = 1, seed: int = 0, **options: Any):
        if times < 1:
            raise ValueError(f"times={times}; expected at least 1")
        self.times = times
        self._moment = torch.tensor([seed, 0]).share_memory_()  # seed and epoch; workers that live on see them change
        super().__init__(**options)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the augmentation of the coming epoch, before its data loader is started."""
        self._moment[1] = epoch

    def set_seed(self, seed: int) -> None:
        """Changes the seed of the augmentation, e.g. to the one of a resumed run."""
        self._moment[0] = seed

    def read_infos(self) -> Mapping[str, Any]:
        """Content of the annotation file: ``metainfo`` and ``data_list``. Raises DataError for a file of another kind."""
        return read_info_file(self.ann_file)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Frames of the annotation file, as mmdet3d parses them."""
        content = self.read_infos()
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


@DATASETS.register_module()
class KittiLidarDataset(LidarFrames, KittiDataset):
    """mmdet3d's KittiDataset on files of ``visionrnn create-data``; boxes are turned from the camera's frame into the LiDAR's.

    ``metainfo`` names the classes in the order of the labels, by default Car, Pedestrian, Cyclist; options are KittiDataset's and those of
    LidarFrames. Raises DataError: annotation file missing, damaged or without frames, unknown class, point file missing or truncated, no
    frame with an object in training.
    """

    def __init__(
        self,
        data_root: str,
        ann_file: str,
        metainfo: dict[str, Any] | None = None,
        modality: dict[str, bool] | None = None,
        **options: Any,
    ):
        classes: Sequence[str] = (metainfo or {}).get("classes", CLASSES)
        _check_classes(classes, self.METAINFO["classes"])
        super().__init__(
            data_root=data_root,
            ann_file=ann_file,
            metainfo={**(metainfo or {}), "classes": tuple(classes)},
            modality=dict(modality or {"use_lidar": True}),
            **options,
        )


@DATASETS.register_module()
class LidarDataset(LidarFrames):
    """Frames whose boxes are given in the LiDAR's frame: Waymo, nuScenes, ONCE, Argoverse 2 as info files of mmdet3d's layout.

    The file's ``metainfo.categories`` ({name: label}) says what its labels mean; ``data_list`` has for each frame ``sample_idx``,
    ``lidar_points`` (lidar_path, num_pts_feats), ``instances`` (bbox_3d x, y, z, l, w, h, yaw in metres and radians, bbox_label_3d,
    num_lidar_pts, velocity) and, where the pipeline loads them, ``timestamp`` and ``lidar_sweeps``. What cameras need is left out.

    metainfo: ``classes``, in the order of the labels; objects of other classes are left out.
    box_origin: what z of ``bbox_3d`` is, "bottom" (Waymo's files) or "gravity" (the box's middle: nuScenes').
    velocity: boxes have 9 columns, the last two from ``velocity`` (m/s; NaN, nuScenes' mark for unknown, stays: heads must mask it).
    min_lidar_points: objects with fewer points are left out, in training and from the truth of the evaluation.
    load_interval: every n-th frame only. Other options are Det3DDataset's and those of LidarFrames.

    Raises DataError: as KittiLidarDataset, and for an instance that lacks a value.
    """

    def __init__(
        self,
        data_root: str,
        ann_file: str,
        metainfo: dict[str, Any],
        box_origin: str,
        velocity: bool = False,
        min_lidar_points: int = 0,
        load_interval: int = 1,
        **options: Any,
    ):
        if box_origin not in ORIGINS:
            raise ValueError(f"box_origin={box_origin!r}; expected 'bottom' or 'gravity', whatever z of the file's boxes is")
        self.velocity, self.min_lidar_points, self.load_interval = velocity, min_lidar_points, load_interval
        self._origin = ORIGINS[box_origin]
        path = Path(data_root) / ann_file
        content = read_info_file(path, MADE_BY)
        self._content: Mapping[str, Any] | None = content
        names = {label: name for name, label in content["metainfo"].get("categories", {}).items() if label >= 0}
        if not names:
            raise DataError(f"{path}: metainfo has no 'categories'; expected {{name: label}}, which says what the labels mean")
        _check_classes(metainfo["classes"], tuple(names.values()))
        # Det3DDataset looks the file's labels up in this list
        self.METAINFO = {"classes": tuple(names.get(label, f"label {label}") for label in range(max(names) + 1))}
        super().__init__(
            data_root=data_root,
            ann_file=ann_file,
            metainfo={**metainfo, "classes": tuple(metainfo["classes"])},
            modality={"use_lidar": True},
            **options,
        )

    def read_infos(self) -> Mapping[str, Any]:
        """Content of the annotation file, every ``load_interval``-th frame of it."""
        content, self._content = self._content or read_info_file(self.ann_file, MADE_BY), None
        return {"metainfo": content["metainfo"], "data_list": content["data_list"][:: self.load_interval]}

    def parse_data_info(self, info: dict[str, Any]) -> dict[str, Any]:
        """A frame of the file with whole paths and its annotations; without what cameras need."""
        parsed: dict[str, Any] = super().parse_data_info({key: value for key, value in info.items() if key not in CAMERA_KEYS})
        parsed.pop("instances", None)  # now in ann_info or eval_ann_info
        return parsed

    def parse_ann_info(self, info: dict[str, Any]) -> dict[str, Any]:
        """``gt_bboxes_3d``, LiDARInstance3DBoxes [N, 7 or 9], and ``gt_labels_3d`` [N] of one frame."""
        try:
            rows = [row for row in info.get("instances", ()) if self.label_mapping.get(row["bbox_label_3d"], -1) >= 0]
            if self.min_lidar_points:
                rows = [row for row in rows if row["num_lidar_pts"] >= self.min_lidar_points]
            boxes = np.array([row["bbox_3d"] for row in rows], dtype=np.float32).reshape(-1, 7)
            if self.velocity:
                boxes = np.hstack([boxes, np.array([row["velocity"] for row in rows], dtype=np.float32).reshape(-1, 2)])
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{self.ann_file}: frame {info.get('sample_idx')}: an instance is damaged or lacks a value: {error!r}"
            ) from None
        labels = np.array([self.label_mapping[row["bbox_label_3d"]] for row in rows], dtype=np.int64)
        for label in labels:
            self.num_ins_per_cat[label] += 1
        return {"gt_bboxes_3d": LiDARInstance3DBoxes(boxes, box_dim=boxes.shape[1], origin=self._origin), "gt_labels_3d": labels}


def read_info_file(path: str | Path, made_by: str = "`visionrnn create-data kitti`") -> Mapping[str, Any]:
    """``metainfo`` and ``data_list`` of an info file of mmdet3d's layout, version 2.

    Raises DataError: missing, damaged, another kind, no frames; it says what the file is ``made_by``.
    """
    if not Path(path).is_file() and "create-data" not in made_by:  # load_infos would point to KITTI's preparation
        raise DataError(f"{path}: file not found; it is made by {made_by}")
    content = load_infos(path)
    if not isinstance(content, dict) or not {"metainfo", "data_list"} <= content.keys():
        raise DataError(f"{path}: no metainfo and data_list; expected info version 2, make it anew with {made_by}")
    if not content["data_list"]:
        raise DataError(f"{path}: no frames; expected at least one (is the split's list in ImageSets empty?)")
    return content


def _check_classes(classes: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in classes if name not in known]
    if unknown:
        raise DataError(f"metainfo.classes: {', '.join(unknown)} unknown; expected of {', '.join(known)}")
