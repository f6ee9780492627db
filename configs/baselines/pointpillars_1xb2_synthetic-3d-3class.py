"""PointPillars (Lang et al. 2019) on the synthetic street scenes, small enough for two cores: the baseline of the LION configs.

visionrnn create-data synthetic --out data/synthetic
visionrnn train configs/baselines/pointpillars_1xb2_synthetic-3d-3class.py

Cost: 0.8 s of one core for a step of two frames. Score: on a set of only 16 training frames, each twice an epoch, and 8 validation frames
(create-data synthetic --train 16 --val 8 --seed 0), 20 epochs in 267 s of processor time give 3D AP (R40, moderate) of Car / Pedestrian /
Cyclist 4.2 / 19.7 / 5.7, synthetic. It shows that training works, nothing more.
"""

_base_ = [
    "../_base_/datasets/synthetic-3d-3class.py",
    "../_base_/models/anchor_head_3d-3class.py",
    "../_base_/schedules/one-cycle.py",
    "../_base_/default_runtime.py",
]

voxel_size = [0.2, 0.2, 4]
point_cloud_range = [0, -25.6, -3, 51.2, 25.6, 1]
model = dict(
    type="HardVoxelNet",
    data_preprocessor=dict(
        type="Det3DDataPreprocessor",
        voxel=True,
        voxel_layer=dict(max_num_points=32, point_cloud_range=point_cloud_range, voxel_size=voxel_size, max_voxels=(12000, 20000)),
    ),
    voxel_encoder=dict(
        type="PillarFeatureNet",
        in_channels=4,
        feat_channels=[32],
        with_distance=False,
        voxel_size=voxel_size,
        point_cloud_range=point_cloud_range,
        norm_cfg=dict(type="BN1d", eps=1e-3, momentum=0.1),
    ),
    middle_encoder=dict(type="PointPillarsScatter", in_channels=32, output_shape=[256, 256]),
    backbone=dict(
        type="SECOND",
        in_channels=32,
        layer_nums=[2, 3, 3],
        layer_strides=[2, 2, 2],
        out_channels=[64, 128, 128],
        norm_cfg=dict(type="BN", eps=1e-3, momentum=0.1),
    ),
    neck=dict(
        type="SECONDFPN",
        in_channels=[64, 128, 128],
        upsample_strides=[1, 2, 4],
        out_channels=[64, 64, 64],
        norm_cfg=dict(type="BN", eps=1e-3, momentum=0.1),
    ),
    bbox_head=dict(in_channels=192, feat_channels=192),
)

train_cfg = dict(max_epochs=20, val_interval=5)
