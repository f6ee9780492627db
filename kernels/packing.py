"""Packed sequences [1, N, ...] with boundaries ``cu_seqlens`` ↔ padded rows [S, T, ...]; rows in another order."""

from typing import Any

import torch
from torch import Tensor


def boundaries(cu_seqlens: Tensor, like: Tensor) -> Tensor:
    """``cu_seqlens`` [S + 1] as int64 beside ``like`` [1, N, ...]. Raises ValueError for anything but 0 = first ≤ … ≤ last = N.

    Values are checked on a CPU only: a GPU would have to be waited for. In a traced graph the check is an op that runs with it.
    """
    batch, length = like.shape[:2]
    if batch != 1:
        raise ValueError(f"cu_seqlens goes with batch size 1 (all sequences packed along time); got batch size {batch}")
    if cu_seqlens.dim() != 1 or cu_seqlens.numel() < 1 or cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"cu_seqlens: expected integers [S + 1], got {cu_seqlens.dtype} {list(cu_seqlens.shape)}")
    if cu_seqlens.device.type == "cpu" and torch.compiler.is_compiling():
        cu_seqlens = _checked_values(cu_seqlens, length)
    elif cu_seqlens.device.type == "cpu":
        check_values(cu_seqlens, length)
    return cu_seqlens.to(like.device, torch.int64).contiguous()


def check_values(cu_seqlens: Tensor, length: int) -> None:
    """Raises ValueError unless 0 = first ≤ … ≤ last = length."""
    values = cu_seqlens.detach().numpy()  # the host's own memory: no tensor operations
    if values[0] != 0 or values[-1] != length or (values[1:] < values[:-1]).any():
        raise ValueError(f"cu_seqlens: expected 0 ≤ … ≤ {length} (the packed length) in rising order, got {cu_seqlens.tolist()}")


@torch.library.custom_op("visionrnn::checked_boundaries", mutates_args=(), device_types="cpu")
def _checked_values(cu_seqlens: Tensor, length: int) -> Tensor:
    check_values(cu_seqlens, length)
    return cu_seqlens.clone()


@_checked_values.register_fake
def _(cu_seqlens, length):
    return cu_seqlens.new_empty(cu_seqlens.shape)


def padded_index(cu_seqlens: Tensor, length: int, max_seqlen: int | None = None) -> tuple[Tensor, Tensor]:
    """Index and validity of the padded form.

    Returns ``index`` [S, T], position in the packed row of step t of sequence s (clamped where s is shorter than T), and
    ``valid`` [S, T]. T is ``max_seqlen``, or the longest sequence (a host synchronisation on a GPU).
    """
    starts, lengths = cu_seqlens[:-1].long(), cu_seqlens.diff().long()
    if max_seqlen is None:
        max_seqlen = int(lengths.max()) if lengths.numel() else 0
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


def permuted(value: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """[B, T · r, ...] → the same with position p holding what row ``index[p]`` of the N = B · T did, r rows at a time."""
    if not value.numel():
        return value
    rows = value.flatten(0, 1).unflatten(0, (len(index), -1))
    return permuted_rows(rows, index, inverse).flatten(0, 1).view(value.shape)


def permuted_rows(rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """rows[index], [N, ...], for a permutation: with its inverse the gradient is gathered rather than added up."""
    return _Permutation.apply(rows, index, inverse)


class _Permutation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.index, ctx.inverse = index, inverse
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _Permutation.apply(grad, ctx.inverse, ctx.index), None, None


class Rows:
    """Packed or batched, forward or reverse → padded rows [S, T, ...] that run forward, and back.

    Packed rows lie time first in memory, [T, S, ...], as chunk-by-chunk loops want them.
    """

    def __init__(self, like: Tensor, cu_seqlens: Tensor | None, max_seqlen: int | None, reverse: bool):
        self.reverse = reverse
        self.index = None  # [S, T] position in the packed row
        if cu_seqlens is not None:
            length = like.shape[1]
            index, self.valid = padded_index(cu_seqlens, length, max_seqlen)
            self.back_index = packed_index(cu_seqlens, length, reverse)
            self.index = reversal_index(cu_seqlens, length)[index] if reverse and length else index

    def lay(self, value: Tensor, blank: float | None) -> Tensor:
        """[B, T, ...] → rows that run forward. ``blank`` stands in padded steps; None: anything finite that the packed row holds."""
        if self.index is None:
            return value.flip(1) if self.reverse else value
        if value.shape[1] == 0:
            return value.new_zeros(*self.index.shape, *value.shape[2:])
        rows = value[0].index_select(0, self.index.T.flatten()).unflatten(0, self.index.T.shape)  # [T, S, ...]
        if blank is not None:
            rows = torch.where(self.valid.T.reshape(*rows.shape[:2], *[1] * (rows.dim() - 2)), rows, blank)
        return rows.transpose(0, 1)

    def back(self, rows: Tensor) -> Tensor:
        """The inverse of :meth:`lay`."""
        if self.index is None:
            return rows.flip(1) if self.reverse else rows
        return rows.transpose(0, 1).flatten(0, 1).index_select(0, self.back_index).unsqueeze(0)
