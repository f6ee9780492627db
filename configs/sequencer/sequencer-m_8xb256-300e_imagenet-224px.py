"""Sequencer2D-M, trained from scratch for 300 epochs (Tatsunami and Taki 2022).

torchrun --nproc_per_node 8 tools/train.py sequencer-m_8xb256-300e_imagenet-224px --launcher pytorch
tools/test.py sequencer-m_8xb256-300e_imagenet-224px CHECKPOINT

8 GPUs with 256 images each.
The published command is of the small model; the drop-path rate here is our choice.
Reported by the authors: 82.8 % top-1. Not trained by us.
"""

_base_ = "../_base_/recipes/sequencer.py"

model = dict(backbone=dict(name="lstm_sequencer2d_m", drop_path_rate=0.2))
