"""The nearest 25.6 m of the synthetic street scenes, for studies that train many models: a quarter of the area, loaded in one process.

Make: visionrnn create-data synthetic --out data/synthetic
Elsewhere: --cfg-options data_root=DIR

Objects beyond the range need not be found: the metric ignores them.
"""

_base_ = "./synthetic-3d-3class.py"

data_root = "data/synthetic"
point_cloud_range = [0, -12.8, -3, 25.6, 12.8, 1]
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
        type="PasteObjects",
        data_root=data_root,
        classes=("Car", "Pedestrian", "Cyclist"),
        groups=dict(Car=4, Pedestrian=4, Cyclist=4),
        min_points=5,
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

train_dataloader = dict(num_workers=0, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(num_workers=0, dataset=dict(pipeline=test_pipeline))
val_evaluator = dict(point_cloud_range=point_cloud_range)
test_evaluator = dict(point_cloud_range=point_cloud_range)
