"""AdamW for the digits: two epochs of warm-up, then half a cosine."""

optim_wrapper = dict(
    type="OptimWrapper",
    constructor="ImageGroups",
    optimizer=dict(type="AdamW", lr=3e-3, betas=(0.9, 0.99), weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [dict(type="WarmupCosineLR", warmup=2, end_rate=1e-5, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(by_epoch=True, max_epochs=50, val_interval=2)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=False, base_batch_size=32)
