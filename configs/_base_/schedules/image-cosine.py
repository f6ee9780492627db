"""AdamW in bfloat16 with a warm-up and half a cosine, for a batch of 2 048 images.

    train_cfg.max_epochs          the length; the cosine follows it, the warm-up stays in epochs
    optim_wrapper.optimizer.lr    the highest rate; --auto-scale-lr multiplies it by (processes × batch size) / base_batch_size

On a GPU without bfloat16: --cfg-options optim_wrapper.type=AmpOptimWrapper. With less memory: a smaller train_dataloader.batch_size and
+optim_wrapper.accumulative_counts=N, the number of steps that make one update.
"""

optim_wrapper = dict(
    type="BFloat16OptimWrapper",
    constructor="ImageGroups",
    optimizer=dict(type="AdamW", lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05),
)
param_scheduler = [dict(type="WarmupCosineLR", warmup=5, end_rate=1e-6, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=5)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=False, base_batch_size=2048)
