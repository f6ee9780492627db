"""ImageNet-1k with 3-augment (Touvron et al. 2022): crop, flip, one of grey, solarised or blurred, then colour jitter of 0.3."""

_base_ = "./imagenet.py"

train_dataloader = dict(dataset=dict(transform=dict(auto_augment="3a", color_jitter=0.3)))
