"""KITTI, Car, Pedestrian and Cyclist, augmented as LION's KITTI recipe (LION, arXiv 2407.18232; its ground planes are not used).

Prepare: visionrnn create-data kitti --root data/kitti
Elsewhere: --cfg-options data_root=DIR
"""

dataset_type = "KittiLidarDataset"
data_root = "data/kitti"
class_names = ["Car", "Pedestrian", "Cyclist"]
metainfo = dict(classes=class_names)
point_cloud_range = [0, -40, -3, 70.4, 40, 1]
meta_keys = (
    "sample_idx",
    "lidar_path",
    "num_pts_feats",
    "box_type_3d",
    "box_mode_3d",
    "flip",
    "pcd_horizontal_flip",
    "pcd_scale_factor",
    "pcd_rotation",
    "transformation_3d_flow",
)

train_pipeline = [
    dict(type="LoadPointsChecked", coord_type="LIDAR", load_dim=4, use_dim=4),
    dict(type="LoadAnnotations3D", with_bbox_3d=True, with_label_3d=True),
    dict(
        type="PasteObjects", data_root=data_root, classes=tuple(class_names), groups=dict(Car=15, Pedestrian=10, Cyclist=10), min_points=5
    ),
    dict(type="RandomFlip3D", sync_2d=False, flip_ratio_bev_horizontal=0.5),
    dict(type="GlobalRotScaleTrans", rot_range=[-0.78539816, 0.78539816], scale_ratio_range=[0.95, 1.05]),
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="ObjectRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="PointShuffle"),
    dict(type="Pack3DDetInputs", keys=["points", "gt_bboxes_3d", "gt_labels_3d"], meta_keys=meta_keys),
]
test_pipeline = [
    dict(type="LoadPointsChecked", coord_type="LIDAR", load_dim=4, use_dim=4),
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="Pack3DDetInputs", keys=["points"], meta_keys=meta_keys),
]

train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=False,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="kitti_infos_train.pkl",
        data_prefix=dict(pts="training/velodyne_reduced"),
        pipeline=train_pipeline,
        metainfo=metainfo,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=False,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file="kitti_infos_val.pkl",
        data_prefix=dict(pts="training/velodyne_reduced"),
        pipeline=test_pipeline,
        metainfo=metainfo,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="KittiAP", ann_file=data_root + "/kitti_infos_val.pkl")
test_evaluator = val_evaluator
