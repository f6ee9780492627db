"""LION-Mamba on the cars of a single KITTI frame: shows in minutes, on a CPU, that a machine and a data folder are right.

    visionrnn create-data kitti --root DIR
    visionrnn train lion-mamba_1xb1_one-frame-3d-car --cfg-options data_root=DIR
    CHECKPOINT=$(cat work_dirs/lion-mamba_1xb1_one-frame-3d-car/last_checkpoint)
    visionrnn detect lion-mamba_1xb1_one-frame-3d-car $CHECKPOINT DIR/training/velodyne/NNNNNN.bin --out-dir found

Voxel grid and LION are those of the KITTI config; the bird's-eye net has 64 channels and the head half the resolution, since the
official ones alone take 11 s an iteration on two cores. 7 epochs of 10 iterations, without augmentation.
"""

_base_ = [
    "../_base_/datasets/kitti-3d-3class.py",
    "../_base_/models/lion_kitti.py",
    "../_base_/schedules/one-cycle.py",
    "../_base_/default_runtime.py",
]

class_names = ["Car"]
metainfo = dict(classes=class_names)
point_cloud_range = [0, -40, -3, 70.4, 40, 1]
norm_cfg = dict(type="BN", eps=1e-3, momentum=0.1)
overlap = dict(type="BboxOverlapsNearest3D")
car = dict(type="Max3DIoUAssigner", iou_calculator=overlap, pos_iou_thr=0.6, neg_iou_thr=0.45, min_pos_iou=0.45, ignore_iof_thr=-1)

model = dict(
    voxel_encoder=dict(feat_channels=[64, 64]),
    middle_encoder=dict(drop_path=0.0),
    backbone=dict(layer_nums=[2, 2], layer_strides=[2, 2], out_channels=[64, 64], norm_cfg=norm_cfg),
    neck=dict(in_channels=[64, 64], out_channels=[64, 64], norm_cfg=norm_cfg),
    bbox_head=dict(
        num_classes=1,
        in_channels=128,
        feat_channels=128,
        anchor_generator=dict(ranges=[[0, -40, -1.78, 70.4, 40, -1.78]], sizes=[[3.9, 1.6, 1.56]]),
    ),
    train_cfg=dict(assigner=[car]),
    test_cfg=dict(nms_pre=512, max_num=100),
)
del overlap, car

train_pipeline = [
    dict(type="LoadPointsChecked", coord_type="LIDAR", load_dim=4, use_dim=4),
    dict(type="LoadAnnotations3D", with_bbox_3d=True, with_label_3d=True),
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="ObjectRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="Pack3DDetInputs", keys=["points", "gt_bboxes_3d", "gt_labels_3d"], meta_keys={{_base_.meta_keys}}),
]
train_dataloader = dict(batch_size=1, num_workers=1, dataset=dict(metainfo=metainfo, times=10, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(metainfo=metainfo, ann_file="kitti_infos_train.pkl"))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file="data/kitti/kitti_infos_train.pkl")
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=7, val_interval=7)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
param_scheduler = [  # so few iterations leave little time to warm up
    dict(type="PhaseCosineLR", phase=(0.0, 0.1), eta_min_ratio=10, by_epoch=True, convert_to_iter_based=True),
    dict(type="PhaseCosineLR", phase=(0.1, 1.0), eta_min_ratio=1e-4, by_epoch=True, convert_to_iter_based=True),
]
