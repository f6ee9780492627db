"""ImageNet-1k with RandAugment of magnitude 9 ± 0.5, increasing, and random erasing of a quarter of the images; crop 0.875 for scoring."""

_base_ = "./imagenet.py"

train_dataloader = dict(
    dataset=dict(transform=dict(auto_augment="rand-m9-mstd0.5-inc1", interpolation="random", re_prob=0.25, re_mode="pixel"))
)
val_dataloader = dict(dataset=dict(transform=dict(crop_pct=0.875)))
test_dataloader = val_dataloader
