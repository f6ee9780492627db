"""Vision-LSTM 2, small, trained from scratch at 192 pixels for 400 epochs (Alkin et al. 2024).

torchrun --nproc_per_node 8 tools/train.py vil2-small_8xb256-400e_imagenet-192px --launcher pytorch
tools/test.py vil2-small_8xb256-400e_imagenet-192px CHECKPOINT

8 GPUs with 256 images each.
Reported by the authors: 81.5 % top-1 after the fine-tuning at 224 px, which is the next config. Not trained by us.
"""

_base_ = [
    "../_base_/datasets/imagenet-3augment.py",
    "../_base_/models/image_classifier.py",
    "../_base_/schedules/image-cosine.py",
    "../_base_/image_runtime.py",
]

train_dataloader = dict(dataset=dict(transform=dict(input_size=192)))
val_dataloader = dict(dataset=dict(transform=dict(input_size=192)))
test_dataloader = val_dataloader
model = dict(backbone=dict(name="vil2_small_patch16_224", img_size=192, drop_path_rate=0.05))
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
train_cfg = dict(max_epochs=400)
