r"""Vision-LSTM 2, base, trained at 192 pixels, fine-tuned at 224 for 5 epochs (Alkin et al. 2024).

torchrun --nproc_per_node 8 tools/train.py vil2-base_8xb128-5e_imagenet-224px --launcher pytorch \
    --cfg-options load_from=FILE
tools/test.py vil2-base_8xb128-5e_imagenet-224px CHECKPOINT

8 GPUs with 128 images each. FILE is the last checkpoint of vil2-base_8xb256-400e_imagenet-192px;
its positions are re-sampled to the larger grid.
Reported by the authors: 82.4 % top-1. Not trained by us.
"""

_base_ = "../_base_/recipes/vil2-224px.py"

model = dict(backbone=dict(name="vil2_base_patch16_224", drop_path_rate=0.2))
param_scheduler = [dict(type="WarmupCosineLR", warmup=1, end_rate=1e-6, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=5)
