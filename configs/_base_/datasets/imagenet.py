"""ImageNet-1k as folders: data/imagenet/train/n01440764/*.JPEG … and data/imagenet/val/n01440764/*.JPEG …, 1 000 classes each.

Elsewhere: --cfg-options data_root=DIR
Scored as usual: shorter side to the image size over ``crop_pct``, bicubic, centre crop.
A config sets the image size, the augmentation and the batch of one process; docs/image_training.md has the layout.
"""

data_root = "data/imagenet"

train_dataloader = dict(
    batch_size=256,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="ImageFolders",
        data_root=data_root,
        split="train",
        transform=dict(input_size=224, is_training=True, interpolation="bicubic"),
    ),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ImageFolders",
        data_root=data_root,
        split="val",
        transform=dict(input_size=224, interpolation="bicubic", crop_pct=1.0),
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="TopAccuracy")
test_evaluator = val_evaluator
