"""What a config's model costs on one frame."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from mmengine.dataset import pseudo_collate

from visionrnn.analysis.measure import Analysis, analyze
from visionrnn.datasets.kitti import points_in_image
from visionrnn.datasets.points import load_points
from visionrnn.errors import DataError
from visionrnn.integrations.mmdet3d.inference import InferenceModel, load_config

KITTI_IMAGE = (375, 1242)  # height, width in pixels of the synthetic camera, as KITTI's


def analyze_config(
    config: str | Path,
    frame: str | Path | None = None,
    checkpoint: str | Path | None = None,
    device: str = "cpu",
    repeats: int = 5,
) -> Analysis:
    """Cost of the model of a config, given by path or name, on a point file, or on a synthetic frame of its range.

    Without ``checkpoint`` the weights are random: what depends on detections (decoding, suppression) then takes hardly any time.
    Raises DataError (config, device, file, a frame without a point in range) and CheckpointError.
    """
    model = InferenceModel(load_config(config), checkpoint, device)
    points = synthetic_points(model) if frame is None else load_points(frame, model.columns)[:, : model.columns]
    packed = model.pipeline(np.ascontiguousarray(points))
    shown = "a SYNTHETIC frame" if frame is None else str(frame)
    inside = int(model.inside(packed["inputs"]["points"][:, :3].cpu().numpy()).sum())
    if not inside:
        raise DataError(f"{shown}: none of its {len(points)} points is in the model's range {model.point_range}; expected metres, z up")
    with warnings.catch_warnings():  # what torch and mmdet3d say about their own future
        warnings.simplefilter("ignore", UserWarning)
        analysis = analyze(model.model, lambda: model.model.test_step(pseudo_collate([packed])), repeats)  # type: ignore[operator]
    weights = "random weights" if checkpoint is None else str(checkpoint)
    analysis.about |= {"config": str(config), "frame": shown, "points": inside, "checkpoint": weights}
    return analysis


def synthetic_points(model: InferenceModel) -> np.ndarray:
    """float32 [N, columns]: a synthetic sweep, whole or, for a model that only looks ahead, the part in the camera's view, as in training.

    Columns beyond the intensity are 0.
    """
    from visionrnn.datasets.synthetic_camera import CALIBRATION
    from visionrnn.datasets.synthetic_lidar import simulate_frame

    points = simulate_frame(0, "val", 0).points
    if model.point_range is not None and model.point_range[0] >= 0:
        points = points[points_in_image(points, CALIBRATION, KITTI_IMAGE)]
    wide = np.zeros((len(points), max(model.columns, points.shape[1])), np.float32)
    wide[:, : points.shape[1]] = points
    return wide[:, : model.columns]
