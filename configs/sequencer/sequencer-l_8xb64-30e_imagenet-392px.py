r"""Sequencer2D-L, trained at 224 pixels, fine-tuned at 392 for 30 epochs (Tatsunami and Taki 2022).

torchrun --nproc_per_node 8 tools/train.py sequencer-l_8xb64-30e_imagenet-392px --launcher pytorch \
    --cfg-options load_from=FILE
tools/test.py sequencer-l_8xb64-30e_imagenet-392px CHECKPOINT

8 GPUs with 64 images each. FILE is the last checkpoint of sequencer-l_8xb256-300e_imagenet-224px.
Reported by the authors: 84.6 % top-1. Not trained by us.
"""

_base_ = "../_base_/recipes/sequencer.py"

train_dataloader = dict(batch_size=64, dataset=dict(transform=dict(input_size=392)))
val_dataloader = dict(batch_size=64, dataset=dict(transform=dict(input_size=392, crop_pct=1.0)))
test_dataloader = val_dataloader
model = dict(backbone=dict(name="lstm_sequencer2d_l", img_size=392, drop_path_rate=0.4))
optim_wrapper = dict(optimizer=dict(lr=5e-5, weight_decay=1e-8))
param_scheduler = [dict(type="WarmupCosineLR", warmup=0, end_rate=1e-5, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=30, val_interval=1)
auto_scale_lr = dict(base_batch_size=512)
