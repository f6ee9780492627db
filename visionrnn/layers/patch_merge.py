"""Four neighbouring tokens of a grid → one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionrnn.layers.linear import Linear
from visionrnn.serialization.constants import kept
from visionrnn.serialization.grids import Grids


class PatchMerging(nn.Module):
    """The channels of 2 × 2 tokens side by side → LayerNorm → linear: half the rows and columns, ``out_dim`` channels.

    An odd row or column at the end is merged with zeros, so that sizes are rounded up. Source: Liu et al. 2021, "Swin Transformer".
    """

    def __init__(self, dim: int, out_dim: int, eps: float = 1e-6):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=eps)
        self.reduction = Linear(4 * dim, out_dim, bias=False)

    def forward(self, tokens: Tensor, grids: Grids) -> tuple[Tensor, Grids]:
        """Tokens [B, T, C] (or packed) → [B, ⌈H / 2⌉ · ⌈W / 2⌉, out_dim], and their grids."""
        coarse = Grids(tuple((-(-height // 2), -(-width // 2)) for height, width in grids.sizes), grids.packed)
        if grids.packed:
            index = _quadruples(grids.sizes, tokens.device)
            tokens = F.pad(tokens, (0, 0, 0, 1)).index_select(1, index)  # the row behind the last token is what lies outside the grids
        else:
            (height, width), (rows, columns) = grids.sizes[0], coarse.sizes[0]
            image = tokens.unflatten(1, (height, width))
            if height % 2 or width % 2:
                image = F.pad(image, (0, 0, 0, width % 2, 0, height % 2))
            tokens = image.unflatten(2, (columns, 2)).unflatten(1, (rows, 2)).transpose(2, 3)  # [B, rows, columns, 2, 2, C]
        tokens = tokens.reshape(tokens.shape[0], sum(coarse.lengths), self.reduction.in_features)
        return self.reduction(self.norm(tokens)), coarse


@kept(64)
def _quadruples(sizes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """[4 Σ T]: for every merged token the four packed tokens it is made of, row by row; their whole number for one outside."""
    parts, start, total = [], 0, sum(height * width for height, width in sizes)
    for height, width in sizes:
        index = torch.arange(start, start + height * width).view(height, width)
        index = F.pad(index, (0, width % 2, 0, height % 2), value=total)
        parts.append(index.unflatten(1, (-1, 2)).unflatten(0, (-1, 2)).transpose(1, 2).flatten())
        start += height * width
    return torch.cat(parts).to(device, non_blocking=True)
