"""nuScenes, the key-frame and nine sweeps before it, ten classes in LION's order, augmented as LION's nuScenes recipe (arXiv 2407.18232).

Elsewhere: --cfg-options data_root=DIR

Expected are the files of mmdet3d 1.4's ``create_data.py nuscenes``: nuscenes_infos_{train,val}.pkl, samples and sweeps,
nuscenes_dbinfos_train.pkl and nuscenes_gt_database. Boxes have the geometric centre and velocities, which may be unknown (NaN). The fifth
value of a point is its age in seconds. The order of the classes matters: the head treats the last two, pedestrian and traffic_cone, apart.

Differences from the recipe: points are not shuffled for testing, since voxels do not depend on their order. The database made by mmdet3d's
tool holds points of sweeps placed a little wrong (see ``LoadPointsOfSweeps``). Scores are LidarAP's, which is not the benchmark's
metric (NDS and mAP by distance of centres).
"""

_base_ = "./lidar.py"

data_root = "data/nuscenes"
class_names = [
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
]
metainfo = dict(classes=class_names)
point_cloud_range = [-54, -54, -5, 54, 54, 3]

load = dict(type="LoadPointsChecked", coord_type="LIDAR", load_dim=5, use_dim=5)
sweeps = dict(type="LoadPointsOfSweeps", sweeps_num=9, load_dim=5, close=1.0)
train_pipeline = [
    load,
    sweeps,
    {{_base_.steps.annotations}},
    dict(
        type="PasteObjects",
        data_root=data_root,
        info_path="nuscenes_dbinfos_train.pkl",
        classes=tuple(class_names),
        groups=dict(
            car=2,
            truck=3,
            construction_vehicle=7,
            bus=4,
            trailer=6,
            barrier=2,
            motorcycle=6,
            bicycle=6,
            pedestrian=2,
            traffic_cone=2,
        ),
        min_points=5,
        limit_whole_scene=True,
        num_features=5,
    ),
    {{_base_.steps.flip}},
    dict(
        type="GlobalRotScaleTrans",
        rot_range=[-0.78539816, 0.78539816],
        scale_ratio_range=[0.9, 1.1],
        translation_std=[0.5, 0.5, 0.5],
    ),
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
    dict(type="ObjectRangeFilter3D", point_cloud_range=point_cloud_range),
    {{_base_.steps.shuffle}},
    {{_base_.steps.pack}},
]
test_pipeline = [
    load,
    sweeps,
    dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range),
    {{_base_.steps.pack_test}},
]

nuscenes = dict(
    data_root=data_root,
    data_prefix=dict(pts="samples/LIDAR_TOP", sweeps="sweeps/LIDAR_TOP"),
    metainfo=metainfo,
    box_origin="gravity",
    velocity=True,
    min_lidar_points=1,
)
train_dataloader = dict(dataset=dict(ann_file="nuscenes_infos_train.pkl", pipeline=train_pipeline, **nuscenes))
val_dataloader = dict(dataset=dict(ann_file="nuscenes_infos_val.pkl", pipeline=test_pipeline, **nuscenes))
test_dataloader = val_dataloader
val_evaluator = dict(
    type="LidarAP",
    min_overlap={name: 0.3 if name in class_names[5:] else 0.5 for name in class_names},
    point_cloud_range=point_cloud_range,
)
test_evaluator = val_evaluator
del load, sweeps, nuscenes
