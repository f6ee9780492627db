"""SECOND (Yan et al. 2018) on the nearest 25.6 m of the synthetic street scenes; bird's-eye net and head are those of the LION config.

visionrnn create-data synthetic --out data/synthetic --train 400 --val 150
visionrnn train second_1xb2_synthetic-near-3d-3class
"""

_base_ = [
    "../_base_/datasets/synthetic-near-3d-3class.py",
    "../_base_/models/near_3d-3class.py",
    "../_base_/schedules/one-cycle.py",
    "../_base_/default_runtime.py",
]

model = dict(
    type="HardVoxelNet",
    data_preprocessor=dict(
        voxel=True,
        voxel_layer=dict(
            max_num_points=5,
            point_cloud_range=[0, -12.8, -3, 25.6, 12.8, 1],
            voxel_size=[0.08, 0.08, 0.2],
            max_voxels=(16000, 40000),
        ),
    ),
    voxel_encoder=dict(type="HardSimpleVFE"),
    middle_encoder=dict(
        type="SparseEncoder",
        in_channels=4,
        sparse_shape=[21, 320, 320],
        order=("conv", "norm", "act"),
        norm_cfg=dict(type="BN1d", eps=1e-3, momentum=0.1),
        encoder_channels=((16,), (32, 32, 32), (64, 64, 64)),
        encoder_paddings=((1,), (1, 1, 1), ((0, 1, 1), 1, 1)),
        output_channels=64,
    ),
    backbone=dict(in_channels=128),
)
train_cfg = dict(max_epochs=6, val_interval=6)
