"""LION's Mamba block."""

from __future__ import annotations

from typing import Any

from visionrnn.backbones.blocks.residual import Place, ResidualBlock
from visionrnn.registry import BLOCKS


@BLOCKS.register("mamba")
class MambaBlock(ResidualBlock):
    """Bidirectional Mamba, the residual's norm after it (``post_norm`` False: before it); other options are the operator's."""

    def __init__(self, dim: int, place: Place | None = None, drop_path: float = 0.0, post_norm: bool = True, **options: Any):
        super().__init__(dim, {"type": "mamba", **options}, drop_path, post_norm)
