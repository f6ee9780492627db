"""segmentation_models_pytorch's U-Net on our pyramid, where that package is installed."""

import importlib.util

import torch
from timm_entries import STAGES

if importlib.util.find_spec("segmentation_models_pytorch"):
    import segmentation_models_pytorch

    def test_unet():
        model = segmentation_models_pytorch.Unet("tu-pyramidrnn_retnet_tiny_224", encoder_weights=None, classes=2, stages=STAGES)
        assert model.encoder.out_channels[2:] == [stage["dim"] for stage in STAGES]
        masks = model(torch.randn(2, 3, 64, 96))
        assert masks.shape == (2, 2, 64, 96)
        masks.square().mean().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
