"""A tiny PointPillars for tests of detection: one pillar layer, a small map, random weights in a checkpoint of plain values."""

from pathlib import Path

import numpy as np
import torch

CLASSES = ("Car", "Pedestrian", "Cyclist")
RANGE = (0.0, -12.8, -3.0, 25.6, 12.8, 1.0)
STATISTICS = {
    "features_per_point": 4,
    "intensity_min": 0.0,
    "intensity_max": 1.0,
    "intensity_mean": 0.3,
    "ground_height": -1.7,
    "points_per_frame_mean": 3000.0,
    "range_max_99": 25.0,
    "frames": 4,
}

CONFIG = """
custom_imports = dict(imports=["visionrnn.integrations.mmdet3d"], allow_failed_imports=False)
default_scope = "mmdet3d"
point_cloud_range = [0, -12.8, -3, 25.6, 12.8, 1]
class_names = ["Car", "Pedestrian", "Cyclist"]
model = dict(
    type="HardVoxelNet",
    data_preprocessor=dict(type="Det3DDataPreprocessor", voxel=True, voxel_layer=dict(
        max_num_points=8, point_cloud_range=point_cloud_range, voxel_size=[0.8, 0.8, 4], max_voxels=(2000, 2000))),
    voxel_encoder=dict(
        type="PillarFeatureNet", in_channels=4, feat_channels=[8], voxel_size=[0.8, 0.8, 4], point_cloud_range=point_cloud_range),
    middle_encoder=dict(type="PointPillarsScatter", in_channels=8, output_shape=[32, 32]),
    backbone=dict(type="SECOND", in_channels=8, layer_nums=[1], layer_strides=[2], out_channels=[8]),
    neck=dict(type="SECONDFPN", in_channels=[8], upsample_strides=[1], out_channels=[8]),
    bbox_head=dict(type="Anchor3DHead", num_classes=3, in_channels=8, feat_channels=8, use_direction_classifier=True,
        anchor_generator=dict(type="AlignedAnchor3DRangeGenerator", sizes=[[3.9, 1.6, 1.56], [0.8, 0.6, 1.73], [1.76, 0.6, 1.73]],
            ranges=[[0, -12.8, -1.78, 25.6, 12.8, -1.78], [0, -12.8, -0.6, 25.6, 12.8, -0.6], [0, -12.8, -0.6, 25.6, 12.8, -0.6]],
            rotations=[0, 1.57], reshape_out=False),
        diff_rad_by_sin=True, dir_offset=0.7854, dir_limit_offset=0, bbox_coder=dict(type="DeltaXYZWLHRBBoxCoder"),
        loss_cls=dict(type="mmdet.FocalLoss", use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type="mmdet.SmoothL1Loss", beta=1.0 / 9.0, loss_weight=2.0),
        loss_dir=dict(type="mmdet.CrossEntropyLoss", use_sigmoid=False, loss_weight=0.2)),
    test_cfg=dict(use_rotate_nms=True, nms_across_levels=False, nms_thr=0.01, score_thr=0.1, min_bbox_size=0, nms_pre=50, max_num=20))
test_pipeline = [
    dict(type="LoadPointsFromFile", coord_type="LIDAR", load_dim=4, use_dim=4),
    dict(type="MultiScaleFlipAug3D", img_scale=(1333, 800), pts_scale_ratio=1, flip=False, transforms=[
        dict(type="GlobalRotScaleTrans", rot_range=[0, 0], scale_ratio_range=[1.0, 1.0], translation_std=[0, 0, 0]),
        dict(type="RandomFlip3D"),
        dict(type="PointsRangeFilter", point_cloud_range=point_cloud_range)]),
    dict(type="Pack3DDetInputs", keys=["points"])]
test_dataloader = dict(dataset=dict(type="KittiDataset", pipeline=test_pipeline, metainfo=dict(classes=class_names)))
"""


def write_detector(folder: Path, text: str = CONFIG, **meta) -> tuple[Path, Path]:
    """(config, checkpoint) files of the tiny detector in ``folder``."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, DefaultScope

    import visionrnn.integrations.mmdet3d  # noqa: F401  (registers)

    config, checkpoint = folder / "tiny.py", folder / "tiny.pth"
    config.write_text(text)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet3d"):
        model = MODELS.build(Config.fromfile(config).model)
    for name, parameter in model.named_parameters():
        if name == "bbox_head.conv_cls.bias":
            parameter.data.fill_(-1.0)  # scores round 0.27, above the config's limit
    torch.save({"meta": {"classes": list(CLASSES), "data_statistics": STATISTICS, **meta}, "state_dict": model.state_dict()}, checkpoint)
    return config, checkpoint


def cloud(count: int = 3000, seed: int = 0) -> np.ndarray:
    """Ground at -1.7 m and some things on it, inside the range: float32 [count, 4]."""
    generator = np.random.default_rng(seed)
    points = np.column_stack([generator.uniform(0.5, 25, count), generator.uniform(-12, 12, count), generator.normal(-1.7, 0.03, count)])
    points[: count // 5, 2] += generator.uniform(0, 1.5, count // 5)
    return np.column_stack([points, generator.uniform(0, 1, count)]).astype(np.float32)
