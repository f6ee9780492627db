"""Networks on bird's-eye maps that mmdet3d lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmcv.cnn import build_norm_layer
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

NORM: Mapping[str, Any] = {"type": "BN", "eps": 1e-3, "momentum": 0.01}


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions with norms and a way past them, which is a 1 × 1 convolution where ``project`` is set (He et al. 2016)."""

    def __init__(self, in_channels: int, channels: int, stride: int, project: bool, norm_cfg: Mapping[str, Any]):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = build_norm_layer(dict(norm_cfg), channels)[1]
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = build_norm_layer(dict(norm_cfg), channels)[1]
        self.relu = nn.ReLU(inplace=True)
        self.downsample_layer = None
        if project:
            norm = build_norm_layer(dict(norm_cfg), channels)[1]
            self.downsample_layer = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), norm)

    def forward(self, x: Tensor) -> Tensor:
        past = x if self.downsample_layer is None else self.downsample_layer(x)
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + past)


@MODELS.register_module()
class ResSECOND(BaseModule):
    """Stages of residual blocks on a bird's-eye map, as DSVT (Wang et al. 2023) and LION use them on Waymo and nuScenes.

    [B, ``in_channels``, Y, X] → one map [B, ``out_channels``[i], …] per stage, the input of mmdet3d's SECONDFPN. Stage i starts with a
    block of stride ``layer_strides``[i] whose way past has a 1 × 1 convolution; ``layer_nums``[i] plain blocks follow. Options are named
    as mmdet3d's SECOND has them. Raises ValueError when the lists differ in length.
    """

    def __init__(
        self,
        in_channels: int = 128,
        out_channels: Sequence[int] = (128, 128, 256),
        layer_nums: Sequence[int] = (1, 2, 2),
        layer_strides: Sequence[int] = (1, 2, 2),
        norm_cfg: Mapping[str, Any] = NORM,
        init_cfg: dict[str, Any] | None = None,
    ):
        super().__init__(init_cfg=init_cfg)
        if not len(out_channels) == len(layer_nums) == len(layer_strides):
            lengths = f"{len(out_channels)}, {len(layer_nums)} and {len(layer_strides)}"
            raise ValueError(f"out_channels, layer_nums, layer_strides: expected one entry per stage in each, got {lengths}")
        widths = (in_channels, *out_channels)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                ResidualBlock(widths[i], channels, stride, True, norm_cfg),
                *(ResidualBlock(channels, channels, 1, False, norm_cfg) for _ in range(number)),
            )
            for i, (channels, number, stride) in enumerate(zip(out_channels, layer_nums, layer_strides, strict=True))
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for stage in self.blocks:
            x = stage(x)
            maps.append(x)
        return tuple(maps)
