"""KITTI average precision as an mmengine metric, for mmdet3d's validation and test loops; no CUDA, any number of processes.

In a config: ``val_evaluator = dict(type="KittiAP", ann_file=".../kitti_infos_val.pkl")``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet3d.registry import METRICS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmengine.registry import METRICS as ROOT_METRICS

from visionrnn.datasets.kitti import Calibration, Labels, write_labels
from visionrnn.datasets.pickles import load_infos
from visionrnn.detections import Detections
from visionrnn.errors import DataError
from visionrnn.evaluation.kitti import CLASSES, DIFFICULTIES, evaluate
from visionrnn.evaluation.kitti_command import format_table

TITLES = {"image_AP": "image", "image_AOS": "AOS", "bev_AP": "BEV", "3d_AP": "3D"}
UNKNOWN_OCCLUSION = 3  # KITTI's word for it; beyond the limit of every difficulty, so such objects are ignored
_CALIBRATION_KEYS = ("lidar2cam", "cam2img", "height", "width")


@ROOT_METRICS.register_module()  # found in a process whose scope is another package's, too
@METRICS.register_module()
class KittiAP(BaseMetric):
    """Scores detections in the LiDAR frame against a KITTI info file (version 2) by the benchmark's rules (``visionrnn.evaluation.kitti``).

    Predictions are ``pred_instances_3d`` (bboxes_3d: LiDARInstance3DBoxes, scores_3d, labels_3d in the order of the data set's classes) of
    samples with ``sample_idx``. They are brought into the camera frame with the calibration of the info file; the 2D box is the smallest
    one round the part that the image shows. Boxes that the image does not show at all are dropped: KITTI labels nothing there.
    Frames of the info file that are not among the samples are not scored.

    Returns, with the prefix "kitti": ``{Class}_{3D|BEV|image|AOS}_{easy|moderate|hard}_{R40|R11}`` in percent,
    ``{Class}_{3D|BEV}_{difficulty}_R40_{0-30|30-50|50-inf}m``, and ``mAP_{3D|BEV}_{difficulty}_R40`` over the classes with objects.

    Args:
        ann_file: info file of the scored split; read without executing anything in it.
        submission_prefix: folder to write the detections to, as KITTI text, one NNNNNN.txt for each sample.
        format_only: write only, score nothing (the test split has no labels); needs ``submission_prefix``.
        point_cloud_range: (x, y, z minima then maxima, metres, LiDAR frame) for detectors of a shorter range: objects whose geometric
            centre is outside need not be found, and finding them is no error. Default: the benchmark's rules alone.
        collect_device, prefix, collect_dir: as mmengine's BaseMetric.
    """

    default_prefix = "kitti"

    def __init__(
        self,
        ann_file: str,
        submission_prefix: str | None = None,
        format_only: bool = False,
        point_cloud_range: Sequence[float] | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
        collect_dir: str | None = None,
    ):
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        if format_only and submission_prefix is None:
            raise ValueError("format_only=True writes files and nothing else: give submission_prefix, the folder to write to")
        if point_cloud_range is not None and len(point_cloud_range) != 6:
            raise ValueError(f"point_cloud_range={point_cloud_range}; expected x, y, z minima, then maxima, in metres")
        self.ann_file, self.submission_prefix, self.format_only = ann_file, submission_prefix, format_only
        self.point_cloud_range = point_cloud_range
        self._infos: dict[int | str, dict[str, Any]] | None = None
        self._names: dict[int, str] = {}

    @property
    def infos(self) -> dict[int | str, dict[str, Any]]:
        """sample_idx → entry of the info file, read at first use. Raises DataError for a file of another kind."""
        if self._infos is None:
            content = load_infos(self.ann_file)
            try:
                self._names = {label: name for name, label in content["metainfo"]["categories"].items() if label >= 0}
                self._infos = {info["sample_idx"]: info for info in content["data_list"]}
            except (KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    f"{self.ann_file}: not an info file of version 2 ({error!r}); make it with `visionrnn create-data kitti`"
                ) from None
        return self._infos

    @property
    def _classes(self) -> tuple[str, ...]:
        return tuple((self.dataset_meta or {}).get("classes", ()))

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keeps each sample's detections as KITTI labels. Raises DataError for a sample the info file does not have."""
        for sample in data_samples:
            index = sample["sample_idx"]
            if index not in self.infos:
                raise DataError(f"{self.ann_file}: no frame with sample_idx {index!r}; expected the info file the data set was built from")
            found = lidar_detections(sample["pred_instances_3d"], self._classes)
            calibration, image_shape = _camera(self.infos[index], self.ann_file)
            self.results.append((index, found.to_kitti(calibration, image_shape)))

    def compute_metrics(self, results: list[tuple[int | str, Labels]]) -> dict[str, float]:
        """Writes and scores the detections of all processes."""
        found = dict(results)
        if self.submission_prefix is not None:
            folder = Path(self.submission_prefix)
            folder.mkdir(parents=True, exist_ok=True)
            for index, labels in found.items():
                write_labels(folder / f"{index:06d}.txt" if isinstance(index, int) else folder / f"{index}.txt", labels)
            print_log(f"KITTI text of {len(found)} frames written to {folder}", logger="current")
        if self.format_only:
            return {}
        scored = [name for name in self._classes if name.lower() in CLASSES]
        if not scored:
            raise DataError(f"dataset_meta['classes'] is {self._classes}; KITTI scores {CLASSES} only")
        truth = [self._ground_truth(index) for index in found]
        scores = evaluate(truth, list(found.values()), scored)
        print_log(f"KITTI, {len(found)} frames, average precision in percent\n{format_table(scores)}", logger="current")
        return flatten({name: scores[name.lower()] for name in scored})

    def _ground_truth(self, index: int | str) -> Labels:
        info = self.infos[index]
        if "instances" not in info:
            raise DataError(f"{self.ann_file}: frame {index} has no 'instances' (a test split?); use format_only=True to write results")
        rows = info["instances"]
        boxes = np.array([row["bbox_3d"] for row in rows], dtype=np.float64).reshape(-1, 7)
        labels = Labels(
            name=np.array([self._names.get(row["bbox_label_3d"], "DontCare") for row in rows], dtype=np.str_),
            truncated=np.array([row["truncated"] for row in rows], dtype=np.float64),
            occluded=np.array([row["occluded"] for row in rows], dtype=np.float64),
            alpha=np.array([row["alpha"] for row in rows], dtype=np.float64),
            box2d=np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4),
            size=boxes[:, 3:6],
            location=boxes[:, :3],
            rotation_y=boxes[:, 6],
        )
        if self.point_cloud_range is not None:
            calibration, _ = _camera(info, self.ann_file)
            centres = calibration.boxes_camera_to_lidar(labels.boxes)[:, :3]
            low, high = np.asarray(self.point_cloud_range[:3]), np.asarray(self.point_cloud_range[3:])
            labels.occluded[~((centres >= low) & (centres < high)).all(1)] = UNKNOWN_OCCLUSION
        return labels


