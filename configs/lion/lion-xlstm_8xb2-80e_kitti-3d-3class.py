"""LION-xLSTM, 64 channels, on KITTI: Car, Pedestrian and Cyclist, with the authors' hyper-parameters.

    visionrnn create-data kitti --root data/kitti
    torchrun --nproc_per_node 8 tools/train.py lion-xlstm_8xb2-80e_kitti-3d-3class --launcher pytorch
    torchrun --nproc_per_node 8 tools/test.py lion-xlstm_8xb2-80e_kitti-3d-3class CHECKPOINT --launcher pytorch

Hardware assumed: 8 GPUs with 2 frames each. Reported by the authors (validation, moderate; the recalls are not stated): Car 77.9,
Pedestrian 59.3, Cyclist 67.4. Weights are not published. Not trained by us: no GPU was at hand.
"""

_base_ = "./lion-mamba_8xb2-80e_kitti-3d-3class.py"

model = dict(middle_encoder=dict(operator=dict(_delete_=True, type="xlstm", num_heads=4, expand=2, d_conv=4)))
