"""LION with 64 channels on KITTI's grid, SECOND's bird's-eye net and an anchor head, as the authors configured it."""

_base_ = "./anchor_head_3d-3class.py"

point_cloud_range = [0, -40, -3, 70.4, 40, 1]
norm = dict(type="BN", eps=1e-3, momentum=0.01)

model = dict(
    type="PointVoxelNet",
    data_preprocessor=dict(type="Det3DDataPreprocessor"),
    voxel_encoder=dict(
        type="PointVFE",
        in_channels=4,
        feat_channels=[64, 64],
        point_cloud_range=point_cloud_range,
        voxel_size=[0.2, 0.2, 0.125],
    ),
    middle_encoder=dict(
        type="LIONEncoder",
        dim=64,
        operator=dict(type="mamba", d_state=16, d_conv=4, expand=2),
        stages=[
            dict(window=[13, 13, 32], group_size=4096),
            dict(window=[13, 13, 16], group_size=2048),
            dict(window=[13, 13, 8], group_size=1024),
            dict(window=[13, 13, 4], group_size=512),
        ],
        out_group_size=256,
        drop_path=0.2,
        generate_ratio=0.2,
    ),
    backbone=dict(type="SECOND", in_channels=128, layer_nums=[5, 5], layer_strides=[1, 2], out_channels=[128, 256], norm_cfg=norm),
    neck=dict(
        type="SECONDFPN",
        in_channels=[128, 256],
        upsample_strides=[1, 2],
        out_channels=[256, 256],
        norm_cfg=norm,
        use_conv_for_no_stride=False,
    ),
    bbox_head=dict(
        in_channels=512,
        feat_channels=512,
        anchor_generator=dict(
            type="Anchor3DRangeGenerator",
            ranges=[[0, -40, -1.78, 70.4, 40, -1.78], [0, -40, -0.6, 70.4, 40, -0.6], [0, -40, -0.6, 70.4, 40, -0.6]],
        ),
        dir_offset=0.78539,
    ),
    test_cfg=dict(class_agnostic=True, nms_pre=4096, max_num=500),
)
del norm, point_cloud_range
