"""LION with 128 channels on Argoverse 2's grid, without a dense map: sparse layers to the end and a sparse centre head.

As the authors configured it; the groups are those of ``class_names`` in the data set's base.
"""

_base_ = "./lion.py"

point_cloud_range = [-200, -200, -4, 200, 200, 4]
voxel_size = [0.4, 0.4, 0.25]

model = dict(
    voxel_encoder=dict(point_cloud_range=point_cloud_range, voxel_size=voxel_size),
    middle_encoder=dict(
        type="SparseLIONEncoder",
        bev_stages=[
            dict(window=[25, 25, 1], group_size=512),
            dict(window=[37, 37, 1], group_size=1024),
            dict(window=[51, 51, 1], group_size=2048),
        ],
    ),
    bbox_head=dict(
        type="LIONSparseCenterHead",
        in_channels=128,
        groups=[[0], list(range(1, 5)), list(range(5, 11)), list(range(11, 20)), list(range(20, 25)), [25]],
        grid=dict(point_cloud_range=point_cloud_range, voxel_size=voxel_size),
        loc_weight=0.25,
        code_weights=[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2],
    ),
    train_cfg=dict(gaussian_overlap=0.1, min_radius=2),
    test_cfg=dict(candidates=500, score_thr=0.1, nms_thr=0.2, nms_pre=1000, nms_post=83, limit=[-200, -200, -20, 200, 200, 20]),
)
del point_cloud_range, voxel_size
