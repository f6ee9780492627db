"""Sequencer2D trained from scratch, as published for the small model (Tatsunami and Taki 2022); a config adds the model.

Drop-path rises from block to block, as in the authors' code.
"""

_base_ = [
    "../datasets/imagenet-randaugment.py",
    "../models/image_classifier.py",
    "../schedules/image-cosine.py",
    "../image_runtime.py",
]

model = dict(backbone=dict(drop_path_ramp=True), mixup=dict(label_smoothing=0.1))
param_scheduler = [dict(type="WarmupCosineLR", warmup=20, start=1e-6, end_rate=1e-5, by_epoch=True, convert_to_iter_based=True)]
