"""LION-RetNet, 128 channels, on ONCE: five classes, with the authors' hyper-parameters.

Data: see configs/_base_/datasets/once-3d-5class.py.

    torchrun --nproc_per_node 8 tools/train.py lion-retnet_8xb2-80e_once-3d-5class --launcher pytorch
    torchrun --nproc_per_node 8 tools/test.py lion-retnet_8xb2-80e_once-3d-5class CHECKPOINT --launcher pytorch

Hardware assumed: 8 GPUs with 2 frames each. Reported by the authors (validation): mAP 66.3; Vehicle 78.1, Pedestrian 52.4, Cyclist 68.3.
Weights are not published. Not trained by us: no GPU was at hand.
"""

_base_ = "./lion-mamba_8xb2-80e_once-3d-5class.py"

model = dict(middle_encoder=dict(operator=dict(_delete_=True, type="retnet", num_heads=4, expand_v=2, hidden_rate=4)))
