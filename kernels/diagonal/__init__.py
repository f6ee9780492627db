"""Diagonal recurrences: h_t = exp(log_decay_t) ⊙ h_{t-1} + x_t, and Mamba's selective scan with its projections in and out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import implementation
from ..packing import check_boundaries, packed_index, padded_index, reversal_index


def diagonal_scan(
    x: Tensor,
    log_decay: Tensor,
    initial_state: Tensor | None = None,
    *,
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """h_t = exp(log_decay_t) ⊙ h_{t-1} + x_t, for all t.

    x, log_decay: [B, T, D], log_decay ≤ 0; initial_state: [B, D] (or [S, D] with cu_seqlens), zero when absent.
    ``reverse`` runs from the last step to the first. ``cu_seqlens`` [S + 1] packs S sequences into B = 1; ``max_seqlen`` bounds
    their length and spares a GPU a synchronisation. Returns h [B, T, D], and with ``return_final_state`` also the state after the
    last step. Raises ValueError for wrong shapes, dtypes, devices and unknown back ends.
    """
    _check_like("log_decay", log_decay, x, tuple(x.shape))
    if x.dim() != 3:
        raise ValueError(f"x: expected [B, T, D], got {list(x.shape)}")
    layout = _Layout(x, initial_state, (x.shape[2],), cu_seqlens, max_seqlen, reverse)
    scan = implementation("diagonal", "diagonal_scan", backend, x.device.type)
    h, final = scan(layout.rows(x, blank=True), layout.rows(log_decay, blank=True), layout.state)
    h = layout.back(h)
    return (h, final) if return_final_state else h


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Mamba's selective state-space scan (S6; Gu & Dao 2023, algorithm 2).

        Δ_t = softplus(delta_t + delta_bias)            (softplus only with delta_softplus)
        h_t = exp(Δ_t A) ⊙ h_{t-1} + (Δ_t ⊙ u_t) B_tᵀ ,   y_t = (h_t C_t + D ⊙ u_t) ⊙ SiLU(z_t)

    u, delta, z: [B, T, D]; A: [D, N], negative; B, C: [B, T, N], or [B, T, G, N] where G groups share the channels evenly;
    D, delta_bias: [D]; initial_state: [B, D, N] (or [S, D, N] with cu_seqlens). Other arguments as in :func:`diagonal_scan`.
    Returns y [B, T, D], and with ``return_final_state`` also the state after the last step [B, D, N].
    """
    if u.dim() != 3:
        raise ValueError(f"u: expected [B, T, D], got {list(u.shape)}")
    batch, length, channels = u.shape
    if A.dim() != 2 or A.shape[0] != channels:
        raise ValueError(f"A: expected [{channels}, N], got {list(A.shape)}")
    states = A.shape[1]
    _check_like("delta", delta, u, (batch, length, channels))
    B, C = (value.unsqueeze(2) if value.dim() == 3 else value for value in (B, C))
    groups = B.shape[2] if B.dim() == 4 else 1
    for name, value in (("B", B), ("C", C)):
        _check_like(name, value, u, (batch, length, groups, states))
    if channels % groups:
        raise ValueError(f"B, C: {groups} groups do not divide {channels} channels evenly")
    for name, given, shape in (("A", A, A.shape), ("D", D, (channels,)), ("delta_bias", delta_bias, (channels,)), ("z", z, u.shape)):
        if given is not None:
            _check_like(name, given, u, tuple(shape))
    delta = delta if delta_bias is None else delta + delta_bias
    delta = F.softplus(delta) if delta_softplus else delta
    layout = _Layout(u, initial_state, (channels, states), cu_seqlens, max_seqlen, reverse)
    scan = implementation("diagonal", "selective_scan", backend, u.device.type)
    y, final = scan(layout.rows(u), layout.rows(delta, blank=True), A, layout.rows(B), layout.rows(C), layout.state)
    y = layout.back(y)
    y = y if D is None else y + D * u
    y = y if z is None else y * F.silu(z)
    return (y, final) if return_final_state else y


class _Layout:
    """Packed or batched, forward or reverse → padded rows that run forward, and back.

    Padded steps have decay exp(0) = 1 and no input, so they leave a state as it is: a final state needs no special case.
    """

    def __init__(
        self, like: Tensor, state: Tensor | None, state_shape: tuple, cu_seqlens: Tensor | None, max_seqlen: int | None, reverse: bool
    ):
        self.reverse = reverse
        index = None  # [S, T] position in the packed row
        rows, length = like.shape[:2]
        if cu_seqlens is not None:
            check_boundaries(cu_seqlens, rows, length)
            cu_seqlens = cu_seqlens.to(like.device)
            rows = cu_seqlens.numel() - 1
            index, self.valid = padded_index(cu_seqlens, length, max_seqlen)
            self.back_index = packed_index(cu_seqlens, length, reverse)
            if reverse and length:
                index = reversal_index(cu_seqlens, length)[index]
        self.index = index
        self.state = like.new_zeros(rows, *state_shape) if state is None else state
        _check_like("initial_state", self.state, like, (rows, *state_shape))

    def rows(self, value: Tensor, blank: bool = False) -> Tensor:
        """[B, T, ...] → rows that run forward. ``blank``: padded steps are zero, otherwise they hold anything finite.

        Packed rows lie time first in memory, as the chunkwise back end wants them.
        """
        if self.index is None:
            return value.flip(1) if self.reverse else value
        if value.shape[1] == 0:
            return value.new_zeros(*self.index.shape, *value.shape[2:])
        rows = value[0].index_select(0, self.index.T.flatten()).unflatten(0, self.index.T.shape)  # [T, S, ...]
        if blank:
            rows = torch.where(self.valid.T.reshape(*rows.shape[:2], *[1] * (rows.dim() - 2)), rows, 0)
        return rows.transpose(0, 1)

    def back(self, rows: Tensor) -> Tensor:
        """The inverse of :meth:`rows`."""
        if self.index is None:
            return rows.flip(1) if self.reverse else rows
        return rows.transpose(0, 1).flatten(0, 1).index_select(0, self.back_index).unsqueeze(0)


def _check_like(name: str, value: Tensor, like: Tensor, shape: tuple) -> None:
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"{name}: expected shape {list(shape)}, got {list(value.shape)}")
    if value.dtype != like.dtype or value.device != like.device:
        raise ValueError(f"{name}: expected {like.dtype} on {like.device}, got {value.dtype} on {value.device}")
