r"""Vision-LSTM 2, tiny, trained at 192 pixels, fine-tuned at 224 for 20 epochs (Alkin et al. 2024).

torchrun --nproc_per_node 8 tools/train.py vil2-tiny_8xb128-20e_imagenet-224px --launcher pytorch \
    --cfg-options load_from=FILE
tools/test.py vil2-tiny_8xb128-20e_imagenet-224px CHECKPOINT

8 GPUs with 128 images each. FILE is the last checkpoint of vil2-tiny_8xb256-800e_imagenet-192px;
its positions are re-sampled to the larger grid.
Reported by the authors: 78.3 % top-1. Not trained by us.
"""

_base_ = [
    "../_base_/datasets/imagenet-3augment.py",
    "../_base_/models/image_classifier.py",
    "../_base_/schedules/image-cosine.py",
    "../_base_/image_runtime.py",
]

train_dataloader = dict(batch_size=128)
model = dict(backbone=dict(name="vil2_tiny_patch16_224", drop_path_rate=0.0))
optim_wrapper = dict(optimizer=dict(lr=1e-5))
param_scheduler = [dict(type="WarmupCosineLR", warmup=5, end_rate=1e-6, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=20, val_interval=1)
auto_scale_lr = dict(base_batch_size=1024)
