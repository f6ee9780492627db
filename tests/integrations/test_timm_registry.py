"""Names and sizes of what timm's registry is given."""

import sys

import pytest
import timm
import torch
from timm_entries import NAMES

from visionrnn.integrations.timm import ENTRIES, default_cfgs

PUBLISHED = {
    "vil_tiny_patch16_224": 6_088_360,
    "vil_tinyplus_patch16_224": 7_277_840,
    "vil_small_patch16_224": 22_792_360,
    "vil_smallplus_patch16_224": 24_628_664,
    "vil_base_patch16_224": 88_050_856,
    "vil_tinyplus_patch16_stride8_224": 7_277_840,
    "vil_smallplus_patch16_stride8_224": 24_628_664,
    "vil_base_patch16_stride8_224": 88_050_856,
    "vil2_tiny_patch16_224": 6_391_528,
    "vil2_small_patch16_224": 23_398_696,
    "vil2_base_patch16_224": 89_263_528,
    "lstm_sequencer2d_s": 27_651_688,
    "lstm_sequencer2d_m": 38_307_688,
    "lstm_sequencer2d_l": 54_298_216,
}
"""Parameters, as reported by the authors or counted from their code."""
ABOUT = {"tiny": 6e6, "small": 22.5e6, "base": 87e6}  # of VisionRNN, ViT's of the same names


def test_listed():
    assert set(NAMES) == set(default_cfgs) and set(timm.list_models(["vil*", "*_sequencer2d_*", "visionrnn*", "pyramidrnn*"])) == set(NAMES)
    assert timm.list_models("vil2_tiny*", include_tags=True) == ["vil2_tiny_patch16_224.e400_in1k", "vil2_tiny_patch16_224.in1k"]
    assert timm.get_pretrained_cfg("vil2_tiny_patch16_224").tag == "in1k"
    assert all(timm.model_entrypoint(name).__name__ == name for name in NAMES)


def test_no_name_is_timms():
    theirs = [module for key, module in list(sys.modules.items()) if key.startswith("timm.models")]
    assert len(theirs) > 50 and not [name for name in NAMES if any(hasattr(module, name) for module in theirs)]


@pytest.mark.parametrize("name", NAMES)
def test_parameters(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    number = sum(parameter.numel() for parameter in model.parameters())
    assert type(model) is ENTRIES[name][0] and model.num_classes == 1000
    if name in PUBLISHED:
        assert number == PUBLISHED[name]
    elif name.startswith("visionrnn"):
        expected = ABOUT[name.split("_")[2]]
        assert abs(number / expected - 1) < 0.15
