"""Logging, checkpoints, seed and process set-up of image classifiers; mmdet3d is not needed.

Learned positions of loaded weights (load_from, test) are re-sampled to the model's grid.
"""

_base_ = "./default_runtime.py"

default_scope = "mmengine"
custom_imports = dict(
    _delete_=True,
    imports=["visionrnn.integrations.classification", "visionrnn.integrations.mmengine"],
    allow_failed_imports=False,
)
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(max_keep_ckpts=2, save_best="accuracy/top1", rule="greater"),
)
custom_hooks = [dict(type="ResamplePositionsHook")]
