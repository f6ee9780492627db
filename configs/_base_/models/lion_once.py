"""LION with 128 channels on ONCE's grid, SECOND's bird's-eye net and a centre head, as the authors configured it."""

_base_ = "./lion.py"

point_cloud_range = [-75.2, -75.2, -5, 75.2, 75.2, 3]
voxel_size = [0.4, 0.4, 0.25]
norm = dict(type="BN", eps=1e-3, momentum=0.01)

model = dict(
    voxel_encoder=dict(point_cloud_range=point_cloud_range, voxel_size=voxel_size),
    backbone=dict(type="SECOND", in_channels=256, layer_nums=[5, 5], layer_strides=[1, 2], out_channels=[128, 256], norm_cfg=norm),
    neck=dict(
        type="SECONDFPN",
        in_channels=[128, 256],
        upsample_strides=[1, 2],
        out_channels=[256, 256],
        norm_cfg=norm,
        use_conv_for_no_stride=False,
    ),
    bbox_head=dict(
        type="LIONCenterHead",
        num_classes=5,
        in_channels=512,
        grid=dict(point_cloud_range=point_cloud_range, voxel_size=voxel_size, stride=1),
        feat_channels=64,
        norm_cfg=dict(type="BN"),  # eps and momentum of PyTorch, unlike all other norms here
        conv_bias=True,
    ),
    train_cfg=dict(peaks=dict(overlap=0.1, min_radius=2, max_objects=500), heatmap_weight=1.0, box_weight=1.0),
    test_cfg=dict(
        score_threshold=0.1,
        max_candidates=500,
        limit=point_cloud_range,
        nms_threshold=0.01,  # all classes together
        nms_pre=4096,
        nms_post=500,
    ),
)
del norm, point_cloud_range, voxel_size
