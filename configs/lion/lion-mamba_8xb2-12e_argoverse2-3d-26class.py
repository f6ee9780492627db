"""LION-Mamba, 128 channels, on Argoverse 2: 26 classes, with the authors' hyper-parameters.

Data: see configs/_base_/datasets/argoverse2-3d-26class.py.

    torchrun --nproc_per_node 8 tools/train.py lion-mamba_8xb2-12e_argoverse2-3d-26class --launcher pytorch
    torchrun --nproc_per_node 8 tools/test.py lion-mamba_8xb2-12e_argoverse2-3d-26class CHECKPOINT --launcher pytorch

Hardware assumed: 8 GPUs with 2 frames each. Reported by the authors (validation): mAP 41.5. Weights are published. Not trained by us: no
GPU was at hand.
"""

_base_ = [
    "../_base_/datasets/argoverse2-3d-26class.py",
    "../_base_/models/lion_argoverse2.py",
    "../_base_/schedules/one-cycle-early.py",
    "../_base_/default_runtime.py",
]

custom_hooks = [dict(type="FadeAugmentationHook", last_epochs=1)]
train_cfg = dict(max_epochs=12, val_interval=6)
sync_bn = "torch"  # of processes with a GPU each
