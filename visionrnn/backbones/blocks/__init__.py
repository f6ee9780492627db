"""Residual blocks of LION, by the name of what scans. Every module of this package registers its blocks; the others are wrapped."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping

from torch import nn

from visionrnn.backbones.blocks.residual import Place, ResidualBlock
from visionrnn.registry import BLOCKS, OPERATORS

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Place", "ResidualBlock", "build_block"]


def build_block(operator: Mapping | str, dim: int, place: Place, drop_path: float = 0.0) -> nn.Module:
    """LION's own block of that name where there is one, otherwise a registered operator in a :class:`ResidualBlock`.

    A block maps x [B, T, C], cu_seqlens, max_seqlen → [B, T, C], residuals, norms and feed-forward layers included. Raises KeyError for
    an unknown name or none, TypeError for an unknown option.
    """
    config = {"type": operator} if isinstance(operator, str) else dict(operator)
    known = sorted({*BLOCKS, *OPERATORS})
    if config.get("type") not in known:
        raise KeyError(f"operator={operator!r}: expected 'type' to be one of {known}")
    if config["type"] in BLOCKS:
        return BLOCKS.build(config, dim=dim, place=place, drop_path=drop_path)
    return ResidualBlock(dim, config, drop_path)
