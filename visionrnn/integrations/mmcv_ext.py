"""What ``mmcv_ops.install`` loads as ``mmcv._ext`` when mmcv has no compiled operators. Not imported under its own name.

mmcv's wrappers look up operator names when they are imported, so every name exists here; the ones not listed raise on call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from visionrnn.errors import MissingPackageError
from visionrnn.integrations.mmcv_boxes import (
    box_iou_rotated,
    iou3d_boxes_overlap_bev_forward,
    iou3d_nms3d_forward,
    iou3d_nms3d_normal_forward,
    nms,
    nms_rotated,
    points_in_boxes_all_forward,
    points_in_boxes_cpu_forward,
    points_in_boxes_part_forward,
)
from visionrnn.integrations.mmcv_images import roi_align_backward, roi_align_forward, softnms
from visionrnn.integrations.mmcv_losses import sigmoid_focal_loss_backward, sigmoid_focal_loss_forward
from visionrnn.integrations.mmcv_voxels import (
    dynamic_point_to_voxel_backward,
    dynamic_point_to_voxel_forward,
    dynamic_voxelize_forward,
    hard_voxelize_forward,
)

__all__ = [
    "box_iou_rotated",
    "dynamic_point_to_voxel_backward",
    "dynamic_point_to_voxel_forward",
    "dynamic_voxelize_forward",
    "get_compiler_version",
    "get_compiling_cuda_version",
    "hard_voxelize_forward",
    "iou3d_boxes_overlap_bev_forward",
    "iou3d_nms3d_forward",
    "iou3d_nms3d_normal_forward",
    "nms",
    "nms_rotated",
    "points_in_boxes_all_forward",
    "points_in_boxes_cpu_forward",
    "points_in_boxes_part_forward",
    "roi_align_backward",
    "roi_align_forward",
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softnms",
]


def get_compiler_version() -> str:
    """Text for mmengine's environment report."""
    return "none (operators of visionrnn in PyTorch)"


def get_compiling_cuda_version() -> str:
    """Text for mmengine's environment report."""
    return "not available"


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if name.startswith("__"):
        raise AttributeError(f"module 'mmcv._ext' has no attribute {name!r}")

    def missing(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise MissingPackageError(
            f"the operator {name!r} is in the compiled mmcv, not in mmcv-lite, and visionrnn has no stand-in for it. "
            "To use it install the full mmcv in place of mmcv-lite: pip uninstall mmcv-lite; pip install 'mmcv>=2.1,<2.2'"
        )

    missing.__name__ = name
    return missing
