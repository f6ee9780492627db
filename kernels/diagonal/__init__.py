"""Diagonal recurrences: h_t = exp(log_decay_t) ⊙ h_{t-1} + x_t, and Mamba's selective scan with its projections in and out."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..recurrence import Recurrence


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
    call = Recurrence("diagonal", "diagonal_scan", "x", x, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, reverse=reverse, backend=backend)
    shape = tuple(x.shape[2:])
    call.timed("x", x, shape, blank=0)
    call.timed("log_decay", log_decay, shape, blank=0)
    call.state("state", initial_state, shape)
    h, final = call.run()
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
    channels = u.shape[-1]
    if A.dim() != 2 or A.shape[0] != channels:
        raise ValueError(f"A: expected [{channels}, N], got {list(A.shape)}")
    states = A.shape[1]
    B, C = (value.unsqueeze(2) if value.dim() == 3 else value for value in (B, C))
    groups = B.shape[2] if B.dim() == 4 else 1
    if channels % groups:
        raise ValueError(f"B, C: {groups} groups do not divide {channels} channels evenly")
    call = Recurrence("diagonal", "selective_scan", "u", u, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, reverse=reverse, backend=backend)
    D, z = call.checked("D", D, (channels,)), call.checked("z", z, tuple(u.shape))
    delta, delta_bias = call.checked("delta", delta, tuple(u.shape)), call.checked("delta_bias", delta_bias, (channels,))
    delta = delta if delta_bias is None else delta + delta_bias
    call.timed("u", u, (channels,))
    call.timed("delta", F.softplus(delta) if delta_softplus else delta, (channels,), blank=0)
    call.constant("A", A, (channels, states))
    call.timed("B", B, (groups, states))
    call.timed("C", C, (groups, states))
    call.state("state", initial_state, (channels, states))
    y, final = call.run()
    y = y if D is None else y + D * u
    y = y if z is None else y * F.silu(z)
    return (y.to(u.dtype), final) if return_final_state else y.to(u.dtype)
