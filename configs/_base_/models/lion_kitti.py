"""LION with 64 channels on KITTI's grid, SECOND's bird's-eye net and an anchor head, as the authors configured it."""

point_cloud_range = [0, -40, -3, 70.4, 40, 1]
overlap = dict(type="BboxOverlapsNearest3D")
car = dict(type="Max3DIoUAssigner", iou_calculator=overlap, pos_iou_thr=0.6, neg_iou_thr=0.45, min_pos_iou=0.45, ignore_iof_thr=-1)
small = dict(type="Max3DIoUAssigner", iou_calculator=overlap, pos_iou_thr=0.5, neg_iou_thr=0.35, min_pos_iou=0.35, ignore_iof_thr=-1)
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
        type="AnchorHead3D",
        num_classes=3,
        in_channels=512,
        feat_channels=512,
        use_direction_classifier=True,
        assign_per_class=True,
        anchor_generator=dict(
            type="Anchor3DRangeGenerator",
            ranges=[[0, -40, -1.78, 70.4, 40, -1.78], [0, -40, -0.6, 70.4, 40, -0.6], [0, -40, -0.6, 70.4, 40, -0.6]],
            sizes=[[3.9, 1.6, 1.56], [0.8, 0.6, 1.73], [1.76, 0.6, 1.73]],
            rotations=[0, 1.57],
            reshape_out=False,
        ),
        diff_rad_by_sin=True,
        dir_offset=0.78539,
        dir_limit_offset=0,
        bbox_coder=dict(type="DeltaXYZWLHRBBoxCoder"),
        loss_cls=dict(type="mmdet.FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="mmdet.SmoothL1Loss", beta=1.0 / 9.0, loss_weight=2.0),
        loss_dir=dict(type="mmdet.CrossEntropyLoss", use_sigmoid=False, loss_weight=0.2),
    ),
    train_cfg=dict(assigner=[car, small, small], allowed_border=0, pos_weight=-1, debug=False),
    test_cfg=dict(use_rotate_nms=True, nms_across_levels=False, nms_thr=0.01, score_thr=0.1, min_bbox_size=0, nms_pre=4096, max_num=500),
)
del overlap, car, small, norm, point_cloud_range
