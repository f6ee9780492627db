"""PointPillars (Lang et al. 2019) on the nearest 25.6 m of the synthetic street scenes.

    visionrnn create-data synthetic --out data/synthetic --train 400 --val 150
    visionrnn train pointpillars_1xb2_synthetic-near-3d-3class

Pillars of 0.16 m as on KITTI; bird's-eye net and head are those of the LION config but for the stride that brings 160 pillars to 80 cells.
"""

_base_ = [
    "../_base_/datasets/synthetic-near-3d-3class.py",
    "../_base_/models/near_3d-3class.py",
    "../_base_/schedules/one-cycle.py",
    "../_base_/default_runtime.py",
]

voxel_size = [0.16, 0.16, 4]
pillar_range = [0, -12.8, -3, 25.6, 12.8, 1]
model = dict(
    type="HardVoxelNet",
    data_preprocessor=dict(
        voxel=True,
        voxel_layer=dict(max_num_points=32, point_cloud_range=pillar_range, voxel_size=voxel_size, max_voxels=(12000, 20000)),
    ),
    voxel_encoder=dict(
        type="PillarFeatureNet",
        in_channels=4,
        feat_channels=[32],
        with_distance=False,
        voxel_size=voxel_size,
        point_cloud_range=pillar_range,
        norm_cfg=dict(type="BN1d", eps=1e-3, momentum=0.1),
    ),
    middle_encoder=dict(type="PointPillarsScatter", in_channels=32, output_shape=[160, 160]),
    backbone=dict(in_channels=32, layer_strides=[2, 2]),
)
del voxel_size, pillar_range
train_cfg = dict(max_epochs=6, val_interval=6)
