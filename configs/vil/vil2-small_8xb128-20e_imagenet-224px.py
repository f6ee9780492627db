r"""Vision-LSTM 2, small, trained at 192 pixels, fine-tuned at 224 for 20 epochs (Alkin et al. 2024).

torchrun --nproc_per_node 8 tools/train.py vil2-small_8xb128-20e_imagenet-224px --launcher pytorch \
    --cfg-options load_from=FILE
tools/test.py vil2-small_8xb128-20e_imagenet-224px CHECKPOINT

8 GPUs with 128 images each. FILE is the last checkpoint of vil2-small_8xb256-400e_imagenet-192px;
its positions are re-sampled to the larger grid.
Reported by the authors: 81.5 % top-1. Not trained by us.
"""

_base_ = "../_base_/recipes/vil2-224px.py"

model = dict(backbone=dict(name="vil2_small_patch16_224", drop_path_rate=0.05))
