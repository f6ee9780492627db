"""Vision-LSTM 2 trained from scratch at 192 pixels, before the fine-tuning at 224; a config adds the model and the number of epochs."""

_base_ = "./vil.py"

train_dataloader = dict(dataset=dict(transform=dict(input_size=192)))
val_dataloader = dict(dataset=dict(transform=dict(input_size=192)))
test_dataloader = val_dataloader
model = dict(backbone=dict(img_size=192))
