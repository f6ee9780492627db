"""LION on the nearest 25.6 m of the synthetic street scenes; the operator is one word: mamba, rwkv, retnet, xlstm or ttt.

    visionrnn create-data synthetic --out data/synthetic --train 400 --val 150
    visionrnn train lion-mamba_1xb2_synthetic-near-3d-3class --cfg-options model.middle_encoder.operator.type=retnet

``tools/study.py`` trains all of them, and the baselines of the same name, at equal cost.
"""

_base_ = [
    "../_base_/datasets/synthetic-near-3d-3class.py",
    "../_base_/models/near_3d-3class.py",
    "../_base_/schedules/one-cycle.py",
    "../_base_/default_runtime.py",
]

model = dict(
    type="PointVoxelNet",
    voxel_encoder=dict(
        type="PointVFE",
        in_channels=4,
        feat_channels=[32, 32],
        point_cloud_range=[0, -12.8, -3, 25.6, 12.8, 1],
        voxel_size=[0.32, 0.32, 0.5],
    ),
    middle_encoder=dict(
        type="LIONEncoder",
        dim=32,
        operator=dict(type="mamba"),
        stages=[dict(window=[13, 13, 8], group_size=1024), dict(window=[13, 13, 4], group_size=512)],
        out_group_size=256,
        generate_ratio=0.2,
    ),
    backbone=dict(in_channels=64),
)
train_cfg = dict(max_epochs=6, val_interval=6)
