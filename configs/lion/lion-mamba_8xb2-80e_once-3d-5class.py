"""LION-Mamba, 128 channels, on ONCE: five classes, with the authors' hyper-parameters.

Data: see configs/_base_/datasets/once-3d-5class.py.

    torchrun --nproc_per_node 8 tools/train.py lion-mamba_8xb2-80e_once-3d-5class --launcher pytorch
    torchrun --nproc_per_node 8 tools/test.py lion-mamba_8xb2-80e_once-3d-5class CHECKPOINT --launcher pytorch

Hardware assumed: 8 GPUs with 2 frames each. Reported by the authors (validation): mAP 66.6; Vehicle 78.2, Pedestrian 53.2, Cyclist 68.5.
Weights are not published. Not trained by us: no GPU was at hand.
"""

_base_ = [
    "../_base_/datasets/once-3d-5class.py",
    "../_base_/models/lion_once.py",
    "../_base_/schedules/one-cycle.py",
    "../_base_/default_runtime.py",
]

optim_wrapper = dict(clip_grad=dict(max_norm=35))
train_cfg = dict(max_epochs=80, val_interval=10)
sync_bn = "torch"  # of processes with a GPU each
