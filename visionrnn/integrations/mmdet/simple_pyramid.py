"""Several resolutions from the one of a plain backbone."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of [B, C, H, W]."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@MODELS.register_module()
class SimplePyramid(BaseModule):
    """The last map [B, in_channels, H, W] of a plain backbone → maps [B, out_channels, s · H, s · W] for each s of ``scales``.

    s = 4 and 2: transposed convolutions of stride 2 that halve the channels; 1: as it is; 1/2, 1/4, …: maxima of 2 × 2. Then a linear map
    and a 3 × 3 convolution, each with a norm (Li et al. 2022, "Exploring plain vision transformer backbones for object detection").
    Raises ValueError for another scale, and for channels that cannot be halved.
    """

    def __init__(self, in_channels: int, out_channels: int = 256, scales: Sequence[float] = (4, 2, 1, 0.5), init_cfg: dict | None = None):
        super().__init__(init_cfg)
        self.levels = nn.ModuleList(
            nn.Sequential(*self._resample(scale, in_channels), *self._shape(scale, in_channels, out_channels)) for scale in scales
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(level(maps[-1]) for level in self.levels)

    @staticmethod
    def _resample(scale: float, width: int) -> list[nn.Module]:
        if scale not in (4, 2, 1) and (scale >= 1 or (1 / scale) not in (2, 4, 8, 16)):
            raise ValueError(f"scale {scale}: expected 4, 2, 1, 1/2, 1/4, …")
        if width % max(scale, 1):
            raise ValueError(f"in_channels={width}: expected a multiple of {scale}, the largest scale")
        if scale == 4:
            half = width // 2
            return [
                nn.ConvTranspose2d(width, half, 2, 2),
                ChannelNorm(half, eps=1e-6),
                nn.GELU(),
                nn.ConvTranspose2d(half, half // 2, 2, 2),
            ]
        if scale == 2:
            return [nn.ConvTranspose2d(width, width // 2, 2, 2)]
        return [] if scale == 1 else [nn.MaxPool2d(round(1 / scale))]

    @staticmethod
    def _shape(scale: float, width: int, out: int) -> list[nn.Module]:
        into = width // int(max(scale, 1))
        parts = [nn.Conv2d(into, out, 1, bias=False), ChannelNorm(out, eps=1e-6), nn.Conv2d(out, out, 3, padding=1, bias=False)]
        return [*parts, ChannelNorm(out, eps=1e-6)]
