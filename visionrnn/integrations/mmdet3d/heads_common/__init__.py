"""What the centre-based heads share: boxes, codes and heat maps, in PyTorch on any device. Nothing here is registered with mmdet3d.

Boxes inside heads are [N, 7] (or 9 with the velocity in x and y, m/s): x, y, z of the GEOMETRIC centre, l, w, h in metres, yaw in
radians, counter-clockwise from +x; LiDAR frame. mmdet3d's LiDARInstance3DBoxes hold the bottom centre: ``samples`` converts at the border.
"""

from visionrnn.integrations.mmdet3d.heads_common.boxes import aligned_iou_3d, nms_3d, nms_by_class, rectify, usable, within
from visionrnn.integrations.mmdet3d.heads_common.heatmap import (
    PRIOR,
    draw_gaussians,
    focal_heatmap_loss,
    gaussian_radius,
    local_maxima,
    peak_radii,
)

__all__ = [
    "PRIOR",
    "aligned_iou_3d",
    "draw_gaussians",
    "focal_heatmap_loss",
    "gaussian_radius",
    "local_maxima",
    "nms_3d",
    "nms_by_class",
    "peak_radii",
    "rectify",
    "usable",
    "within",
]
