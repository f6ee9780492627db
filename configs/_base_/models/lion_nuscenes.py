"""LION with 128 channels on nuScenes' grid, residual bird's-eye net and TransFusion head, as the authors configured it.

What ``LIONTransFusionHead`` does not get here are its defaults, which are the authors' settings.
"""

_base_ = "./lion.py"

point_cloud_range = [-54, -54, -5, 54, 54, 3]
voxel_size = [0.3, 0.3, 0.25]
norm = dict(type="BN", eps=1e-3, momentum=0.01)

model = dict(
    voxel_encoder=dict(in_channels=5, point_cloud_range=point_cloud_range, voxel_size=voxel_size),
    backbone=dict(
        type="ResSECOND", in_channels=256, layer_nums=[1, 2, 2], layer_strides=[1, 2, 2], out_channels=[128, 128, 256], norm_cfg=norm
    ),
    neck=dict(
        type="SECONDFPN",
        in_channels=[128, 128, 256],
        upsample_strides=[0.5, 1, 2],
        out_channels=[128, 128, 128],
        norm_cfg=norm,
        use_conv_for_no_stride=False,
    ),
    bbox_head=dict(
        type="LIONTransFusionHead",
        in_channels=384,
        num_classes=10,
        grid=dict(point_cloud_range=point_cloud_range, voxel_size=voxel_size, stride=2),
        num_proposals=200,
        point_classes=[8, 9],  # pedestrian, traffic_cone
    ),
    train_cfg=dict(gaussian_overlap=0.1, min_radius=2, code_weights=[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2]),
    test_cfg=dict(
        score_thr=0.0,
        limit=[-61.2, -61.2, -10, 61.2, 61.2, 10],
        iou_share=0.5,
        nms_classes=[8, 9],
        nms_thr=0.175,
        nms_pre=1000,
        nms_post=100,
    ),
)
del norm, point_cloud_range, voxel_size
