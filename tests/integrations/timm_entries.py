"""Every entry in timm's registry, made small by keyword arguments."""

from __future__ import annotations

import timm
import torch
from torch import nn

from visionrnn.backbones.pyramid import PyramidRNN
from visionrnn.backbones.sequencer import Sequencer2D
from visionrnn.backbones.vil import ViL
from visionrnn.backbones.vision_rnn import VisionRNN
from visionrnn.integrations.timm import ENTRIES

NAMES = sorted(ENTRIES)
STAGES = [dict(dim=dim, depth=depth, window=2, group_size=8) for dim, depth in ((16, 2), (32, 1), (64, 1), (64, 1))]
SMALL = {
    ViL: dict(dim=32, depth=4, img_size=(32, 48)),
    VisionRNN: dict(dim=64, depth=4, img_size=(32, 48)),
    PyramidRNN: dict(stages=STAGES, img_size=(32, 48)),
    Sequencer2D: dict(layers=(1, 1, 2, 1), embed_dims=(16, 24, 24, 24), hidden_sizes=(4, 6, 6, 6), img_size=(32, 48)),
}
ONE_EACH = (
    "vil_tiny_patch16_224",
    "vil2_tiny_patch16_224",
    "lstm_sequencer2d_s",
    "visionrnn_mamba_tiny_patch16_224",
    "pyramidrnn_retnet_tiny_224",
)


def small(name: str, **kwargs) -> nn.Module:
    """The entry with few channels and blocks; weights that are not loaded are spread, so that every part has a say."""
    torch.manual_seed(0)
    model = timm.create_model(name, **{**SMALL[ENTRIES[name.partition(".")[0]][0]], "num_classes": 10, **kwargs})
    loaded = kwargs.get("pretrained") or kwargs.get("checkpoint_path")
    with torch.no_grad():
        for parameter in () if loaded else model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def images(*shape: int) -> torch.Tensor:
    """[2, 3, 32, 48], or of another shape."""
    return torch.randn(shape or (2, 3, 32, 48), generator=torch.Generator().manual_seed(1))
