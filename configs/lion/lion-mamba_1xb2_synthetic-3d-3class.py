"""LION with Mamba on the synthetic street scenes, small enough for two cores.

visionrnn create-data synthetic --out data/synthetic --train 60 --val 20
visionrnn train lion-mamba_1xb2_synthetic-3d-3class
"""

_base_ = [
    "../_base_/datasets/synthetic-3d-3class.py",
    "../_base_/models/anchor_head_3d-3class.py",
    "../_base_/schedules/one-cycle.py",
    "../_base_/default_runtime.py",
]

norm_cfg = dict(type="BN", eps=1e-3, momentum=0.1)
model = dict(
    type="PointVoxelNet",
    data_preprocessor=dict(type="Det3DDataPreprocessor"),
    voxel_encoder=dict(
        type="PointVFE",
        in_channels=4,
        feat_channels=[32, 32],
        point_cloud_range=[0, -25.6, -3, 51.2, 25.6, 1],
        voxel_size=[0.32, 0.32, 0.5],
    ),
    middle_encoder=dict(
        type="LIONEncoder",
        dim=32,
        operator=dict(type="mamba", d_state=8),
        stages=[dict(window=[13, 13, 8], group_size=512), dict(window=[13, 13, 4], group_size=256)],
        out_group_size=256,
        generate_ratio=0.2,
    ),
    backbone=dict(type="SECOND", in_channels=64, layer_nums=[2, 3], layer_strides=[1, 2], out_channels=[64, 128], norm_cfg=norm_cfg),
    neck=dict(
        type="SECONDFPN",
        in_channels=[64, 128],
        upsample_strides=[1, 2],
        out_channels=[64, 64],
        norm_cfg=norm_cfg,
    ),
    bbox_head=dict(in_channels=128, feat_channels=128),
)
train_cfg = dict(max_epochs=20, val_interval=5)
