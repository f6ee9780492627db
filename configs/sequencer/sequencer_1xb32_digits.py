"""A small Sequencer2D on scikit-learn's handwritten digits: 898 images train it, 899 test it.

visionrnn train sequencer_1xb32_digits
visionrnn test sequencer_1xb32_digits work_dirs/sequencer_1xb32_digits/epoch_50.pth

Any CPU: under a minute with one thread. docs/image_training.md has the accuracy and what it is compared with.
"""

_base_ = "../_base_/recipes/digits.py"

model = dict(
    backbone=dict(name="lstm_sequencer2d_s", patch_sizes=(8,), layers=(4,), embed_dims=(48,), hidden_sizes=(12,), mlp_ratios=(3.0,))
)
