"""mmdet and mmdet3d without compiled mmcv: puts a PyTorch module in the place of ``mmcv._ext`` when mmcv-lite is installed.

``mmcv-lite`` is mmcv without its compiled operators, and every import of ``mmcv.ops`` (hence of mmdet and mmdet3d) asks for them.
``install`` loads ``visionrnn/integrations/mmcv_ext.py`` under the name ``mmcv._ext``: the operators that 3D detectors and common image
detectors call are there, for CPU and GPU tensors, with the calling convention of mmcv 2.1; any other raises MissingPackageError when it is
called. A compiled mmcv is left alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from visionrnn.errors import MissingPackageError

NAME = "mmcv._ext"
STAND_IN = Path(__file__).with_name("mmcv_ext.py")


def is_stand_in(module: ModuleType | None) -> bool:
    """True if ``module`` is the one that ``install`` provides."""
    return getattr(getattr(module, "__spec__", None), "origin", None) == str(STAND_IN)


def install() -> bool:
    """Provides ``mmcv._ext`` if, and only if, it is missing; may be called any number of times.

    Returns True when the stand-in is in place, False when a compiled mmcv (or another module of that name) is and nothing was done.
    Raises MissingPackageError when there is no mmcv at all.
    """
    if NAME in sys.modules:
        return is_stand_in(sys.modules[NAME])
    try:
        mmcv = importlib.import_module("mmcv")
    except ModuleNotFoundError as error:
        if error.name != "mmcv":
            raise
        raise MissingPackageError(
            "mmcv is not installed; mmdet and mmdet3d need it. Install it with: pip install 'visionrnn[mmdet3d]'"
        ) from None
    if importlib.util.find_spec(NAME) is not None:
        return False
    spec = importlib.util.spec_from_file_location(NAME, STAND_IN)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[NAME] = module
    mmcv._ext = module  # type: ignore[attr-defined]
    _accept_cpu_tensors()
    return True


def _accept_cpu_tensors() -> None:
    """mmcv's own wrappers of the two functions below ask CUDA for its current device whatever the tensors' device is; ours do not."""
    ops = importlib.import_module("mmcv.ops")
    module = importlib.import_module("mmcv.ops.points_in_boxes")
    for name, function in (("points_in_boxes_part", points_in_boxes_part), ("points_in_boxes_all", points_in_boxes_all)):
        setattr(module, name, function)
        setattr(ops, name, function)


def points_in_boxes_part(points: Any, boxes: Any) -> Any:
    """Index of the first box that holds a point, −1 where none does.

    points: [B, M, 3]; boxes: [B, T, 7] as x, y, z of the BOTTOM centre, l, w, h, yaw, metres, LiDAR frame. Returns int32 [B, M].
    Raises ValueError when the shapes do not fit.
    """
    _check_shapes(points, boxes)
    out = points.new_full(points.shape[:2], -1).int()
    sys.modules[NAME].points_in_boxes_part_forward(boxes, points, out)
    return out


def points_in_boxes_all(points: Any, boxes: Any) -> Any:
    """1 where a box holds a point, else 0: int32 [B, M, T]. Arguments and errors as ``points_in_boxes_part``."""
    _check_shapes(points, boxes)
    out = points.new_zeros((*points.shape[:2], boxes.shape[1])).int()
    sys.modules[NAME].points_in_boxes_all_forward(boxes, points, out)
    return out


def _check_shapes(points: Any, boxes: Any) -> None:
    if points.ndim != 3 or points.shape[2] != 3 or boxes.ndim != 3 or boxes.shape[2] != 7 or points.shape[0] != boxes.shape[0]:
        shapes = f"points {tuple(points.shape)}, boxes {tuple(boxes.shape)}"
        raise ValueError(f"{shapes}: expected points [B, M, 3] and boxes [B, T, 7] of the same batch size B")
