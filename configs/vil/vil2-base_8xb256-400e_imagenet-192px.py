"""Vision-LSTM 2, base, trained from scratch at 192 pixels for 400 epochs (Alkin et al. 2024).

torchrun --nproc_per_node 8 tools/train.py vil2-base_8xb256-400e_imagenet-192px --launcher pytorch
tools/test.py vil2-base_8xb256-400e_imagenet-192px CHECKPOINT

8 GPUs with 256 images each.
Reported by the authors: 82.4 % top-1 after the fine-tuning of vil2-base_8xb128-5e_imagenet-224px.
Not trained by us.
"""

_base_ = "../_base_/recipes/vil2-192px.py"

model = dict(backbone=dict(name="vil2_base_patch16_224", drop_path_rate=0.2))
train_cfg = dict(max_epochs=400)
