"""Mamba-2's recurrence: one decay per head, with the projections of selective state spaces around it."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..ordered import ordered
from ..recurrence import Recurrence
from .attention import attend


@ordered("gated_linear", "gated_linear_attention", timed=("x", "dt", "B", "C", "z"), rank=4, constants=("A", "D", "dt_bias"))
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
    index: Tensor | None = None,
    direction: str | None = None,
    merge: str = "sum",
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
    options |= dict(index=index, direction=direction)
    call = Recurrence("gated_linear", "gated_linear_attention", "x", x, **options)
    if x.dim() != 4 or B.dim() != 4:
        raise ValueError(f"x, B: expected [B, T, H, P] and [B, T, G, N], got {list(x.shape)} and {list(B.shape)}")
    batch, length, heads, width = x.shape
    groups, states = B.shape[2:]
    if groups == 0 or heads % groups:
        raise ValueError(f"B, C: {groups} groups do not divide {heads} heads evenly")
    inputs, z = call.checked("x", x, tuple(x.shape)), call.checked("z", z, tuple(x.shape))
    axes = (2,) if call.own else ()  # of constants that each direction has of its own
    wide = D is not None and D.dim() == len(axes) + 2
    dt, dt_bias = call.checked("dt", dt, (batch, length, heads)), call.checked("dt_bias", dt_bias, (*axes, heads))
    A, D = call.checked("A", A, (*axes, heads)), call.checked("D", D, (*axes, heads, width) if wide else (*axes, heads))
    B, C = (call.checked(name, value, (batch, length, groups, states)) for name, value in (("B", B), ("C", C)))
    if initial_state is not None:
        initial_state = call.checked("initial_state", initial_state, (call.sequences, heads, width, states)).transpose(-1, -2)
    if call.own:
        A = _beside(A, batch)
        D, dt_bias = (None if value is None else _beside(value, batch) for value in (D, dt_bias))
    dt = dt if dt_bias is None else dt + dt_bias
    dt = (F.softplus(dt) if dt_softplus else dt).clamp(*dt_limits)
    B, C = (value.repeat_interleave(heads // groups, 2) if groups < heads else value for value in (B, C))
    y, final = attend(C, B, dt[..., None] * inputs, dt * A, initial_state, scale=1.0, return_final_state=True, **options)
    directions = y.reshape(2 if call.both is not None and not call.own else 1, *x.shape)  # two where both read the same inputs
    if D is not None:
        directions = directions + (D if wide else D[..., None]) * inputs
    y = (directions if z is None else directions * F.silu(z)).flatten(0, 1).to(x.dtype)
    return (y, final.transpose(-1, -2).contiguous()) if return_final_state else y


def _beside(value: Tensor, batch: int) -> Tensor:
    """Constants [2, ...] of both directions → [batch, 1, ...], as they lie in the batch."""
    return value.repeat_interleave(batch // 2, 0).unsqueeze(1)
