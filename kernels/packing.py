"""Packed sequences [1, N, ...] with boundaries ``cu_seqlens`` ↔ padded rows [S, T, ...]."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def check_boundaries(cu_seqlens: Tensor, batch: int, length: int) -> None:
    """``cu_seqlens``: integer [S + 1], 0 = first ≤ … ≤ last = N. Values are checked on a CPU only: a GPU would have to be waited for."""
    if batch != 1:
        raise ValueError(f"cu_seqlens goes with batch size 1 (all sequences packed along time); got batch size {batch}")
    if cu_seqlens.dim() != 1 or cu_seqlens.numel() < 1 or cu_seqlens.is_floating_point():
        raise ValueError(f"cu_seqlens: expected integers [S + 1], got {cu_seqlens.dtype} {list(cu_seqlens.shape)}")
    if cu_seqlens.device.type == "cpu":
        values = cu_seqlens.tolist()
        if values[0] != 0 or values[-1] != length or any(a > b for a, b in pairwise(values)):
            raise ValueError(f"cu_seqlens: expected 0 ≤ … ≤ {length} (the packed length) in rising order, got {values}")


def padded_index(cu_seqlens: Tensor, length: int, max_seqlen: int | None = None) -> tuple[Tensor, Tensor]:
    """Index and validity of the padded form.

    Returns ``index`` [S, T], position in the packed row of step t of sequence s (clamped where s is shorter than T), and
    ``valid`` [S, T]. T is ``max_seqlen``, or the longest sequence (a host synchronisation on a GPU).
    """
    starts, lengths = cu_seqlens[:-1].long(), cu_seqlens.diff().long()
    if max_seqlen is None:
        max_seqlen = int(lengths.max())
    steps = torch.arange(max_seqlen, device=cu_seqlens.device)
    return (starts[:, None] + steps).clamp_(max=max(length - 1, 0)), steps < lengths[:, None]


def packed_index(cu_seqlens: Tensor, length: int, reverse: bool = False) -> Tensor:
    """[N]: where each packed step stands in padded rows, time first [T · S]; ``reverse``: rows that hold the sequences backwards."""
    positions = torch.arange(length, device=cu_seqlens.device)
    bounds, sequence = cu_seqlens.long(), sequence_of(cu_seqlens, length)
    step = bounds[sequence + 1] - 1 - positions if reverse else positions - bounds[sequence]
    return step * (cu_seqlens.numel() - 1) + sequence


def sequence_of(cu_seqlens: Tensor, length: int) -> Tensor:
    """[N]: number of the sequence that each packed step belongs to."""
    positions = torch.arange(length, device=cu_seqlens.device)
    return torch.bucketize(positions, cu_seqlens[1:].long(), right=True)


def reversal_index(cu_seqlens: Tensor, length: int) -> Tensor:
    """[N]: the permutation that reverses every packed sequence in place (it is its own inverse)."""
    bounds, sequence = cu_seqlens.long(), sequence_of(cu_seqlens, length)
    return bounds[sequence] + bounds[sequence + 1] - 1 - torch.arange(length, device=cu_seqlens.device)
