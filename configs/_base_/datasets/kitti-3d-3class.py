"""KITTI, Car, Pedestrian and Cyclist, augmented as LION's KITTI recipe (LION, arXiv 2407.18232).

Prepare: visionrnn create-data kitti --root data/kitti
Elsewhere: --cfg-options data_root=DIR

Difference from the recipe: objects are pasted at the height they had in their own frame, since KITTI has no ground planes and those
the authors used are not part of the data set.
"""

_base_ = "./lidar.py"

data_root = "data/kitti"
class_names = ["Car", "Pedestrian", "Cyclist"]
metainfo = dict(classes=class_names)
point_cloud_range = [0, -40, -3, 70.4, 40, 1]

train_pipeline = [
    {{_base_.steps.load}},
    {{_base_.steps.annotations}},
    dict(
        type="PasteObjects", data_root=data_root, classes=tuple(class_names), groups=dict(Car=15, Pedestrian=10, Cyclist=10), min_points=5
    ),
    {{_base_.steps.flip_y}},
    {{_base_.steps.turn}},
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="ObjectRangeFilter3D", point_cloud_range=point_cloud_range),
    {{_base_.steps.shuffle}},
    {{_base_.steps.pack}},
]
test_pipeline = [
    {{_base_.steps.load}},
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
    {{_base_.steps.pack_test}},
]

kitti = dict(type="KittiLidarDataset", data_root=data_root, data_prefix=dict(pts="training/velodyne_reduced"), metainfo=metainfo)
train_dataloader = dict(dataset=dict(ann_file="kitti_infos_train.pkl", pipeline=train_pipeline, **kitti))
val_dataloader = dict(dataset=dict(ann_file="kitti_infos_val.pkl", pipeline=test_pipeline, **kitti))
test_dataloader = val_dataloader
del kitti
val_evaluator = dict(type="KittiAP", ann_file=data_root + "/kitti_infos_val.pkl")
test_evaluator = val_evaluator
