"""ONCE, five classes, augmented as LION's ONCE recipe (LION, arXiv 2407.18232).

Elsewhere: --cfg-options data_root=DIR

Expected are once_infos_{train,val}.pkl in mmdet3d's layout (version 2; see ``LidarDataset``), with lidar paths below data_root,
once_dbinfos_train.pkl and once_gt_database as ``PasteObjects`` reads them: x front, y left, z up; boxes of the infos with the geometric
centre, those of the database with the bottom centre, as mmdet3d's have. No converter from ONCE's own files comes with this version.

Scores are LidarAP's, which is not the benchmark's metric: ONCE joins the three kinds of vehicle and compares headings.
"""

_base_ = "./lidar.py"

data_root = "data/once"
class_names = ["Car", "Bus", "Truck", "Pedestrian", "Cyclist"]
metainfo = dict(classes=class_names)
point_cloud_range = [-75.2, -75.2, -5, 75.2, 75.2, 3]

train_pipeline = [
    {{_base_.steps.load}},
    {{_base_.steps.annotations}},
    dict(
        type="PasteObjects",
        data_root=data_root,
        info_path="once_dbinfos_train.pkl",
        classes=tuple(class_names),
        groups=dict(Car=1, Bus=4, Truck=3, Pedestrian=2, Cyclist=2),
        min_points=5,
        limit_whole_scene=True,
    ),
    {{_base_.steps.flip}},
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

once = dict(data_root=data_root, data_prefix=dict(pts=""), metainfo=metainfo, box_origin="gravity")
train_dataloader = dict(dataset=dict(ann_file="once_infos_train.pkl", pipeline=train_pipeline, **once))
val_dataloader = dict(dataset=dict(ann_file="once_infos_val.pkl", pipeline=test_pipeline, **once))
test_dataloader = val_dataloader
del once
val_evaluator = dict(
    type="LidarAP",
    min_overlap=dict(Car=0.7, Bus=0.7, Truck=0.7, Pedestrian=0.3, Cyclist=0.5),
    point_cloud_range=point_cloud_range,
)
test_evaluator = val_evaluator
