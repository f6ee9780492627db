"""Vision-LSTM, first version, small, trained from scratch at 224 pixels for 400 epochs (Alkin et al. 2024).

torchrun --nproc_per_node 8 tools/train.py vil-small_8xb256-400e_imagenet-224px --launcher pytorch
tools/test.py vil-small_8xb256-400e_imagenet-224px CHECKPOINT

8 GPUs with 256 images each.
Reported by the authors: 80.7 % top-1. Not trained by us.
"""

_base_ = "../_base_/recipes/vil.py"

model = dict(backbone=dict(name="vil_small_patch16_224", drop_path_rate=0.05))
train_cfg = dict(max_epochs=400)
