"""Vision-LSTM 2, tiny, trained from scratch at 192 pixels for 800 epochs (Alkin et al. 2024).

torchrun --nproc_per_node 8 tools/train.py vil2-tiny_8xb256-800e_imagenet-192px --launcher pytorch
tools/test.py vil2-tiny_8xb256-800e_imagenet-192px CHECKPOINT

8 GPUs with 256 images each.
Reported by the authors: 78.3 % top-1 after the fine-tuning of vil2-tiny_8xb128-20e_imagenet-224px.
Not trained by us.
"""

_base_ = "../_base_/recipes/vil2-192px.py"

model = dict(backbone=dict(name="vil2_tiny_patch16_224", drop_path_rate=0.0))
train_cfg = dict(max_epochs=800)
