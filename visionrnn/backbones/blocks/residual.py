"""The block around any operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

import visionrnn.operators  # noqa: F401  registers the operators
from visionrnn.layers.drop_path import DropPath
from visionrnn.operators.base import Operator
from visionrnn.operators.mamba_fused import fuses, residual
from visionrnn.registry import OPERATORS


@dataclass(frozen=True)
class Place:
    """A block's place among all blocks of a backbone, in the order they run; starting values may depend on it."""

    index: int = 0
    count: int = 1


class ResidualBlock(nn.Module):
    """x + drop(LN(mixer(x))) with ``post_norm``, else x + drop(mixer(LN(x))).  [B, T, C] → [B, T, C].

    ``index`` (for x [1, N, C] with ``cu_seqlens``, where :meth:`scans_rows` says so): step p of the sequences is row ``index[p]``.
    """

    def __init__(self, dim: int, operator: Mapping | str, drop_path: float = 0.0, post_norm: bool = True):
        super().__init__()
        self.mixer: Any = build_mixer(operator, dim)
        self.norm = nn.LayerNorm(dim)
        self.drop_path = DropPath(drop_path)
        self.post_norm = post_norm

    def scans_rows(self, x: Tensor) -> bool:
        """Whether the block takes rows in any order, and an index."""
        return isinstance(self.mixer, Operator) and self.mixer.scans_rows(x)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None, index: Tensor | None = None) -> Tensor:
        given, dropping = x if self.post_norm else self.norm(x), self.training and self.drop_path.rate > 0
        if index is None:
            branch = self.mixer(given, cu_seqlens, max_seqlen)
        elif cu_seqlens is not None and not dropping and fuses(self.mixer, self.norm, x):
            return residual(self.mixer, x, given, self.norm if self.post_norm else None, index, cu_seqlens, max_seqlen)
        else:
            branch = self.mixer.through(given, index, cu_seqlens, max_seqlen)
        return x + self.drop_path(self.norm(branch) if self.post_norm else branch, cu_seqlens, index)


def build_mixer(operator: Mapping | str, dim: int) -> nn.Module:
    """The operator in its bidirectional form: its own where it has one, otherwise wrapped; one that is not causal stays as it is."""
    config = {"type": operator} if isinstance(operator, str) else dict(operator)
    kind = OPERATORS.get(config["type"])
    if getattr(kind, "has_bidirectional", False):
        return OPERATORS.build({"bidirectional": True, **config}, dim=dim)
    if not getattr(kind, "causal", True):
        return OPERATORS.build(config, dim=dim)
    return OPERATORS.build({"type": "bidirectional", "mixer": config}, dim=dim)
