"""VisionRNN, tiny, with xLSTM's mLSTM: trained from scratch for 300 epochs.

torchrun --nproc_per_node 8 tools/train.py visionrnn-xlstm-tiny_8xb128-300e_imagenet-224px --launcher pytorch
tools/test.py visionrnn-xlstm-tiny_8xb128-300e_imagenet-224px CHECKPOINT

8 GPUs with 128 images each.
A recipe of ours after DeiT's (Touvron et al. 2021), untried: nobody has trained this model on ImageNet, so there is no score.
"""

_base_ = [
    "../_base_/datasets/imagenet-randaugment.py",
    "../_base_/models/image_classifier.py",
    "../_base_/schedules/image-cosine.py",
    "../_base_/image_runtime-average.py",
]

train_dataloader = dict(batch_size=128)
val_dataloader = dict(dataset=dict(transform=dict(crop_pct=1.0)))
test_dataloader = val_dataloader
model = dict(backbone=dict(name="visionrnn_xlstm_tiny_patch16_224"), mixup=dict(label_smoothing=0.1))
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=1.0))
auto_scale_lr = dict(base_batch_size=1024)
