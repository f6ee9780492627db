"""FCOS (Tian et al. 2019) on a narrow PyramidRNN of Mamba, for drawn shapes: shows that our backbones train in mmdet, on a CPU.

    visionrnn create-data shapes --out data/shapes
    visionrnn train fcos_pyramidrnn-mamba_1xb8_shapes-2d-3class

Another operator: --cfg-options model.backbone.name=pyramidrnn_xlstm_tiny_224
"""

_base_ = ["../_base_/datasets/shapes-2d-3class.py", "../_base_/default_runtime.py"]

default_scope = "mmdet"
custom_imports = dict(
    _delete_=True,
    imports=["visionrnn.integrations.mmdet", "visionrnn.integrations.mmengine"],
    allow_failed_imports=False,
)

model = dict(
    type="FCOS",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type="ImageBackbone",
        name="pyramidrnn_mamba_tiny_224",
        stages=[
            dict(dim=32, depth=1, window=8, group_size=256),
            dict(dim=48, depth=1, window=8, group_size=256),
            dict(dim=64, depth=2, window=8, group_size=256),
        ],
        out_indices=(1, 2),
        out_norm=True,
    ),
    neck=dict(type="FPN", in_channels=[48, 64], out_channels=48, add_extra_convs="on_output", num_outs=3),
    bbox_head=dict(
        type="FCOSHead",
        num_classes=3,
        in_channels=48,
        feat_channels=48,
        stacked_convs=2,
        strides=[8, 16, 32],
        regress_ranges=((-1, 32), (32, 64), (64, 1e8)),
        norm_on_bbox=True,
        centerness_on_reg=True,
        center_sampling=True,
        norm_cfg=dict(type="GN", num_groups=8),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=1.0),
        loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
    ),
    test_cfg=dict(nms_pre=300, min_bbox_size=0, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=50),
)

optim_wrapper = dict(
    type="OptimWrapper", optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05), clip_grad=dict(max_norm=5.0, norm_type=2)
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", begin=0, end=12, by_epoch=True, convert_to_iter_based=True, eta_min_ratio=0.01),
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=12, val_interval=4)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
default_hooks = dict(checkpoint=dict(save_best="coco/bbox_mAP", rule="greater", max_keep_ckpts=2))