def _camera(info: dict[str, Any], path: str) -> tuple[Calibration, tuple[int, int]]:
    """Calibration and (height, width) of the left colour camera of an info file's frame."""
    camera = info.get("images", {}).get("CAM2", {})
    missing = [key for key in _CALIBRATION_KEYS if key not in camera]
    if missing:
        raise DataError(f"{path}: frame {info.get('sample_idx')} lacks {', '.join(missing)} in images.CAM2; KITTI scoring needs them")
    lidar2cam, cam2img = (np.asarray(camera[key], dtype=np.float64) for key in ("lidar2cam", "cam2img"))
    calibration = Calibration(P2=cam2img[:3], R0_rect=np.eye(3), Tr_velo_to_cam=lidar2cam[:3])
    return calibration, (int(camera["height"]), int(camera["width"]))


def lidar_detections(instances: Any, classes: Sequence[str]) -> Detections:
    """mmdet3d's ``pred_instances_3d`` (a mapping or InstanceData) → Detections with geometric centres.

    Raises DataError for boxes of another frame than the LiDAR's and for labels beyond ``classes``.
    """
    boxes = instances["bboxes_3d"]
    if not isinstance(boxes, LiDARInstance3DBoxes):
        raise DataError(f"bboxes_3d: {type(boxes).__name__}, expected LiDARInstance3DBoxes")
    labels = instances["labels_3d"].detach().cpu().numpy()
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise DataError(f"labels_3d: {labels.min()} to {labels.max()}, expected 0 to {len(classes) - 1}, the places of {tuple(classes)}")
    whole = torch.cat((boxes.gravity_center, boxes.tensor[:, 3:7]), 1).detach().cpu().double().numpy()
    return Detections(whole, instances["scores_3d"].detach().cpu().float().numpy(), labels, tuple(classes))


def flatten(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Nested scores of ``evaluate``, by class name → flat names, as ``KittiAP`` returns them."""
    flat: dict[str, float] = {}
    for key in ("3d_AP", "bev_AP"):
        for level, difficulty in enumerate(DIFFICULTIES):
            present = [values[key][level] for values in scores.values() if values["objects"][level]]
            if present:
                flat[f"mAP_{TITLES[key]}_{difficulty}_R40"] = sum(present) / len(present)
    for name, values in scores.items():
        for key, title in TITLES.items():
            if key not in values:
                continue
            for level, difficulty in enumerate(DIFFICULTIES):
                flat[f"{name}_{title}_{difficulty}_R40"] = values[key][level]
                flat[f"{name}_{title}_{difficulty}_R11"] = values[key + "_R11"][level]
                if key in ("3d_AP", "bev_AP"):
                    for band, inside in values["distance"].items():
                        flat[f"{name}_{title}_{difficulty}_R40_{band}m"] = inside[key][level]
    return flat
