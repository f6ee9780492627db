"""Anchor head for Car, Pedestrian and Cyclist on the range x 0…51.2, y −25.6…25.6, z −3…1 m; a config sets ``in_channels`` to its neck's.

Anchors and thresholds are those of the KITTI detectors; the heights (−1.78, −0.6) are of the anchors' bottoms.
"""

overlap = dict(type="BboxOverlapsNearest3D")
car = dict(type="Max3DIoUAssigner", iou_calculator=overlap, pos_iou_thr=0.6, neg_iou_thr=0.45, min_pos_iou=0.45, ignore_iof_thr=-1)
small = dict(type="Max3DIoUAssigner", iou_calculator=overlap, pos_iou_thr=0.5, neg_iou_thr=0.35, min_pos_iou=0.35, ignore_iof_thr=-1)

model = dict(
    bbox_head=dict(
        type="AnchorHead3D",
        num_classes=3,
        in_channels=128,
        feat_channels=128,
        use_direction_classifier=True,
        assign_per_class=True,
        anchor_generator=dict(
            type="AlignedAnchor3DRangeGenerator",
            ranges=[[0, -25.6, -1.78, 51.2, 25.6, -1.78], [0, -25.6, -0.6, 51.2, 25.6, -0.6], [0, -25.6, -0.6, 51.2, 25.6, -0.6]],
            sizes=[[3.9, 1.6, 1.56], [0.8, 0.6, 1.73], [1.76, 0.6, 1.73]],
            rotations=[0, 1.57],
            reshape_out=False,
        ),
        diff_rad_by_sin=True,
        dir_offset=0.7854,
        dir_limit_offset=0,
        bbox_coder=dict(type="DeltaXYZWLHRBBoxCoder"),
        loss_cls=dict(type="mmdet.FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="mmdet.SmoothL1Loss", beta=1.0 / 9.0, loss_weight=2.0),
        loss_dir=dict(type="mmdet.CrossEntropyLoss", use_sigmoid=False, loss_weight=0.2),
    ),
    train_cfg=dict(assigner=[car, small, small], allowed_border=0, pos_weight=-1, debug=False),
    test_cfg=dict(use_rotate_nms=True, nms_across_levels=False, nms_thr=0.01, score_thr=0.1, min_bbox_size=0, nms_pre=512, max_num=100),
)
del overlap, car, small
