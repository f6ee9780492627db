"""LION-RWKV, 128 channels, on nuScenes: ten classes, ten sweeps, with the authors' hyper-parameters.

    python MMDET3D/tools/create_data.py nuscenes --root-path data/nuscenes --out-dir data/nuscenes --extra-tag nuscenes
    torchrun --nproc_per_node 8 tools/train.py lion-rwkv_8xb2-36e_nuscenes-3d-10class --launcher pytorch
    torchrun --nproc_per_node 8 tools/test.py lion-rwkv_8xb2-36e_nuscenes-3d-10class CHECKPOINT --launcher pytorch

Hardware assumed: 8 GPUs with 2 frames each. Reported by the authors (validation, without CBGS and test-time augmentation): NDS 71.7, mAP
66.8. Weights are not published. Not trained by us: no GPU was at hand. Prepared data and metric: see the data set's base.
"""

_base_ = "./lion-mamba_8xb2-36e_nuscenes-3d-10class.py"

model = dict(middle_encoder=dict(operator=dict(_delete_=True, type="rwkv", num_heads=4, hidden_rate=4, init_values=1e-5)))
