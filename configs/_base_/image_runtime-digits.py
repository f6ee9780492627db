"""image_runtime for a training of half a minute: one line for an epoch, few checkpoints, and no choice of an epoch by the test's score."""

_base_ = "./image_runtime.py"

default_hooks = dict(logger=dict(interval=1000), checkpoint=dict(interval=10, max_keep_ckpts=1, save_best=None))
custom_hooks = [dict(type="ResamplePositionsHook"), dict(type="ClockHook")]
