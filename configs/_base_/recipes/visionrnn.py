"""A recipe of ours after DeiT's (Touvron et al. 2021), untried on ImageNet; a config adds the model."""

_base_ = [
    "../datasets/imagenet-randaugment.py",
    "../models/image_classifier.py",
    "../schedules/image-cosine.py",
    "../image_runtime-average.py",
]

train_dataloader = dict(batch_size=128)
val_dataloader = dict(dataset=dict(transform=dict(crop_pct=1.0)))
test_dataloader = val_dataloader
model = dict(mixup=dict(label_smoothing=0.1))
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=1.0))
auto_scale_lr = dict(base_batch_size=1024)
