"""Mamba-2's recurrence: one decay per head, with the projections of selective state spaces around it."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..recurrence import Recurrence
from .attention import gated_linear_attention


def state_space_dual(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limits: tuple[float, float] = (0.0, float("inf")),
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Mamba-2's state-space dual (Transformers are SSMs; Dao & Gu 2024).

        Δ_t = clamp(softplus(dt_t + dt_bias), *dt_limits)            (softplus only with dt_softplus)
        S_t = exp(Δ_t A) S_{t-1} + Δ_t x_t B_tᵀ ,   y_t = (S_t C_t + D ⊙ x_t) ⊙ SiLU(z_t)

    x, z: [B, T, H, P]; dt: [B, T, H]; A, dt_bias: [H], A negative; B, C: [B, T, G, N] where each of G groups serves H / G neighbouring
    heads; D: [H] or [H, P]. **States are value × key here, as in Mamba-2: [B, H, P, N]** (one row per sequence with cu_seqlens), zero
    when absent. Other arguments as in :func:`gated_linear_attention`. Returns y [B, T, H, P], and with ``return_final_state`` also the
    state after the last step.
    """
    options: dict[str, Any] = dict(cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, reverse=reverse, backend=backend)
    call = Recurrence("gated_linear", "gated_linear_attention", "x", x, **options)
    if x.dim() != 4 or B.dim() != 4:
        raise ValueError(f"x, B: expected [B, T, H, P] and [B, T, G, N], got {list(x.shape)} and {list(B.shape)}")
    batch, length, heads, width = x.shape
    groups, states = B.shape[2:]
    if groups == 0 or heads % groups:
        raise ValueError(f"B, C: {groups} groups do not divide {heads} heads evenly")
    inputs, z = call.checked("x", x, tuple(x.shape)), call.checked("z", z, tuple(x.shape))
    dt, dt_bias = call.checked("dt", dt, (batch, length, heads)), call.checked("dt_bias", dt_bias, (heads,))
    A, D = call.checked("A", A, (heads,)), call.checked("D", D, (heads, width) if D is not None and D.dim() == 2 else (heads,))
    B, C = (call.checked(name, value, (batch, length, groups, states)) for name, value in (("B", B), ("C", C)))
    if initial_state is not None:
        initial_state = call.checked("initial_state", initial_state, (call.sequences, heads, width, states)).transpose(-1, -2)
    dt = dt if dt_bias is None else dt + dt_bias
    dt = (F.softplus(dt) if dt_softplus else dt).clamp(*dt_limits)
    B, C = (value.repeat_interleave(heads // groups, 2) if groups < heads else value for value in (B, C))
    y, final = gated_linear_attention(C, B, dt[..., None] * inputs, dt * A, initial_state, scale=1.0, return_final_state=True, **options)
    if D is not None:
        y = y + (D if D.dim() == 2 else D[:, None]) * inputs
    y = (y if z is None else y * F.silu(z)).to(x.dtype)
    return (y, final.transpose(-1, -2).contiguous()) if return_final_state else y
