"""LION-RWKV, 64 channels, on KITTI: Car, Pedestrian and Cyclist, with the authors' hyper-parameters.

    visionrnn create-data kitti --root data/kitti
    torchrun --nproc_per_node 8 tools/train.py lion-rwkv_8xb2-80e_kitti-3d-3class --launcher pytorch
    torchrun --nproc_per_node 8 tools/test.py lion-rwkv_8xb2-80e_kitti-3d-3class CHECKPOINT --launcher pytorch

Hardware assumed: 8 GPUs with 2 frames each. Reported by the authors (validation, moderate; the recalls are not stated): Car 78.3,
Pedestrian 62.2, Cyclist 71.2. Weights are not published. Not trained by us: no GPU was at hand.
"""

_base_ = "./lion-mamba_8xb2-80e_kitti-3d-3class.py"

model = dict(middle_encoder=dict(operator=dict(_delete_=True, type="rwkv", num_heads=4, hidden_rate=4, init_values=1e-5)))
