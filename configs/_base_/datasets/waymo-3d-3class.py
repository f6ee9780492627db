"""Waymo Open Dataset, one frame, Car (Waymo's Vehicle), Pedestrian and Cyclist, augmented as LION's Waymo recipe (arXiv 2407.18232).

Elsewhere: --cfg-options data_root=DIR

Expected are the files of mmdet3d 1.4's ``create_data.py waymo``: waymo_infos_{train,val}.pkl, training/velodyne (6 values per point:
x, y, z, intensity, elongation and one that is not used), waymo_dbinfos_train.pkl and waymo_gt_database. Boxes have the bottom centre.

Differences from the recipe: points are not shuffled for testing, since voxels do not depend on their order. Scores are LidarAP's, which
is not the benchmark's metric (mAP and mAPH with levels of difficulty).
"""

_base_ = "./lidar.py"

data_root = "data/waymo/kitti_format"
class_names = ["Car", "Pedestrian", "Cyclist"]
metainfo = dict(classes=class_names)
point_cloud_range = [-75.52, -75.52, -2, 75.52, 75.52, 4]

load = dict(type="LoadPointsChecked", coord_type="LIDAR", load_dim=6, use_dim=5, norm_intensity=True, norm_elongation=True)
train_pipeline = [
    load,
    {{_base_.steps.annotations}},
    dict(
        type="PasteObjects",
        data_root=data_root,
        info_path="waymo_dbinfos_train.pkl",
        classes=tuple(class_names),
        groups=dict(Car=15, Pedestrian=10, Cyclist=10),
        min_points=dict(Car=5, Pedestrian=10, Cyclist=10),
        limit_whole_scene=True,
        num_features=6,
        tanh_columns=(3, 4),
    ),
    {{_base_.steps.flip}},
    {{_base_.steps.turn_and_shift}},
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="ObjectRangeFilter3D", point_cloud_range=point_cloud_range),
    {{_base_.steps.shuffle}},
    {{_base_.steps.pack}},
]
test_pipeline = [
    load,
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
    {{_base_.steps.pack_test}},
]

waymo = dict(data_root=data_root, data_prefix=dict(pts="training/velodyne"), metainfo=metainfo, box_origin="bottom", min_lidar_points=1)
train_dataloader = dict(dataset=dict(ann_file="waymo_infos_train.pkl", pipeline=train_pipeline, **waymo))
val_dataloader = dict(dataset=dict(ann_file="waymo_infos_val.pkl", pipeline=test_pipeline, **waymo))
test_dataloader = val_dataloader
del load, waymo
val_evaluator = dict(type="LidarAP", min_overlap=dict(Car=0.7, Pedestrian=0.5, Cyclist=0.5), point_cloud_range=point_cloud_range)
test_evaluator = val_evaluator
