"""Ordered voxels → groups of at most G consecutive voxels, which an operator scans."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
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

    def reads(self, order: Tensor) -> Tensor:
        """Rows in scan order [N] → what the scanned tokens read, [N] (exact) or [S · G] (duplicate)."""
        return order if self.index is None else order.index_select(0, self.index)

    def finds(self, place: Tensor) -> Tensor:
        """Places of rows in the scan order [N] → among the scanned tokens."""
        return place if self.inverse is None else self.inverse.index_select(0, place)

    def cut(self, tokens: Tensor) -> Tensor:
        """Scanned tokens [N or S · G, C] → [1, N, C] packed (exact) or [S, G, C] (duplicate)."""
        return tokens.unsqueeze(0) if self.index is None else tokens.unflatten(0, (-1, self.max_seqlen))

    @property
    def tokens(self) -> int | None:
        """Number of scanned tokens where it differs from the number of voxels, otherwise None."""
        return None if self.index is None else len(self.index)


def make_groups(counts: tuple[int, ...], size: int, padding: str = "exact", device: torch.device | str = "cpu") -> Groups:
    """Groups for samples with ``counts`` voxels each (0 allowed), in groups of ``size``.

    All work is on the host, from the counts alone: nothing waits for a GPU.
    """
    if padding not in PADDINGS:
        raise ValueError(f"padding={padding!r}; expected one of {PADDINGS}")
    if size < 1:
        raise ValueError(f"group size: expected at least 1, got {size}")
    number = np.asarray(counts, dtype=np.int64)  # [B]
    groups = -(-number // size)
    start = number.cumsum() - number
    if padding == "exact":
        sample, rank = ranks(groups)
        bounds = np.append(start[sample] + rank * size, number.sum())
        return Groups(to_device(bounds, device), min(size, max(counts, default=0)))
    sample, rank = ranks(groups * size)
    copied = np.where(groups[sample] > 1, rank - size, rank % number[sample])
    index = start[sample] + np.where(rank < number[sample], rank, copied)
    padded = (groups * size).cumsum() - groups * size
    sample, rank = ranks(number)
    return Groups(None, size, to_device(index, device), to_device(padded[sample] + rank, device))


def ranks(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sample and rank inside it of every element, for samples of the given lengths [B]."""
    sample = np.repeat(np.arange(len(lengths)), lengths)
    return sample, np.arange(len(sample)) - (lengths.cumsum() - lengths)[sample]


def to_device(array: np.ndarray, device: torch.device | str) -> Tensor:
    """The array as a tensor there, without waiting for the device."""
    return torch.from_numpy(array).to(device, non_blocking=True)
