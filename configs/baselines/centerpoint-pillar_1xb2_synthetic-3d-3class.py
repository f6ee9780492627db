"""CenterPoint (Yin et al. 2021) on pillars, on the synthetic street scenes, small enough for two cores.

    visionrnn create-data synthetic --out data/synthetic
    visionrnn train configs/baselines/centerpoint-pillar_1xb2_synthetic-3d-3class.py

Cost: 1.1 s of one core for a step of two frames. Score: on a set of only 16 training frames, each twice an epoch, and 8 validation frames
(create-data synthetic --train 16 --val 8 --seed 0), 20 epochs in 355 s of processor time give 3D AP (R40, moderate) of Car / Pedestrian /
Cyclist 3.8 / 16.8 / 17.0, synthetic. It shows that training works, nothing more.

mmdet3d's head expects velocities: HardCenterPoint gives it zeros, and their loss has no weight.
"""

_base_ = [
    "../_base_/datasets/synthetic-3d-3class.py",
    "../_base_/schedules/one-cycle.py",
    "../_base_/default_runtime.py",
]

voxel_size = [0.2, 0.2, 4]
point_cloud_range = [0, -25.6, -3, 51.2, 25.6, 1]
stride = 2  # pillars per cell of the head
model = dict(
    type="HardCenterPoint",
    data_preprocessor=dict(
        type="Det3DDataPreprocessor",
        voxel=True,
        voxel_layer=dict(max_num_points=20, point_cloud_range=point_cloud_range, voxel_size=voxel_size, max_voxels=(12000, 20000)),
    ),
    pts_voxel_encoder=dict(
        type="PillarFeatureNet",
        in_channels=4,
        feat_channels=[32],
        with_distance=False,
        voxel_size=voxel_size,
        point_cloud_range=point_cloud_range,
        norm_cfg=dict(type="BN1d", eps=1e-3, momentum=0.1),
        legacy=False,
    ),
    pts_middle_encoder=dict(type="PointPillarsScatter", in_channels=32, output_shape=[256, 256]),
    pts_backbone=dict(
        type="SECOND",
        in_channels=32,
        layer_nums=[2, 3, 3],
        layer_strides=[2, 2, 2],
        out_channels=[64, 128, 128],
        norm_cfg=dict(type="BN", eps=1e-3, momentum=0.1),
    ),
    pts_neck=dict(
        type="SECONDFPN",
        in_channels=[64, 128, 128],
        upsample_strides=[1, 2, 4],
        out_channels=[64, 64, 64],
        norm_cfg=dict(type="BN", eps=1e-3, momentum=0.1),
    ),
    pts_bbox_head=dict(
        type="CenterHead",
        in_channels=192,
        tasks=[dict(num_class=1, class_names=[name]) for name in ("Car", "Pedestrian", "Cyclist")],
        common_heads=dict(reg=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2), vel=(2, 2)),
        share_conv_channel=32,
        separate_head=dict(type="SeparateHead", init_bias=-2.19, final_kernel=3, head_conv=32),
        bbox_coder=dict(
            type="CenterPointBBoxCoder",
            pc_range=point_cloud_range[:2],
            post_center_range=[-5, -30, -5, 56, 30, 3],
            max_num=200,
            score_threshold=0.1,
            out_size_factor=stride,
            voxel_size=voxel_size[:2],
            code_size=9,
        ),
        loss_cls=dict(type="mmdet.GaussianFocalLoss", reduction="mean"),
        loss_bbox=dict(type="mmdet.L1Loss", reduction="mean", loss_weight=0.25),
        norm_bbox=True,
    ),
    train_cfg=dict(
        pts=dict(
            point_cloud_range=point_cloud_range,
            grid_size=[256, 256, 1],
            voxel_size=voxel_size,
            out_size_factor=stride,
            dense_reg=1,
            gaussian_overlap=0.1,
            max_objs=200,
            min_radius=2,
            code_weights=[1, 1, 1, 1, 1, 1, 1, 1, 0, 0],
        )
    ),
    test_cfg=dict(
        pts=dict(
            post_center_limit_range=[-5, -30, -5, 56, 30, 3],
            score_threshold=0.1,
            nms_type="rotate",
            pre_max_size=512,
            post_max_size=100,
            nms_thr=0.2,
        )
    ),
)

train_cfg = dict(max_epochs=20, val_interval=5)
