"""A trained mmdet3d detector on arrays: the config's own test pipeline, without files."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet3d.registry import MODELS, TRANSFORMS
from mmdet3d.structures import LiDARInstance3DBoxes, get_box_type
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope, init_default_scope

from visionrnn.checkpoints import check_fit, read_checkpoint
from visionrnn.cli.configs import find_config
from visionrnn.conversion import unwrapped
from visionrnn.datasets.kitti import wrap_angle
from visionrnn.errors import CheckpointError, DataError
from visionrnn.integrations import mmdet3d as ours

COLUMN_NAMES = ("x", "y", "z", "intensity")
UNCHANGED = {
    "flip": False,
    "pcd_horizontal_flip": False,
    "pcd_vertical_flip": False,
    "pcd_scale_factor": 1.0,
}  # test-time augmentation: none


def load_config(config: str | Path | Mapping[str, Any]) -> Config:
    """A config by path or name, or one that is loaded already. Raises DataError when there is none or it cannot be read."""
    if isinstance(config, (Config, Mapping)):
        return config if isinstance(config, Config) else Config(dict(config))
    path = find_config(config)
    try:
        return Config.fromfile(path)
    except (SyntaxError, NameError, KeyError, TypeError, OSError, ImportError, AttributeError) as error:
        raise DataError(f"{path}: the config cannot be read: {type(error).__name__}: {error}") from error


def build_model(config: Config) -> torch.nn.Module:
    """The model of a config, which stays as it is. Raises DataError when it cannot be built."""
    try:
        with _without_package_warnings():
            return MODELS.build(copy.deepcopy(config.model))  # mmdet3d's detectors write into what they are given
    except (KeyError, TypeError, AttributeError, AssertionError, ValueError) as error:
        raise DataError(f"{_name(config)}: the model cannot be built: {type(error).__name__}: {error}") from error


class PointPipeline:
    """The transforms of a config's test pipeline, fed with an array in place of a file.

    Reading the file is replaced by the array, and everything else the loading transform does (choosing columns, tanh of the intensity,
    …) is done by that very transform. Loading of annotations and images is left out. Wrappers of test-time augmentation are opened and what
    they contain runs once, unchanged. ``columns`` is the number of values per point the files of the training data have.
    """

    def __init__(self, config: Config):
        steps = list(_flatten(_test_pipeline(config)))
        loaders = [step for step in steps if str(step.get("type")).startswith("LoadPoints")]
        if not loaders:
            raise DataError(f"{_name(config)}: the test pipeline has no LoadPointsFromFile; expected one, it tells the columns of a point")
        self._loader = TRANSFORMS.build(loaders[0])
        if not hasattr(self._loader, "_load_points"):
            raise DataError(
                f"{_name(config)}: {loaders[0]['type']} cannot take an array; expected LoadPointsFromFile or a class made from it"
            )
        self.columns: int = int(self._loader.load_dim)
        skipped = [str(step["type"]) for step in loaders[1:]]
        if skipped:
            warnings.warn(f"{', '.join(skipped)} left out: give the points of all sweeps in one array", stacklevel=3)
        self._steps = [TRANSFORMS.build(step) for step in steps if not str(step.get("type")).startswith("Load")]

    def __call__(self, points: np.ndarray) -> dict[str, Any]:
        """float32 [N, columns] → what the model takes: ``inputs`` and ``data_samples`` of one frame."""
        self._loader._load_points = lambda _: points.reshape(-1).copy()  # transforms may write into it
        box_type, box_mode = get_box_type("LiDAR")
        paths = {"lidar_points": {"lidar_path": "array", "num_pts_feats": self.columns}, "lidar_path": "array", "sample_idx": 0}
        results: Any = self._loader({**paths, **UNCHANGED, "box_type_3d": box_type, "box_mode_3d": box_mode, "timestamp": 0.0})
        for step in self._steps:
            results = step(results)
        return results


def _test_pipeline(config: Config) -> list[Any]:
    dataset = (config.get("test_dataloader") or config.get("val_dataloader") or {}).get("dataset", {})
    while "pipeline" not in dataset and "dataset" in dataset:
        dataset = dataset["dataset"]
    pipeline = dataset.get("pipeline") or config.get("test_pipeline")
    if not pipeline:
        raise DataError(f"{_name(config)}: no test pipeline; expected test_dataloader.dataset.pipeline or test_pipeline")
    return list(pipeline)


def _flatten(steps: list[Any]) -> Iterator[dict[str, Any]]:
    for step in steps:
        if "transforms" in step and str(step.get("type")).endswith(("MultiScaleFlipAug3D", "TestTimeAug")):
            inner = step["transforms"]
            yield from _flatten(inner[0] if inner and isinstance(inner[0], list) else inner)
        else:
            yield step


def _name(config: Config) -> str:
    return str(config.filename) if getattr(config, "filename", None) else "config"


class InferenceModel:
    """A detector built once from a config and a checkpoint (None: weights stay random), in evaluation mode on ``device``.

    Attributes: ``classes``; ``columns`` of a point; ``point_range`` (x, y, z minima then maxima in metres) or None; ``statistics`` of the
    training data ({} when the checkpoint has none).
    """

    def __init__(self, config: str | Path | Mapping[str, Any], checkpoint: str | Path | None, device: str | torch.device = "cpu"):
        ours.register_all()
        self.config = load_config(config)
        self.device = _device(device)
        scope = self.config.get("default_scope") or "mmdet3d"
        current = DefaultScope.get_current_instance()
        if current is None or current.scope_name != scope:
            init_default_scope(scope)
        self.pipeline = PointPipeline(self.config)
        self.columns = self.pipeline.columns
        content = {} if checkpoint is None else read_checkpoint(checkpoint)
        model = build_model(self.config)
        if self.device.type != "cuda":
            model = revert_sync_batchnorm(model)
        if checkpoint is not None:
            _load_weights(model, content["state_dict"], checkpoint)
        self.model = model.to(self.device).eval()
        meta = content.get("meta") or {}
        self.classes = self._classes(meta, checkpoint)
        self.statistics: dict[str, Any] = dict(meta.get("data_statistics") or {})
        self.point_range = self._point_range()

    def _classes(self, meta: Mapping[str, Any], checkpoint: str | Path | None) -> tuple[str, ...]:
        """Names in the order of the labels: the checkpoint's, which the weights were trained with, else the config's."""
        dataset = (self.config.get("test_dataloader") or {}).get("dataset", {})
        metainfo = dataset.get("metainfo") or dataset.get("dataset", {}).get("metainfo") or self.config.get("metainfo") or {}
        named = tuple(metainfo.get("classes") or self.config.get("class_names") or ())
        trained = tuple(str(name) for name in meta.get("classes") or ())
        if named and trained and named != trained:
            if len(named) != len(trained):
                raise CheckpointError(f"{checkpoint}: trained for the classes {', '.join(trained)}, the config has {', '.join(named)}")
            text = (
                f"{checkpoint}: trained for the classes {', '.join(trained)}, the config has {', '.join(named)}; the checkpoint's are used"
            )
            warnings.warn(text, stacklevel=4)
        return trained or named

    def _point_range(self) -> tuple[float, ...] | None:
        layer = (self.config.model.get("data_preprocessor") or {}).get("voxel_layer") or {}
        found = layer.get("point_cloud_range") or self.config.get("point_cloud_range")
        return tuple(float(value) for value in found) if found is not None else None

    def inside(self, points: np.ndarray) -> np.ndarray:
        """Which points [N, ≥ 3] lie in the range of the model: bool [N]."""
        if self.point_range is None:
            return np.ones(len(points), dtype=bool)
        low, high = np.asarray(self.point_range[:3]), np.asarray(self.point_range[3:])
        return ((points[:, :3] >= low) & (points[:, :3] < high)).all(axis=1)

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points float32 [N, columns] → boxes [M, 7] (geometric centre), scores [M], labels [M] as numpy, best first.

        A cloud without a point in the model's range has no boxes; the model does not run then.
        """
        nothing = np.zeros((0, 7), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
        if not len(points):
            return nothing
        packed = self.pipeline(points)
        left = packed["inputs"]["points"]
        if not len(left) or not self.inside(left[:, :3].cpu().numpy()).any():
            return nothing
        with torch.no_grad(), _without_package_warnings():
            found = self.model.test_step(pseudo_collate([packed]))[0].pred_instances_3d  # type: ignore[operator]
        boxes: LiDARInstance3DBoxes = found.bboxes_3d
        rows = torch.cat([boxes.gravity_center, boxes.dims, boxes.yaw[:, None]], dim=1).float().cpu().numpy()
        rows[:, 6] = wrap_angle(rows[:, 6])
        scores = found.scores_3d.float().cpu().numpy()
        finite = np.isfinite(rows).all(axis=1) & np.isfinite(scores)
        if not finite.all():
            broken = int((~finite).sum())
            warnings.warn(
                f"the model gave {broken} boxes with NaN, left out: its training diverged, or the checkpoint is damaged", stacklevel=3
            )
        order = np.argsort(-scores, kind="stable")
        order = order[finite[order]]
        return rows[order], scores[order], found.labels_3d.long().cpu().numpy()[order]


@contextmanager
def _without_package_warnings() -> Iterator[None]:
    """Hides what mmdet3d says about its own future; nothing a user can act on."""
    with warnings.catch_warnings():
        for module in ("mmdet3d", "mmdet", "mmengine", r"torch\.functional"):
            warnings.filterwarnings("ignore", category=UserWarning, module=module)
        yield


def _device(device: str | torch.device) -> torch.device:
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise DataError(f"device {str(device)!r} is unknown to torch; expected 'cpu', 'cuda' or 'cuda:0'") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise DataError(f"device {str(device)!r}: torch sees no CUDA device here; use 'cpu'")
    return chosen


def _load_weights(model: torch.nn.Module, state: Mapping[str, torch.Tensor], checkpoint: str | Path) -> None:
    state = unwrapped(state)
    check_fit(model, state, checkpoint)
    model.load_state_dict(state, strict=False)  # what may be absent are BatchNorm's counters; check_fit has seen to the rest
