"""Steps of mmdet3d pipelines: point files checked on loading, objects pasted in from the ground-truth database, objects in range."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet3d.datasets.transforms import LoadPointsFromFile, ObjectRangeFilter, ObjectSample
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures.points import BasePoints

from visionrnn.datasets.kitti import inside_boxes
from visionrnn.datasets.pickles import load_infos
from visionrnn.datasets.points import load_points
from visionrnn.errors import DataError
from visionrnn.geometry import rotated_iou

_TOUCHING = 1e-6  # overlap over union: boxes that only touch do not collide


@TRANSFORMS.register_module()
class LoadPointsChecked(LoadPointsFromFile):
    """mmdet3d's LoadPointsFromFile through ``visionrnn.datasets.points.load_points``.

    Also reads .npy, .pcd and .ply; drops points with NaN or infinity with a warning; says what is wrong with a truncated or missing file
    (DataError). A frame without points passes.
    """

    def __init__(self, coord_type: str = "LIDAR", load_dim: int = 4, use_dim: int | list[int] = 4, **options: Any):
        super().__init__(coord_type=coord_type, load_dim=load_dim, use_dim=use_dim, **options)

    def _load_points(self, pts_filename: str) -> np.ndarray:
        return load_points(pts_filename, self.load_dim, allow_empty=True)


@TRANSFORMS.register_module()
class LoadPointsOfSweeps(BaseTransform):
    """Adds the points of the ``sweeps_num`` sweeps before a frame, in the frame's coordinates; the last column is a point's age in seconds.

    Files of sweeps have ``load_dim`` values per point, the last of which is replaced, as it is in the frame's own points (by 0). Sweeps
    lose the points with |x| and |y| below ``close`` metres, which lie on the vehicle. Where a frame lists fewer sweeps, the oldest is
    repeated (the frame itself where there is none), as OpenPCDet and with it LION do.

    mmdet3d's LoadPointsFromMultiSweeps is not used: it inverts ``lidar2sensor`` as x R − t, not (x − t) R (mmdetection3d#3007), which
    is metres off for the older sweeps of a turning vehicle. Raises DataError for unreadable files.
    """

    def __init__(self, sweeps_num: int = 9, load_dim: int = 5, close: float = 1.0):
        self.sweeps_num, self.load_dim, self.close = sweeps_num, load_dim, close

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Needs ``points``, ``timestamp`` (s) and ``lidar_sweeps``, newest first, each with ``timestamp`` and ``lidar_points``."""
        points = results["points"]
        points.tensor[:, -1] = 0
        sweeps = results.get("lidar_sweeps", [])[: self.sweeps_num]
        clouds = [self._sweep(sweep, results["timestamp"]) for sweep in sweeps] or [self._far(points.numpy())]
        clouds += [clouds[-1]] * (self.sweeps_num - len(clouds))
        results["points"] = points.cat([points, *(points.new_point(cloud) for cloud in clouds)])
        return results

    def _sweep(self, sweep: Mapping[str, Any], now: float) -> np.ndarray:
        cloud = self._far(load_points(sweep["lidar_points"]["lidar_path"], self.load_dim, allow_empty=True))
        pose = np.asarray(sweep["lidar_points"]["lidar2sensor"], dtype=np.float64)  # of the frame's points in the sweep's coordinates
        cloud[:, :3] = (cloud[:, :3] - pose[:3, 3]) @ pose[:3, :3]
        cloud[:, -1] = now - sweep["timestamp"]
        return cloud

    def _far(self, cloud: np.ndarray) -> np.ndarray:
        return cloud[(np.abs(cloud[:, :2]) >= self.close).any(axis=1)]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(sweeps_num={self.sweeps_num}, load_dim={self.load_dim}, close={self.close})"


