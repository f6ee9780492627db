"""Nonlinear recurrences with a matrix per head: y_t = cell(x_t, R y_{t-1}): LSTM, GRU, Elman, sLSTM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..dispatch import choose
from ..ordered import ordered
from ..recurrence import MAX_WIDTH, Recurrence
from .cells import CELLS
from .newton import newton_rnn

__all__ = ["bidirectional_nonlinear_rnn", "newton_rnn", "nonlinear_rnn"]


@ordered("nonlinear", "nonlinear_rnn", timed=("x",), rank=5, constants=("R", "bias"))
def nonlinear_rnn(
    x: Tensor,
    R: Tensor,
    bias: Tensor | None = None,
    initial_state: Tensor | Sequence[Tensor] | None = None,
    *,
    cell: str = "lstm",
    normalizer_floor: bool = True,
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    index: Tensor | None = None,
    direction: str | None = None,
    merge: str = "sum",
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor | tuple[Tensor, ...]]:
    """Per-head recurrent network in the form of FlashRNN (Poeppel et al. 2024); x is already projected.

    With g = x_t + R y_{t-1} + bias, gate by gate, σ the logistic function:

        elman   y = tanh(g)
        lstm    gates i, f, z, o:  c_t = σ(f) c_{t-1} + σ(i) tanh(z) ,  y = σ(o) tanh(c_t)
        gru     x gates r, z, n; R gates n, r, z; bias n (recurrent), r, z, n (input):
                y = σ(z) y_{t-1} + (1 - σ(z)) tanh(x_n + bias_n' + σ(r) (R_n y_{t-1} + bias_n))
        slstm   gates i, f, z, o (xLSTM; Beck et al. 2024):  m_t = max(log σ(f) + m_{t-1}, i)
                c_t = e^{log σ(f) + m_{t-1} - m_t} c_{t-1} + e^{i - m_t} tanh(z) ,  n_t likewise with 1 for tanh(z) ,  y = σ(o) c_t / n_t

    x: [B, T, G, H, D]; R: [G, H, D_out, D_in]; bias: [G, H, D]; G is 1 for elman, 4 for lstm and slstm, 3 for gru, whose bias has 4.
    States, each [B, H, D] (or [S, H, D] with cu_seqlens), zero when absent: ``y`` for elman and gru, ``(y, c)`` for lstm,
    ``(y, c, n, m)`` for slstm. Returns y [B, T, H, D], and with ``return_final_state`` also the states after the last step.

    sLSTM, ``normalizer_floor``: n_t is at least 1, as in FlashRNN; False: not, as in xLSTM's own cell. The two differ only when a given
    n is below 1. Where n_{t-1} is 0 nothing has been stored: m_t = i and the old c counts for nothing. This is decided element by
    element (the published cells look whether all of n is 0, which from a zero state is the same), so that sequences never see each
    other. Other arguments as in :func:`diagonal_scan`; with ``direction`` "both" and x [2, B, T, G, H, D], R and bias are [2, ...] too.
    Raises ValueError for wrong shapes, dtypes, devices, cells and back ends, and for D above 256 with ``backend="triton"``.
    """
    if cell not in CELLS:
        raise ValueError(f"cell={cell!r}; expected one of {sorted(CELLS)}")
    kind = CELLS[cell]
    if x.dim() != 5 or x.shape[2] != kind.inputs:
        raise ValueError(f"x: expected [B, T, {kind.inputs}, H, D] for cell={cell!r}, got {list(x.shape)}")
    heads, width = x.shape[3:]
    call = Recurrence(
        "nonlinear", "nonlinear_rnn", "x", x, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, reverse=reverse, backend=backend,
        index=index, direction=direction, widths=(width,),
    )  # fmt: skip
    call.timed("x", x, (kind.inputs, heads, width), blank=0)
    call.constant("R", R, (kind.matrices, heads, width, width))
    call.constant("bias", bias, (kind.biases, heads, width))
    padded = cu_seqlens is not None and call.backend not in (
        "native",
        "triton",
    )  # only then are there steps that must leave the state alone
    call.timed("valid", x.new_ones(x.shape[:2]) if padded else None, (), blank=0)
    call.state("state", _stacked(call, initial_state, kind.states, (heads, width)), (len(kind.states), heads, width))
    y, final = call.run(cell=cell, normalizer_floor=normalizer_floor)
    if not return_final_state:
        return y
    states = final.unbind(1)
    return y, states[0] if len(states) == 1 else states


def bidirectional_nonlinear_rnn(
    x: Tensor,
    R: Tensor,
    bias: Tensor | None = None,
    initial_state: Sequence[Tensor | Sequence[Tensor]] | None = None,
    *,
    cell: str = "lstm",
    normalizer_floor: bool = True,
    return_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, tuple]:
    """:func:`nonlinear_rnn` ahead and in reverse, each direction with its own x, R, bias and states; outputs side by side. On a GPU one
    launch runs both.

    x: [2, B, T, G, H, D]; R: [2, G, H, D_out, D_in]; bias: [2, G, H, D]; initial_state: a pair of what :func:`nonlinear_rnn` takes.
    Index 0 runs ahead. Returns y [B, T, 2 H, D], the heads that run ahead first, and with ``return_final_state`` the pair of states:
    ahead after the last step, in reverse after the first. Raises ValueError as :func:`nonlinear_rnn`.
    """
    for name, value in (("x", x), ("R", R), *((("bias", bias),) if bias is not None else ())):
        if len(value) != 2:
            raise ValueError(f"{name}: expected two directions [2, ...], got {list(value.shape)}")
    given = (None, None) if initial_state is None else tuple(initial_state)
    options: dict[str, Any] = dict(
        cell=cell, normalizer_floor=normalizer_floor, return_final_state=True, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=backend
    )
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    narrow = backend == "triton" or x.shape[-1] <= MAX_WIDTH  # wider ones run where "auto" finds a place for each direction
    if narrow and choose("nonlinear", "nonlinear_rnn", backend, dtype, x.device.type) == "triton":
        y, final = nonlinear_rnn(x, R, bias, _paired(given), direction="both", merge="stack", **options)
        outputs = list(y.unbind(0))
        states = list(final.unbind(0)) if isinstance(final, Tensor) else list(zip(*(state.unbind(0) for state in final), strict=True))
    else:
        runs = [nonlinear_rnn(x[i], R[i], None if bias is None else bias[i], given[i], reverse=i == 1, **options) for i in range(2)]
        outputs, states = [list(values) for values in zip(*runs, strict=True)]
    both = torch.cat(outputs, 2)
    return (both, tuple(states)) if return_final_state else both


def _paired(given: tuple) -> Tensor | tuple[Tensor, ...] | None:
    """The states of two directions, each a tensor, a tuple or None, as [2, S, H, D] each."""
    if given[0] is None and given[1] is None:
        return None
    known = [(value,) if isinstance(value, Tensor) else value for value in given]
    ahead, back = (value if value is not None else [torch.zeros_like(state) for state in other] for value, other in (known, known[::-1]))
    states = tuple(torch.stack(values) for values in zip(ahead, back, strict=True))
    return states[0] if len(states) == 1 else states


def _stacked(call: Recurrence, given: Tensor | Sequence[Tensor] | None, names: tuple[str, ...], shape: tuple[int, ...]) -> Tensor | None:
    """[B, states, H, D] from a tuple of states, each checked under its own name."""
    if given is None:
        return None
    values = (given,) if isinstance(given, Tensor) else tuple(given)
    if len(values) != len(names):
        raise ValueError(f"initial_state: expected {len(names)} tensors ({', '.join(names)}), got {len(values)}")
    rows = (call.sequences, *shape)
    return torch.stack([call.checked(f"initial_state {name}", value, rows) for name, value in zip(names, values, strict=True)], 1)
