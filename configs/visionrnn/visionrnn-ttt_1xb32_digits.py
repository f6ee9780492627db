"""A small VisionRNN with TTT-Linear on scikit-learn's handwritten digits: 898 images train it, 899 test it.

visionrnn train visionrnn-ttt_1xb32_digits
visionrnn test visionrnn-ttt_1xb32_digits work_dirs/visionrnn-ttt_1xb32_digits/epoch_50.pth

Any CPU: under a minute with one thread. docs/image_training.md has the accuracy and what it is compared with.
"""

_base_ = "../_base_/recipes/digits.py"

model = dict(backbone=dict(name="visionrnn_ttt_tiny_patch16_224", patch_size=8, dim=48, depth=4))
