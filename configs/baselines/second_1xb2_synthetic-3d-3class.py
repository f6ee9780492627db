"""SECOND (Yan et al. 2018) on the synthetic street scenes, small enough for two cores: the baseline of the LION configs.

visionrnn create-data synthetic --out data/synthetic
visionrnn train configs/baselines/second_1xb2_synthetic-3d-3class.py

Cost: 0.9 s of one core for a step of two frames. Score: on a set of only 16 training frames, each twice an epoch, and 8 validation frames
(create-data synthetic --train 16 --val 8 --seed 0), 20 epochs in 296 s of processor time give 3D AP (R40, moderate) of Car / Pedestrian /
Cyclist 23.8 / 23.9 / 8.7, synthetic. It shows that training works, nothing more.
"""

_base_ = [
    "../_base_/datasets/synthetic-3d-3class.py",
    "../_base_/models/anchor_head_3d-3class.py",
    "../_base_/schedules/one-cycle.py",
    "../_base_/default_runtime.py",
]

model = dict(
    type="HardVoxelNet",
    data_preprocessor=dict(
        type="Det3DDataPreprocessor",
        voxel=True,
        voxel_layer=dict(
            max_num_points=5,
            point_cloud_range=[0, -25.6, -3, 51.2, 25.6, 1],
            voxel_size=[0.1, 0.1, 0.2],
            max_voxels=(16000, 40000),
        ),
    ),
    voxel_encoder=dict(type="HardSimpleVFE"),
    middle_encoder=dict(
        type="SparseEncoder",
        in_channels=4,
        sparse_shape=[21, 512, 512],
        order=("conv", "norm", "act"),
        norm_cfg=dict(type="BN1d", eps=1e-3, momentum=0.1),
        encoder_channels=((16,), (32, 32, 32), (64, 64, 64)),
        encoder_paddings=((1,), (1, 1, 1), ((0, 1, 1), 1, 1)),
        output_channels=64,
    ),
    backbone=dict(
        type="SECOND",
        in_channels=128,
        layer_nums=[2, 3],
        layer_strides=[1, 2],
        out_channels=[64, 128],
        norm_cfg=dict(type="BN", eps=1e-3, momentum=0.1),
    ),
    neck=dict(
        type="SECONDFPN",
        in_channels=[64, 128],
        upsample_strides=[1, 2],
        out_channels=[64, 64],
        norm_cfg=dict(type="BN", eps=1e-3, momentum=0.1),
    ),
    bbox_head=dict(in_channels=128, feat_channels=128),
)

train_cfg = dict(max_epochs=20, val_interval=5)
