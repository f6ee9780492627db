"""Synthetic street scenes in KITTI's format: Car, Pedestrian and Cyclist in the nearest 51.2 m ahead.

Make: visionrnn create-data synthetic --out data/synthetic
Elsewhere: --cfg-options data_root=DIR
"""

_base_ = "./lidar.py"

data_root = "data/synthetic"
class_names = ["Car", "Pedestrian", "Cyclist"]
metainfo = dict(classes=class_names)
point_cloud_range = [0, -25.6, -3, 51.2, 25.6, 1]

train_pipeline = [
    {{_base_.steps.load}},
    {{_base_.steps.annotations}},
    dict(type="PasteObjects", data_root=data_root, classes=tuple(class_names), groups=dict(Car=4, Pedestrian=4, Cyclist=4), min_points=5),
    {{_base_.steps.flip_y}},
    {{_base_.steps.turn}},
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="ObjectRangeFilter", point_cloud_range=point_cloud_range),
    {{_base_.steps.shuffle}},
    {{_base_.steps.pack}},
]
test_pipeline = [
    {{_base_.steps.load}},
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
    {{_base_.steps.pack_test}},
]

scenes = dict(type="KittiLidarDataset", data_root=data_root, data_prefix=dict(pts="training/velodyne_reduced"), metainfo=metainfo)
train_dataloader = dict(num_workers=2, dataset=dict(ann_file="kitti_infos_train.pkl", pipeline=train_pipeline, **scenes))
val_dataloader = dict(num_workers=2, dataset=dict(ann_file="kitti_infos_val.pkl", pipeline=test_pipeline, **scenes))
test_dataloader = val_dataloader
del scenes
val_evaluator = dict(type="KittiAP", ann_file=data_root + "/kitti_infos_val.pkl")
test_evaluator = val_evaluator
