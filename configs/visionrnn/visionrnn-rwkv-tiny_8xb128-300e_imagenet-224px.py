"""VisionRNN, tiny, with RWKV-6: trained from scratch for 300 epochs.

torchrun --nproc_per_node 8 tools/train.py visionrnn-rwkv-tiny_8xb128-300e_imagenet-224px --launcher pytorch
tools/test.py visionrnn-rwkv-tiny_8xb128-300e_imagenet-224px CHECKPOINT

8 GPUs with 128 images each.
A recipe of ours after DeiT's (Touvron et al. 2021), untried: nobody has trained this model on ImageNet, so there is no score.
"""

_base_ = "../_base_/recipes/visionrnn.py"

model = dict(backbone=dict(name="visionrnn_rwkv_tiny_patch16_224"))
