"""A trained detector as a Python object: points in, boxes out.

    detector = visionrnn.Detector("configs/lion/lion-mamba_1xb2_synthetic-3d-3class.py", "work_dirs/…/epoch_12.pth")
    found = detector(points)          # [N, 4] array or tensor, or the path of a .bin, .npy, .pcd or .ply file
    found.boxes, found.scores, found.names, found.latency

Needs ``pip install 'visionrnn[mmdet3d]'``.
"""

from __future__ import annotations

import importlib
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from visionrnn.datasets.kitti import Calibration, points_in_image
from visionrnn.datasets.points import check_points, load_points
from visionrnn.datasets.statistics import mismatch
from visionrnn.detections import Detections
from visionrnn.errors import DataError, MissingPackageError

KITTI_IMAGE = (375, 1242)  # height, width in pixels; the common size of KITTI's images

__all__ = ["Detections", "Detector"]


class Detector:
    """The model is built and its weights are loaded once; each call runs it on one cloud, with the preprocessing of the test pipeline.

    config: path or name of a config, or a loaded one. checkpoint: weights of the same model, read with ``weights_only=True``.
    score_threshold: boxes below are left out (the config's own limit, ``model.test_cfg.score_thr``, comes first).
    For a sensor that differs from the training data's: ``z_offset`` in metres is added to the points' z and taken from the boxes' again, so
    that boxes are always in the frame of the points given; ``intensity_scale`` multiplies the intensity.

    Raises MissingPackageError, DataError (config, device) and CheckpointError (no such file, damaged, of another model: the first keys).
    """

    def __init__(
        self,
        config: str | Path | Mapping[str, Any],
        checkpoint: str | Path,
        device: Any = "cpu",
        score_threshold: float | None = None,
        *,
        z_offset: float = 0.0,
        intensity_scale: float = 1.0,
    ):
        if not (np.isfinite(z_offset) and np.isfinite(intensity_scale)):
            raise ValueError(f"z_offset={z_offset}, intensity_scale={intensity_scale}; expected finite numbers")
        self.score_threshold, self.z_offset, self.intensity_scale = score_threshold, z_offset, intensity_scale
        self._model = _inference().InferenceModel(config, checkpoint, device)
        self.classes: tuple[str, ...] = self._model.classes
        self.columns: int = self._model.columns
        self.point_range: tuple[float, ...] | None = self._model.point_range

    def __call__(
        self,
        points: Any,
        *,
        calibration: Calibration | None = None,
        image_shape: tuple[int, int] = KITTI_IMAGE,
        columns: int | None = None,
        name: str = "points",
    ) -> Detections:
        """Boxes of one cloud, in the frame of its points, best first.

        points: [N, F] numpy array or torch tensor of x, y, z in metres (x front, y left, z up), intensity, …, with the F the model
        expects; or a path. Rows with NaN or infinity are dropped with a warning; a cloud without a point in the model's range has no boxes.
        columns: values per point of a .bin file when they differ from the model's (nuScenes: 5); the first ones are used.
        name: what messages call an array.
        calibration: when given, points outside the camera's image (``image_shape``: height, width in pixels) are left out first, as KITTI
        training does. Models trained on KITTI-format data have only seen that part of a cloud: without a calibration the whole cloud
        inside the model's range is searched, and boxes beside the camera's view are less reliable.

        A warning tells when the cloud does not look like the training data (units, mounting height, intensity range) and what mends it.
        Raises DataError: wrong columns, unreadable file.
        """
        if isinstance(points, (str, os.PathLike)):
            name, cloud = str(points), self.load(points, columns)
        else:
            cloud = self._check(points, name)
        start = time.perf_counter()
        cloud = cloud.copy()
        cloud[:, 2] += self.z_offset
        if cloud.shape[1] > 3:
            cloud[:, 3] *= self.intensity_scale
        total = len(cloud)
        if calibration is not None and total:
            own_frame = cloud[:, :3] - np.array([0.0, 0.0, self.z_offset])
            cloud = cloud[points_in_image(own_frame, calibration, image_shape)]
            if not len(cloud):
                warnings.warn(f"{name}: none of the {total} points is in the camera's image; check the calibration", stacklevel=2)
        boxes, scores, labels = self._model(cloud)
        boxes[:, 2] -= self.z_offset
        latency = time.perf_counter() - start
        if len(cloud) or not total:
            self._compare(cloud, name)
        found = Detections(boxes, scores, labels, self.classes, latency, name if name != "points" else "")
        return found if self.score_threshold is None else found.above(self.score_threshold)

    def load(self, path: str | os.PathLike, columns: int | None = None) -> np.ndarray:
        """A point cloud file as float32 [N, F], F being what the model expects; ``columns`` as in a call. Raises DataError."""
        wanted = max(columns or 0, self.columns) if Path(path).suffix.lower() == ".bin" else self.columns
        return np.ascontiguousarray(load_points(Path(path), wanted, allow_empty=True)[:, : self.columns])

    def _check(self, points: Any, name: str) -> np.ndarray:
        """Array or tensor → float32 [N, F] with finite rows."""
        array = points.detach().cpu().numpy() if hasattr(points, "detach") else np.asarray(points)
        if array.size == 0:
            return np.zeros((0, self.columns), np.float32)
        if array.ndim != 2 or array.shape[1] != self.columns:
            named = ", ".join((*("x", "y", "z", "intensity")[: self.columns], *(["…"] if self.columns > 4 else [])))
            raise DataError(
                f"{name}: shape {list(array.shape)}, but the model expects [N, {self.columns}]: {named}; "
                "leave out further columns, or add a column of zeros for an intensity the sensor does not give"
            )
        return check_points(array, name, allow_empty=True)

    def _compare(self, cloud: np.ndarray, name: str) -> None:
        """Warns when the cloud is out of the model's range or unlike the training data."""
        if not len(cloud):
            warnings.warn(f"{name}: no points, so there are no boxes", stacklevel=3)
            return
        if self.point_range is not None:
            low, high = np.array(self.point_range[:3]), np.array(self.point_range[3:])
            if not self._model.inside(cloud).any():
                limits, reach = (_extent(*bounds) for bounds in ((low, high), (cloud[:, :3].min(axis=0), cloud[:, :3].max(axis=0))))
                warnings.warn(
                    f"{name}: no point is in the model's range, so there are no boxes (range: {limits}; the cloud: {reach}). Check the "
                    "unit (metres), the axes (x front, y left, z up) and the sensor's height (--z-offset)",
                    stacklevel=3,
                )
            on_ground = ((cloud[:, :2] >= low[:2]) & (cloud[:, :2] < high[:2])).all(axis=1)
            cloud = cloud[on_ground] if on_ground.any() else cloud
        for message in mismatch(self._model.statistics, cloud):
            warnings.warn(f"{name}: {message}", stacklevel=3)


def _extent(low: np.ndarray, high: np.ndarray) -> str:
    """ "x 0 … 70.4, y -40 … 40, z -3 … 1 m" """
    return ", ".join(f"{axis} {a:.4g} … {b:.4g}" for axis, a, b in zip("xyz", low, high, strict=True)) + " m"


def _inference() -> Any:
    """``visionrnn.integrations.mmdet3d.inference``; MissingPackageError when the packages it needs are not installed."""
    try:
        return importlib.import_module("visionrnn.integrations.mmdet3d.inference")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("mmdet3d", "mmdet", "mmcv", "mmengine"):
            raise MissingPackageError(
                f"detecting needs {error.name}, which is not installed; run: pip install 'visionrnn[mmdet3d]'"
            ) from error
        raise
