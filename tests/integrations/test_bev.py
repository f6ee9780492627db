"""ResSECOND: residual blocks by hand, shapes with mmdet3d's SECONDFPN, names and shapes of the published weights."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

pytest.importorskip("mmdet3d")

import visionrnn.integrations.mmdet3d  # noqa: F401  (makes mmdet3d importable)

# isort: split
from mmdet3d.registry import MODELS

from visionrnn.integrations.mmdet3d.bev import NORM, ResidualBlock, ResSECOND

WAYMO, NUSCENES = (1, 2, 4), (0.5, 1, 2)


def nets(strides: tuple[float, ...], in_channels: int = 128, widths: tuple[int, ...] = (128, 128, 256), out: int = 128) -> tuple:
    neck = dict(type="SECONDFPN", in_channels=list(widths), out_channels=[out] * 3, upsample_strides=list(strides), norm_cfg=dict(NORM))
    return ResSECOND(in_channels, widths), MODELS.build(neck)


def test_block_by_hand():
    """One channel, kernels that only scale, norms of running mean 0 and variance 1: y = relu(b · relu(a · x) + way past)."""
    block = ResidualBlock(1, 1, 2, True, dict(NORM, eps=0.0)).eval()
    for conv, scale in ((block.conv1, 2.0), (block.conv2, -0.5)):
        conv.weight.data = torch.zeros(1, 1, 3, 3)
        conv.weight.data[0, 0, 1, 1] = scale
    block.downsample_layer[0].weight.data.fill_(3.0)
    x = torch.tensor([[1.0, 9, -1, 9], [9, 9, 9, 9]])[None, None]  # stride 2 keeps the first and third of the upper row
    assert block(x).flatten().tolist() == [2.0, 0.0]  # −0.5 · 2 + 3 and relu(−3)


@pytest.mark.parametrize("strides, expected", [(WAYMO, (12, 16)), (NUSCENES, (6, 8))])
def test_maps_and_gradients(strides, expected):
    backbone, neck = nets(strides, 6, (8, 8, 16), 4)
    maps = backbone(torch.randn(2, 6, 12, 16))
    assert [tuple(x.shape) for x in maps] == [(2, 8, 12, 16), (2, 8, 6, 8), (2, 16, 3, 4)]
    (out,) = neck(maps)
    assert out.shape == (2, 12, *expected)
    out.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in (*backbone.parameters(), *neck.parameters()))


@pytest.mark.parametrize(
    "model, strides, channels",
    [("Waymo/mamba", WAYMO, 128), ("WaymoL/mamba", WAYMO, 256), ("nuScenes/rwkv", NUSCENES, 256)],
)
def test_names_and_shapes_are_the_published_ones(shared_dir, model, strides, channels):
    published = json.loads(gzip.decompress((shared_dir / "goldens/lion/checkpoint_keys.json.gz").read_bytes()))["models"][model]["keys"]
    backbone, neck = nets(strides, channels)
    ours = {f"backbone_2d.{name}": list(value.shape) for net in (backbone, neck) for name, value in net.state_dict().items()}
    assert ours == {name: shape for name, shape in published.items() if name.startswith("backbone_2d.")}


def test_stages_must_agree():
    with pytest.raises(ValueError, match="one entry per stage"):
        ResSECOND(8, (8, 8), (1,), (1, 2))
