"""Running maxima that keep exponentials in range: constants in every derivative, since outputs do not depend on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..packing import sequence_of
from ..recurrence import Recurrence


def running_maximum(x: Tensor, log_decay: Tensor, first: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """m_t = max(log_decay_t + m_{t-1}, x_t) from m_0 = ``first``.

    x, log_decay: [B, T, C]; first: [B, C] (one row per sequence). Returns m and m_{t-1}, both [B, T, C], and the last m [B, C].
    Only m_0, where it stands in m_{t-1}, carries a gradient.
    """
    call = Recurrence("gated_linear", "max_plus_scan", "x", x, **options)
    call.timed("x", x.detach(), tuple(x.shape[2:]), blank=-torch.inf)
    call.timed("log_decay", log_decay.detach(), tuple(x.shape[2:]), blank=0)
    call.state("state", first.detach(), tuple(x.shape[2:]))
    m, last = call.run()
    return m, previous(m, first, options["cu_seqlens"], options["reverse"]), last


def previous(m: Tensor, first: Tensor, cu_seqlens: Tensor | None, reverse: bool) -> Tensor:
    """[B, T, C] → what stands one step earlier in each sequence, with ``first`` [S, C] before its first step."""
    length = m.shape[1]
    if cu_seqlens is None:
        return torch.cat([m[:, 1:], first[:, None]], 1)[:, :length] if reverse else torch.cat([first[:, None], m[:, :-1]], 1)[:, :length]
    if length == 0:
        return m
    bounds, sequence = cu_seqlens.long(), sequence_of(cu_seqlens, length)
    starts = (bounds[sequence + 1] - 1 if reverse else bounds[sequence]) == torch.arange(length, device=m.device)
    return torch.where(starts[:, None], first.index_select(0, sequence), m[0].roll(-1 if reverse else 1, 0))[None]
