"""What data sets of LiDAR frames share: loaders for processes with a GPU each, and the steps that all pipelines have in common."""

meta_keys = (
    "sample_idx",
    "lidar_path",
    "num_pts_feats",
    "box_type_3d",
    "box_mode_3d",
    "flip",
    "pcd_horizontal_flip",
    "pcd_vertical_flip",
    "pcd_scale_factor",
    "pcd_rotation",
    "pcd_trans",
    "transformation_3d_flow",
)
steps = dict(
    load=dict(type="LoadPointsChecked", coord_type="LIDAR", load_dim=4, use_dim=4),
    annotations=dict(type="LoadAnnotations3D", with_bbox_3d=True, with_label_3d=True),
    flip_y=dict(type="RandomFlip3D", sync_2d=False, flip_ratio_bev_horizontal=0.5),  # left and right
    flip=dict(type="RandomFlip3D", sync_2d=False, flip_ratio_bev_horizontal=0.5, flip_ratio_bev_vertical=0.5),  # also front and back
    turn=dict(type="GlobalRotScaleTrans", rot_range=[-0.78539816, 0.78539816], scale_ratio_range=[0.95, 1.05]),
    turn_and_shift=dict(
        type="GlobalRotScaleTrans",
        rot_range=[-0.78539816, 0.78539816],
        scale_ratio_range=[0.95, 1.05],
        translation_std=[0.5, 0.5, 0.5],
    ),
    shuffle=dict(type="PointShuffle"),
    pack=dict(type="Pack3DDetInputs", keys=["points", "gt_bboxes_3d", "gt_labels_3d"], meta_keys=meta_keys),
    pack_test=dict(type="Pack3DDetInputs", keys=["points"], meta_keys=meta_keys),
)

train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=False,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="LidarDataset"),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=False,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="LidarDataset", test_mode=True),
)
test_dataloader = val_dataloader
