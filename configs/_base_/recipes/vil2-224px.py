"""Vision-LSTM 2 fine-tuned at 224 pixels for 20 epochs; a config adds the model."""

_base_ = [
    "../datasets/imagenet-3augment.py",
    "../models/image_classifier.py",
    "../schedules/image-cosine.py",
    "../image_runtime.py",
]

train_dataloader = dict(batch_size=128)
optim_wrapper = dict(optimizer=dict(lr=1e-5))
param_scheduler = [dict(type="WarmupCosineLR", warmup=5, end_rate=1e-6, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=20, val_interval=1)
auto_scale_lr = dict(base_batch_size=1024)
