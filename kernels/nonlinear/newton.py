"""Nonlinear cells whose units only see themselves, solved for all steps at once by Newton's method."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..diagonal import diagonal_scan
from ..packing import sequence_of
from ..recurrence import Recurrence


def newton_rnn(
    x: Tensor,
    weight: Tensor,
    initial_state: Tensor | None = None,
    *,
    cell: str = "gru",
    max_iterations: int = 32,
    tolerance: float | None = None,
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """A recurrent network with a diagonal recurrent matrix, in parallel over time (ParaRNN; Danieli et al. 2025).

        elman   h_t = tanh(x + w h_{t-1})
        gru     r, z = σ(x_r + w_r h_{t-1}), σ(x_z + w_z h_{t-1}) ;   h_t = z h_{t-1} + (1 - z) tanh(x_n + r w_n h_{t-1})

    the same as :func:`nonlinear_rnn` with heads of one unit. For all t at once, h_t = f_t(h_{t-1}) is solved by Newton's method: each
    iteration is one diagonal scan with the derivatives f'_t(h_{t-1}) as decays, on ``backend`` of :func:`diagonal_scan`. It ends when
    no state moves by more than ``tolerance`` (by default the type's rounding unit to the power 2/3: the next iteration would square
    the error). The gradient is exact, by one linear scan back, whatever the number of iterations was.

    x: [B, T, G, D], gates r, z, n for the GRU (G = 3) and one for elman; weight: [G, D]; initial_state: [B, D] (or [S, D] with
    cu_seqlens), zero when absent. Other arguments as in :func:`diagonal_scan`. Returns h [B, T, D], and with ``return_final_state``
    also the state after the last step. Raises RuntimeError when it has not converged after ``max_iterations``, which happens when the
    recurrent weights are so large that a cell expands differences; ValueError for wrong shapes, dtypes, devices, cells and back ends.
    """
    if cell not in GATES:
        raise ValueError(f"cell={cell!r}; expected one of {sorted(GATES)}")
    if x.dim() != 4 or x.shape[2] != GATES[cell]:
        raise ValueError(f"x: expected [B, T, {GATES[cell]}, D] for cell={cell!r}, got {list(x.shape)}")
    call = Recurrence("diagonal", "diagonal_scan", "x", x, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, reverse=reverse, backend=backend)
    dtype, width = x.dtype, x.shape[3]
    x, weight = call.checked("x", x, tuple(x.shape)), call.checked("weight", weight, (GATES[cell], width))
    start = (
        x.new_zeros(call.sequences, width)
        if initial_state is None
        else call.checked("initial_state", initial_state, (call.sequences, width))
    )
    scan: dict[str, Any] = dict(reverse=reverse, cu_seqlens=call.cu_seqlens, max_seqlen=max_seqlen, backend=backend)
    tolerance = torch.finfo(x.dtype).eps ** (2 / 3) if tolerance is None else tolerance
    with torch.no_grad():
        before = _solve(x, weight, start, cell, max_iterations, tolerance, scan)
    h, final = _iteration(x, weight, start, before, cell, scan)  # once more, to carry the gradient
    return (h.to(dtype), final) if return_final_state else h.to(dtype)


def _solve(x: Tensor, weight: Tensor, start: Tensor, cell: str, max_iterations: int, tolerance: float, scan: dict[str, Any]) -> Tensor:
    """h_{t-1} for every t, [B, T, D]. States stay where these cells can be, so that a bad iterate does no harm to the next."""
    bound = float(start.abs().max().clamp(min=1)) if start.numel() else 1.0
    h, moved = x.new_zeros(*x.shape[:2], x.shape[3]), 0.0
    before = _shifted(h, start, scan["reverse"], scan["cu_seqlens"])
    for _ in range(max_iterations if h.numel() else 0):
        new = _iteration(x, weight, start, before, cell, scan)[0].nan_to_num_(0, bound, -bound).clamp_(-bound, bound)
        moved, h = float((new - h).abs().max()), new
        before = _shifted(h, start, scan["reverse"], scan["cu_seqlens"])
        if moved <= tolerance:
            return before
    if h.numel():
        raise RuntimeError(
            f"newton_rnn did not converge in max_iterations={max_iterations}: states still move by {moved:.1e}, tolerance {tolerance:.1e}. "
            "Recurrent weights this large need more iterations, or nonlinear_rnn, which goes step by step"
        )
    return before


def _iteration(x: Tensor, weight: Tensor, start: Tensor, before: Tensor, cell: str, scan: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """h_t = f_t(before_t) + f'_t(before_t) (h_{t-1} - before_t) and the last state; the slopes are constants to the gradient."""
    value, slope = (_elman if cell == "elman" else _gru)(x, weight, before)
    slope = slope.detach()
    log_slope = slope.abs().clamp_(min=torch.finfo(slope.dtype).tiny).log_()
    h, final = diagonal_scan(
        value - slope * before, log_slope, start, sign=1 - 2 * (slope < 0).to(x.dtype), return_final_state=True, **scan
    )
    return h, final


def _elman(x: Tensor, weight: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """f(before) and its derivative, elementwise."""
    h = torch.addcmul(x[:, :, 0], weight[0], before).tanh()
    return h, (1 - h * h) * weight[0]


def _gru(x: Tensor, weight: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    r, z = (x[:, :, :2] + weight[:2] * before.unsqueeze(2)).sigmoid().unbind(2)
    recurrent = weight[2] * before
    n = torch.addcmul(x[:, :, 2], r, recurrent).tanh()
    slope_n = (1 - n * n) * r * (weight[2] + recurrent * (1 - r) * weight[0])
    return torch.lerp(n, before, z), z + (1 - z) * (slope_n + (before - n) * z * weight[1])


def _shifted(h: Tensor, start: Tensor, reverse: bool, cu_seqlens: Tensor | None) -> Tensor:
    """h_{t-1} for every t (h_{t+1} in reverse), the initial state where a sequence starts. h: [B, T, D]; start: [S, D]."""
    if cu_seqlens is None:
        rows = [h[:, 1:], start.unsqueeze(1)] if reverse else [start.unsqueeze(1), h[:, :-1]]
        return torch.cat(rows, 1) if h.shape[1] else h
    length = h.shape[1]
    sequence, steps = sequence_of(cu_seqlens, length), torch.arange(length, device=h.device)
    first = steps == (cu_seqlens[sequence + 1] - 1 if reverse else cu_seqlens[sequence])
    return torch.where(first.unsqueeze(-1), start[sequence], h.roll(-1 if reverse else 1, 1))


GATES = {"elman": 1, "gru": 3}  # of x and weight, by cell
