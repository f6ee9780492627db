"""The specification: one step at a time, in any floating-point type."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor


def nonlinear_rnn(
    x: Tensor, R: Tensor, bias: Tensor | None, valid: Tensor | None, state: Tensor, *, cell: str, normalizer_floor: bool
) -> tuple[Tensor, Tensor]:
    """x: [B, T, G, H, D]; R: [G, H, D_out, D_in]; bias: [G, H, D]; valid: [B, T], 0 or 1; state: [B, states, H, D].

    Returns y [B, T, H, D], final state [B, states, H, D].
    """
    steps: dict[str, Callable] = {"elman": _elman, "gru": _gru, "lstm": _lstm, "slstm": partial(_slstm, floor=normalizer_floor)}
    step = steps[cell]
    outputs = []
    for t, x_t in enumerate(x.unbind(1)):
        recurrent = torch.einsum("ghoi,bhi->bgho", R, state[:, 0])
        new = torch.stack(step(x_t, recurrent, bias, *state.unbind(1)), 1)
        state = new if valid is None else torch.where(valid[:, t, None, None, None] > 0, new, state)
        outputs.append(state[:, 0])
    return (torch.stack(outputs, 1) if outputs else x[:, :, 0].clone()), state.clone()


def _gates(x: Tensor, recurrent: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
    return (x + recurrent if bias is None else x + recurrent + bias).unbind(1)


def _elman(x: Tensor, recurrent: Tensor, bias: Tensor | None, y: Tensor) -> tuple[Tensor, ...]:
    (g,) = _gates(x, recurrent, bias)
    return (g.tanh(),)


def _gru(x: Tensor, recurrent: Tensor, bias: Tensor | None, y: Tensor) -> tuple[Tensor, ...]:
    recurrent = recurrent if bias is None else recurrent + bias[:3]
    r, z = (x[:, :2] + recurrent[:, 1:]).sigmoid().unbind(1)
    n = x[:, 2] if bias is None else x[:, 2] + bias[3]
    return (z * y + (1 - z) * (n + r * recurrent[:, 0]).tanh(),)


def _lstm(x: Tensor, recurrent: Tensor, bias: Tensor | None, y: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    i, f, z, o = _gates(x, recurrent, bias)
    c = f.sigmoid() * c + i.sigmoid() * z.tanh()
    return o.sigmoid() * c.tanh(), c


def _slstm(
    x: Tensor, recurrent: Tensor, bias: Tensor | None, y: Tensor, c: Tensor, n: Tensor, m: Tensor, floor: bool
) -> tuple[Tensor, ...]:
    i, f, z, o = _gates(x, recurrent, bias)
    old = F.logsigmoid(f) + m
    empty = n == 0
    m = torch.where(empty, i, torch.maximum(old, i))
    forget = torch.where(empty, 0, (torch.where(empty, m, old) - m).exp())
    keep = (i - m).exp()
    c, n = forget * c + keep * z.tanh(), forget * n + keep
    n = n.clamp(min=1) if floor else n
    return o.sigmoid() * c / n, c, n, m
