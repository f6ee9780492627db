"""LION-RWKV, 128 channels, on Argoverse 2: 26 classes, with the authors' hyper-parameters.

Data: see configs/_base_/datasets/argoverse2-3d-26class.py.

    torchrun --nproc_per_node 8 tools/train.py lion-rwkv_8xb2-12e_argoverse2-3d-26class --launcher pytorch
    torchrun --nproc_per_node 8 tools/test.py lion-rwkv_8xb2-12e_argoverse2-3d-26class CHECKPOINT --launcher pytorch

Hardware assumed: 8 GPUs with 2 frames each. Reported by the authors (validation): mAP 41.1. Weights are published. Not trained by us: no
GPU was at hand.
"""

_base_ = "./lion-mamba_8xb2-12e_argoverse2-3d-26class.py"

model = dict(middle_encoder=dict(operator=dict(_delete_=True, type="rwkv", num_heads=4, hidden_rate=4, init_values=1e-5)))
