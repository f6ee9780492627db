"""Bird's-eye net and anchor head of the study on near synthetic scenes: a map of 80 × 80 cells of 0.32 m, the same for every detector.

A config sets what comes before the map: its channels are ``model.backbone.in_channels``.
"""

_base_ = "./anchor_head_3d-3class.py"

norm = dict(type="BN", eps=1e-3, momentum=0.1)

model = dict(
    data_preprocessor=dict(type="Det3DDataPreprocessor"),
    backbone=dict(type="SECOND", in_channels=64, layer_nums=[2, 2], layer_strides=[1, 2], out_channels=[32, 64], norm_cfg=norm),
    neck=dict(type="SECONDFPN", in_channels=[32, 64], upsample_strides=[1, 2], out_channels=[32, 32], norm_cfg=norm),
    bbox_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(
            ranges=[[0, -12.8, -1.78, 25.6, 12.8, -1.78], [0, -12.8, -0.6, 25.6, 12.8, -0.6], [0, -12.8, -0.6, 25.6, 12.8, -0.6]],
        ),
    ),
)
del norm
