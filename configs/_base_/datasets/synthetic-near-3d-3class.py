"""The nearest 25.6 m of the synthetic street scenes, for studies that train many models: a quarter of the area, loaded in one process.

Make: visionrnn create-data synthetic --out data/synthetic
Elsewhere: --cfg-options data_root=DIR

Objects beyond the range need not be found: the metric ignores them.
"""

_base_ = "./synthetic-3d-3class.py"

data_root = "data/synthetic"
point_cloud_range = [0, -12.8, -3, 25.6, 12.8, 1]

train_pipeline = [
    {{_base_.steps.load}},
    {{_base_.steps.annotations}},
    dict(
        type="PasteObjects",
        data_root=data_root,
        classes=("Car", "Pedestrian", "Cyclist"),
        groups=dict(Car=4, Pedestrian=4, Cyclist=4),
        min_points=5,
    ),
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

train_dataloader = dict(num_workers=0, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(num_workers=0, dataset=dict(pipeline=test_pipeline))
val_evaluator = dict(point_cloud_range=point_cloud_range)
test_evaluator = dict(point_cloud_range=point_cloud_range)
