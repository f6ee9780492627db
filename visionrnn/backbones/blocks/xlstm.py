"""LION's xLSTM block: the pair of mLSTM layers of Vision-LSTM, one along the sequence and one against it."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from visionrnn.backbones.blocks.residual import Place
from visionrnn.layers.drop_path import DropPath
from visionrnn.layers.norm import OffsetLayerNorm
from visionrnn.operators.mlstm import MLSTM
from visionrnn.registry import BLOCKS


@BLOCKS.register("xlstm")
class XLSTMBlock(nn.Module):
    """x ← x + mlstm(LN x) ;  x ← x + mlstm(LN x) run from the last step to the first.  [B, T, C] → [B, T, C].

    The norms store their gain as its difference from one, so that weight decay pulls it there, as in the published weights.
    ``drop_path`` drops each group with that probability; the authors' code keeps a fixed share of the groups instead. Other
    options: those of :class:`visionrnn.operators.mlstm.MLSTM`. Source: LION (Liu et al. 2024), after Vision-LSTM (Alkin et al. 2024).
    """

    def __init__(
        self,
        dim: int,
        place: Place | None = None,
        drop_path: float = 0.0,
        num_heads: int = 4,
        expand: int = 2,
        d_conv: int = 4,
        backend: str = "auto",
    ):
        super().__init__()
        options: dict[str, Any] = dict(num_heads=num_heads, expand=expand, d_conv=d_conv, backend=backend)
        self.ahead, self.back = (MLSTMBranch(dim, drop_path, reverse=reverse, **options) for reverse in (False, True))

    def scans_rows(self, x: Tensor) -> bool:
        """Whether the block takes rows in any order, and an index."""
        return self.ahead.mixer.scans_rows(x)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None, index: Tensor | None = None) -> Tensor:
        return self.back(self.ahead(x, cu_seqlens, max_seqlen, index), cu_seqlens, max_seqlen, index)


class MLSTMBranch(nn.Module):
    """x + drop(mlstm(LN x)). ``options`` are the operator's.  [B, T, C] → [B, T, C]."""

    def __init__(self, dim: int, drop_path: float, **options: Any):
        super().__init__()
        self.norm = OffsetLayerNorm(dim)
        self.mixer = MLSTM(dim, bias=True, offset_norm=True, **options)
        nn.init.normal_(self.mixer.down_proj.weight, std=2 / math.sqrt(dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None, max_seqlen: int | None = None, index: Tensor | None = None) -> Tensor:
        if cu_seqlens is None or index is None:
            branch = self.mixer(self.norm(x), cu_seqlens, max_seqlen)
        else:
            branch = self.mixer.through(self.norm(x), index, cu_seqlens, max_seqlen)
        return x + self.drop_path(branch, cu_seqlens, index)
