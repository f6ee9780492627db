"""A classifier of ImageNet-1k with mixup or cutmix in every batch, each half of the time."""

model = dict(
    type="ImageClassifier",
    backbone=dict(num_classes=1000),
    mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5),
    loss=dict(type="SoftTargetCrossEntropy"),
)
