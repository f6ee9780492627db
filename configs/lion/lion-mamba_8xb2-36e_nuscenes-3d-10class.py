"""LION-Mamba, 128 channels, on nuScenes: ten classes, ten sweeps, with the authors' hyper-parameters.

    python MMDET3D/tools/create_data.py nuscenes --root-path data/nuscenes --out-dir data/nuscenes --extra-tag nuscenes
    torchrun --nproc_per_node 8 tools/train.py lion-mamba_8xb2-36e_nuscenes-3d-10class --launcher pytorch
    torchrun --nproc_per_node 8 tools/test.py lion-mamba_8xb2-36e_nuscenes-3d-10class CHECKPOINT --launcher pytorch

Hardware assumed: 8 GPUs with 2 frames each. Reported by the authors (validation, without CBGS and test-time augmentation): NDS 72.1, mAP
68.0. Weights are published. Not trained by us: no GPU was at hand. Prepared data and metric: see the data set's base.
"""

_base_ = [
    "../_base_/datasets/nuscenes-3d-10class.py",
    "../_base_/models/lion_nuscenes.py",
    "../_base_/schedules/one-cycle.py",
    "../_base_/default_runtime.py",
]

optim_wrapper = dict(optimizer=dict(weight_decay=0.05), clip_grad=dict(max_norm=35))
custom_hooks = [dict(type="FadeAugmentationHook", last_epochs=4, steps=["PasteObjects"])]
train_cfg = dict(max_epochs=36, val_interval=6)
sync_bn = "torch"  # of processes with a GPU each
