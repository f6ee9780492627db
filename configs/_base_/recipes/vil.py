"""Vision-LSTM trained from scratch, as published (Alkin et al. 2024); a config adds the model and the number of epochs."""

_base_ = [
    "../datasets/imagenet-3augment.py",
    "../models/image_classifier.py",
    "../schedules/image-cosine.py",
    "../image_runtime.py",
]

optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
