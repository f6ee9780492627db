"""The block around any operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

import visionrnn.operators  # noqa: F401  registers the operators
from visionrnn.layers.drop_path import DropPath
from visionrnn.registry import OPERATORS


@dataclass(frozen=True)
class Place:
    """A block's place among all blocks of a backbone, in the order they run; starting values may depend on it."""

    index: int = 0
    count: int = 1


class ResidualBlock(nn.Module):
    """x + drop(LN(mixer(x))) with ``post_norm``, else x + drop(mixer(LN(x))).  [B, T, C] → [B, T, C]."""

    def __init__(self, dim: int, operator: Mapping | str, drop_path: float = 0.0, post_norm: bool = True):
        super().__init__()
        self.mixer = build_mixer(operator, dim)
        self.norm = nn.LayerNorm(dim)
        self.drop_path = DropPath(drop_path)
        self.post_norm = post_norm

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None) -> Tensor:
        branch = self.mixer(x if self.post_norm else self.norm(x), cu_seqlens, max_seqlen)
        return x + self.drop_path(self.norm(branch) if self.post_norm else branch, cu_seqlens)


def build_mixer(operator: Mapping | str, dim: int) -> nn.Module:
    """The operator in its bidirectional form: its own where it has one, otherwise wrapped; one that is not causal stays as it is."""
    config = {"type": operator} if isinstance(operator, str) else dict(operator)
    kind = OPERATORS.get(config["type"])
    if getattr(kind, "has_bidirectional", False):
        return OPERATORS.build({"bidirectional": True, **config}, dim=dim)
    if not getattr(kind, "causal", True):
        return OPERATORS.build(config, dim=dim)
    return OPERATORS.build({"type": "bidirectional", "mixer": config}, dim=dim)