@TRANSFORMS.register_module()
class ObjectRangeFilter3D(ObjectRangeFilter):
    """Leaves out objects whose geometric centre is outside ``point_cloud_range`` (x, y, z minima, then maxima, metres; borders are inside).

    mmdet3d's own filter does not look at z. Headings are brought into [-π, π).
    """

    def transform(self, input_dict: dict[str, Any]) -> dict[str, Any]:
        """Filters ``gt_bboxes_3d`` and ``gt_labels_3d`` of one frame."""
        boxes = input_dict["gt_bboxes_3d"]
        low, high = torch.from_numpy(self.pcd_range).split(3)
        centre = boxes.gravity_center
        inside = ((centre >= low) & (centre <= high)).all(dim=1)
        kept = boxes[inside]
        kept.limit_yaw(offset=0.5, period=2 * np.pi)
        input_dict["gt_bboxes_3d"] = kept
        input_dict["gt_labels_3d"] = input_dict["gt_labels_3d"][inside.numpy()]
        return input_dict


@TRANSFORMS.register_module()
class PasteObjects(ObjectSample):
    """Ground-truth sampling (Yan et al., SECOND, 2018): objects of other frames, with their points, are put where they stood there.

    data_root: folder of the prepared data; ``info_path`` (kitti_dbinfos_train.pkl) and the entries' paths are relative to it.
    groups: {class: number}. An object is taken if it has ``min_points`` points (one number, or {class: number}) and its difficulty
    is not in ``remove_difficulty``.
    limit_whole_scene: the number counts the objects the scene has already (mmdet3d's way); False pastes as many whatever is there (as
    LION's KITTI recipe does). classes: names in the order of the labels.
    num_features: values per point in the database's files; ``tanh_columns``: those that become their tanh, as the frame's have (Waymo's
    intensity and elongation, columns 3 and 4).

    Boxes are pasted with as many columns as the scene's have: 9, velocities included, from a database with 9.
    Each call draws afresh without replacement and keeps no state (mmdet3d's sampler walks through a shuffled list, which makes a sample
    depend on all before it). An object that overlaps, seen from above, a box of the scene or one pasted before is left out; points of the
    scene inside pasted boxes are removed. Raises DataError: database missing or damaged, with fewer columns than the scene, unknown class
    in groups.
    """

    def __init__(
        self,
        data_root: str,
        groups: Mapping[str, int],
        info_path: str = "kitti_dbinfos_train.pkl",
        classes: tuple[str, ...] = ("Car", "Pedestrian", "Cyclist"),
        min_points: int | Mapping[str, int] = 5,
        remove_difficulty: tuple[int, ...] = (-1,),
        limit_whole_scene: bool = False,
        num_features: int = 4,
        tanh_columns: Sequence[int] = (),
    ):
        self.data_root, self.classes, self.groups = Path(data_root), tuple(classes), dict(groups)
        self.limit_whole_scene, self.num_features, self.tanh_columns = limit_whole_scene, num_features, list(tanh_columns)
        self.disabled = False
        least = dict(min_points) if isinstance(min_points, Mapping) else dict.fromkeys(groups, min_points)
        for option, names in (("groups", groups), ("min_points", least)):
            unknown = [name for name in names if name not in self.classes]
            if unknown:
                raise DataError(f"PasteObjects.{option}: {', '.join(unknown)} not among the classes {', '.join(self.classes)}")
        path = self.data_root / info_path
        if not path.is_file() and not path.name.startswith("kitti"):  # load_infos would point to KITTI's preparation
            raise DataError(f"{path}: file not found; it is the database of objects that is prepared with the info files")
        found = load_infos(path)
        if not isinstance(found, dict):
            raise DataError(f"{path}: holds a {type(found).__name__}; expected {{class: entries}}, as `visionrnn create-data kitti` writes")
        try:
            self.entries = {
                name: [
                    entry
                    for entry in found.get(name, [])
                    if entry["num_points_in_gt"] >= least.get(name, 0) and entry.get("difficulty", 0) not in remove_difficulty
                ]
                for name in groups
            }
        except (AttributeError, KeyError, TypeError) as error:
            raise DataError(f"{path}: an entry is damaged or lacks a value: {error!r}; make the database anew") from None
        absent = [name for name in groups if groups[name] and not self.entries[name]]
        if absent:
            wanted = ", ".join(f"{name} with {least.get(name, 0)} points" for name in absent)
            warnings.warn(f"{path}: no object of {wanted}; none is pasted", stacklevel=2)

    def transform(self, input_dict: dict[str, Any]) -> dict[str, Any]:
        """Adds to ``points``, ``gt_bboxes_3d`` and ``gt_labels_3d`` of one frame."""
        if self.disabled:
            return input_dict
        boxes, labels, points = input_dict["gt_bboxes_3d"], input_dict["gt_labels_3d"], input_dict["points"]
        chosen = self._choose(boxes.numpy(), np.asarray(labels))
        if not chosen:
            return input_dict
        pasted = np.stack([self._box_of(entry, boxes.tensor.shape[1]) for entry in chosen])
        objects = [self._points_of(entry, points) for entry in chosen]
        input_dict["points"] = points.cat([*objects, self.remove_points_in_boxes(points, pasted)])
        input_dict["gt_bboxes_3d"] = boxes.new_box(np.concatenate([boxes.numpy(), pasted]))
        new = np.array([self.classes.index(entry["name"]) for entry in chosen], dtype=np.int64)
        input_dict["gt_labels_3d"] = np.concatenate([labels, new]).astype(np.int64)
        return input_dict

    def _choose(self, boxes: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
        """Entries to paste into a scene with ``boxes`` [N, 7] (bottom centre) and ``labels`` [N]."""
        drawn: list[dict[str, Any]] = []
        for name, number in self.groups.items():
            pool = self.entries[name]
            wanted = number - int((labels == self.classes.index(name)).sum()) if self.limit_whole_scene else number
            drawn += random.sample(pool, min(max(wanted, 0), len(pool)))  # NumPy's choice shuffles the whole pool: 0.25 s on Waymo
        if not drawn:
            return []
        candidates = torch.from_numpy(_bev(np.stack([entry["box3d_lidar"][:7] for entry in drawn])))
        scene = len(boxes)
        overlap = rotated_iou(candidates, torch.cat([torch.from_numpy(_bev(boxes)), candidates])) > _TOUCHING
        taken = np.arange(scene + len(drawn)) < scene
        for k, row in enumerate(overlap.numpy()):
            taken[scene + k] = not (row & taken).any()
        return [entry for entry, kept in zip(drawn, taken[scene:], strict=True) if kept]

    @staticmethod
    def _box_of(entry: Mapping[str, Any], columns: int) -> np.ndarray:
        box = np.asarray(entry["box3d_lidar"], dtype=np.float32)
        if len(box) < columns:
            raise DataError(f"{entry['path']}: a box of {len(box)} values, the frame's have {columns}; make the database with velocities")
        return box[:columns]

    def _points_of(self, entry: Mapping[str, Any], like: BasePoints) -> BasePoints:
        cut = load_points(self.data_root / entry["path"], self.num_features)
        cut[:, :3] += np.asarray(entry["box3d_lidar"][:3], dtype=np.float32)
        cut[:, self.tanh_columns] = np.tanh(cut[:, self.tanh_columns])
        if cut.shape[1] < like.tensor.shape[1]:
            raise DataError(f"{entry['path']}: {cut.shape[1]} features a point, the frame has {like.tensor.shape[1]}; set num_features")
        return like.new_point(cut[:, : like.tensor.shape[1]])

    @staticmethod
    def remove_points_in_boxes(points: BasePoints, boxes: np.ndarray) -> BasePoints:
        """``points`` without those inside ``boxes`` [N, 7] (bottom centre)."""
        centred = boxes[:, :7].astype(np.float64)
        centred[:, 2] += centred[:, 5] / 2
        keep = ~inside_boxes(points.coord.numpy(), centred).any(axis=1)
        return points[torch.from_numpy(keep)]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(data_root={str(self.data_root)!r}, groups={self.groups}, limit_whole_scene={self.limit_whole_scene})"


def _bev(boxes: np.ndarray) -> np.ndarray:
    """[N, ≥ 7] → x, y, l, w, yaw [N, 5], float64."""
    return np.asarray(boxes, dtype=np.float64)[:, [0, 1, 3, 4, 6]]
