"""AdamW with one cycle of learning rate and momentum: OpenPCDet's adam_onecycle with LR = 3e-3, DIV = 10, PCT_START = 0.4.

The phases are fractions of the training and the rates multiples of the optimizer's, so a config or ``--cfg-options`` overrides

    train_cfg.max_epochs          the length; nothing else changes with it
    optim_wrapper.optimizer.lr    LR / DIV, the rate at the start: 3e-4 rises to 3e-3 and falls to 3e-8
"""

optim_wrapper = dict(
    type="OptimWrapper",
    constructor="DecayGroups",
    optimizer=dict(type="AdamW", lr=3e-4, betas=(0.95, 0.99), weight_decay=0.01),
    clip_grad=dict(max_norm=10, norm_type=2),
)
param_scheduler = [
    dict(type="PhaseCosineLR", phase=(0.0, 0.4), eta_min_ratio=10, by_epoch=True, convert_to_iter_based=True),
    dict(type="PhaseCosineLR", phase=(0.4, 1.0), eta_min_ratio=1e-4, by_epoch=True, convert_to_iter_based=True),
    dict(type="PhaseCosineMomentum", phase=(0.0, 0.4), eta_min=0.85, by_epoch=True, convert_to_iter_based=True),
    dict(type="PhaseCosineMomentum", phase=(0.4, 1.0), eta_min=0.95, by_epoch=True, convert_to_iter_based=True),
]

train_cfg = dict(by_epoch=True, max_epochs=80, val_interval=5)
val_cfg = dict()
test_cfg = dict()
# --auto-scale-lr multiplies the rate by (processes × batch size) / base_batch_size.
auto_scale_lr = dict(enable=False, base_batch_size=16)
