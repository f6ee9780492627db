"""Argoverse 2, 26 classes within 200 m, augmented as LION's Argoverse 2 recipe (LION, arXiv 2407.18232).

Elsewhere: --cfg-options data_root=DIR

Expected are argoverse2_infos_{train,val}.pkl in mmdet3d's layout (version 2; see ``LidarDataset``), with lidar paths below data_root,
argoverse2_dbinfos_train.pkl and argoverse2_gt_database as ``PasteObjects`` reads them: x front, y left, z up; boxes of the infos with the
geometric centre, those of the database with the bottom centre, as mmdet3d's have; num_lidar_pts is the data set's num_interior_pts. No
converter from Argoverse's own files comes with this version.

Differences from the recipe: points are not shuffled for testing, since voxels do not depend on their order. Scores are LidarAP's,
which is not the benchmark's metric (mAP and CDS by distance of centres).
"""

_base_ = "./lidar.py"

data_root = "data/argoverse2"
class_names = [
    "Regular_vehicle",
    "Pedestrian",
    "Bicyclist",
    "Motorcyclist",
    "Wheeled_rider",
    "Bollard",
    "Construction_cone",
    "Sign",
    "Construction_barrel",
    "Stop_sign",
    "Mobile_pedestrian_crossing_sign",
    "Large_vehicle",
    "Bus",
    "Box_truck",
    "Truck",
    "Vehicular_trailer",
    "Truck_cab",
    "School_bus",
    "Articulated_bus",
    "Message_board_trailer",
    "Bicycle",
    "Motorcycle",
    "Wheeled_device",
    "Wheelchair",
    "Stroller",
    "Dog",
]
metainfo = dict(classes=class_names)
point_cloud_range = [-200, -200, -4, 200, 200, 4]

# One of each class of large or frequent things, Large_vehicle to Articulated_bus among them, two of every other.
single = ["Regular_vehicle", "Mobile_pedestrian_crossing_sign", *class_names[11:19]]
groups = {name: 1 if name in single else 2 for name in class_names}
train_pipeline = [
    {{_base_.steps.load}},
    {{_base_.steps.annotations}},
    dict(
        type="PasteObjects",
        data_root=data_root,
        info_path="argoverse2_dbinfos_train.pkl",
        classes=tuple(class_names),
        groups=groups,
        min_points=5,
        limit_whole_scene=True,
    ),
    {{_base_.steps.flip}},
    {{_base_.steps.turn_and_shift}},
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

argoverse = dict(data_root=data_root, data_prefix=dict(pts=""), metainfo=metainfo, box_origin="gravity", min_lidar_points=1)
train_dataloader = dict(dataset=dict(ann_file="argoverse2_infos_train.pkl", pipeline=train_pipeline, **argoverse))
val_dataloader = dict(dataset=dict(ann_file="argoverse2_infos_val.pkl", pipeline=test_pipeline, **argoverse))
test_dataloader = val_dataloader
val_evaluator = dict(type="LidarAP", min_overlap=0.3, point_cloud_range=point_cloud_range)
test_evaluator = val_evaluator
del single, groups, argoverse
