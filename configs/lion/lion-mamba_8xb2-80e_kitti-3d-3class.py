"""LION-Mamba, 64 channels, on KITTI: Car, Pedestrian and Cyclist, with the authors' hyper-parameters.

    visionrnn create-data kitti --root data/kitti
    torchrun --nproc_per_node 8 tools/train.py lion-mamba_8xb2-80e_kitti-3d-3class --launcher pytorch
    torchrun --nproc_per_node 8 tools/test.py lion-mamba_8xb2-80e_kitti-3d-3class CHECKPOINT --launcher pytorch

Hardware assumed: 8 GPUs with 2 frames each. Reported by the authors (validation, moderate; the recalls are not stated): Car 78.3,
Pedestrian 60.2, Cyclist 68.6. Weights are not published. Not trained by us: no GPU was at hand.
"""

_base_ = [
    "../_base_/datasets/kitti-3d-3class.py",
    "../_base_/models/lion_kitti.py",
    "../_base_/schedules/one-cycle.py",
    "../_base_/default_runtime.py",
]

sync_bn = "torch"  # of processes with a GPU each
