"""LION with 64 channels on Waymo's grid, residual bird's-eye net and centre head with overlap branch, as the authors configured it.

With 128 channels: ``dim``, ``feat_channels`` and the bird's-eye net's ``in_channels`` double, and drop_path is 0.2.
"""

_base_ = "./lion.py"

point_cloud_range = [-75.52, -75.52, -2, 75.52, 75.52, 4]
voxel_size = [0.32, 0.32, 0.1875]
norm = dict(type="BN", eps=1e-3, momentum=0.01)

model = dict(
    voxel_encoder=dict(in_channels=5, feat_channels=[64, 64], point_cloud_range=point_cloud_range, voxel_size=voxel_size),
    middle_encoder=dict(dim=64, drop_path=0.0),
    backbone=dict(
        type="ResSECOND", in_channels=128, layer_nums=[1, 2, 2], layer_strides=[1, 2, 2], out_channels=[128, 128, 256], norm_cfg=norm
    ),
    neck=dict(
        type="SECONDFPN",
        in_channels=[128, 128, 256],
        upsample_strides=[1, 2, 4],
        out_channels=[128, 128, 128],
        norm_cfg=norm,
        use_conv_for_no_stride=False,
    ),
    bbox_head=dict(
        type="LIONCenterHead",
        num_classes=3,
        in_channels=384,
        grid=dict(point_cloud_range=point_cloud_range, voxel_size=voxel_size, stride=1),
        extra=["iou"],
        feat_channels=64,
        norm_cfg=norm,
    ),
    train_cfg=dict(peaks=dict(overlap=0.1, min_radius=2, max_objects=500), heatmap_weight=1.0, box_weight=2.0, iou_weight=1.0),
    test_cfg=dict(
        score_threshold=0.1,
        max_candidates=500,
        limit=[-80, -80, -10, 80, 80, 10],
        nms_threshold=[0.75, 0.6, 0.55],  # Car, Pedestrian, Cyclist
        nms_pre=4096,
        nms_post=500,
        rectifier=[0.68, 0.71, 0.65],
    ),
)
del norm, point_cloud_range, voxel_size
