"""Ordered voxels → groups of at most G consecutive voxels, which an operator scans."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PADDINGS = ("exact", "duplicate")


@dataclass(frozen=True)
class Groups:
    """How N ordered voxels are cut. A group never spans two samples.

    exact: groups are packed, the tail group of a sample is shorter; ``cu_seqlens`` [S + 1] are the boundaries, ``max_seqlen`` the longest.
    duplicate (the official code's way): all groups have ``max_seqlen`` voxels; the tail is filled with copies of the sample's voxels,
    which are scanned, after the real ones, and dropped. ``index`` [S · G] reads voxels, ``inverse`` [N] finds each voxel's real place.
    """

    cu_seqlens: Tensor | None
    max_seqlen: int
    index: Tensor | None = None
    inverse: Tensor | None = None

    def gather(self, ordered: Tensor) -> Tensor:
        """[N, C] in scan order → [1, N, C] packed (exact) or [S, G, C] (duplicate)."""
        if self.index is None:
            return ordered.unsqueeze(0)
        return ordered.index_select(0, self.index).unflatten(0, (-1, self.max_seqlen))

    def scatter(self, grouped: Tensor) -> Tensor:
        """The real voxels of :meth:`gather`'s result, [N, C] in scan order."""
        return grouped.flatten(0, 1) if self.inverse is None else grouped.flatten(0, 1).index_select(0, self.inverse)


def make_groups(counts: tuple[int, ...], size: int, padding: str = "exact", device: torch.device | str = "cpu") -> Groups:
    """Groups for samples with ``counts`` voxels each (0 allowed), in groups of ``size``.

    All work is on the host, from the counts alone: nothing waits for a GPU.
    """
    if padding not in PADDINGS:
        raise ValueError(f"padding={padding!r}; expected one of {PADDINGS}")
    if size < 1:
        raise ValueError(f"group size: expected at least 1, got {size}")
    number = torch.tensor(counts, dtype=torch.long)  # [B]
    groups = (number + size - 1) // size
    start = number.cumsum(0) - number
    if padding == "exact":
        sample, rank = _ranks(groups)
        cu_seqlens = torch.cat([start[sample] + rank * size, number.sum(0, keepdim=True)])
        return Groups(cu_seqlens.to(device, non_blocking=True), min(size, max(counts, default=0)))
    sample, rank = _ranks(groups * size)
    copied = torch.where(groups[sample] > 1, rank - size, rank % number[sample])
    index = start[sample] + torch.where(rank < number[sample], rank, copied)
    padded = (groups * size).cumsum(0) - groups * size
    sample, rank = _ranks(number)
    inverse = padded[sample] + rank
    return Groups(None, size, index.to(device, non_blocking=True), inverse.to(device, non_blocking=True))


def _ranks(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Sample and rank inside it of every element, for samples of the given lengths [B]."""
    sample = torch.arange(len(lengths)).repeat_interleave(lengths)
    return sample, torch.arange(len(sample)) - (lengths.cumsum(0) - lengths)[sample]
