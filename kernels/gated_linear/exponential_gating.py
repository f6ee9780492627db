"""xLSTM's matrix memory, with exponential or sigmoid input gates."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..diagonal import diagonal_scan
from ..recurrence import Recurrence
from .attention import gated_linear_attention
from .max_plus import running_maximum

STATES = {"exp": ("C", "n", "m"), "sigmoid": ("C", "n")}


def mlstm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    input_gate: Tensor,
    forget_gate: Tensor,
    initial_state: tuple[Tensor, ...] | None = None,
    *,
    gating: str = "exp",
    normalize: bool = True,
    eps: float = 1e-6,
    scale: float | None = None,
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, tuple[Tensor, ...]]:
    """mLSTM (xLSTM, Beck et al. 2024); with gating="sigmoid" the form of Tiled Flash Linear Attention (Beck et al. 2025).

        m_t = max(log σ(f_t) + m_{t-1}, i_t)                                    ("exp" only; "sigmoid": e^{i - m} → σ(i), no m)
        C_t = e^{log σ(f_t) + m_{t-1} - m_t} C_{t-1} + e^{i_t - m_t} k_t v_tᵀ ,    n_t likewise with k_t in place of k_t v_tᵀ
        h_t = scale · C_tᵀ q_t / (max(|scale · n_tᵀ q_t|, e^{-m_t}) + eps)     ("sigmoid": 1 in place of e^{-m_t})

    q, k: [B, T, H, K]; v: [B, T, H, V]; input_gate i, forget_gate f: [B, T, H], before their activations. **States are key × value:**
    ``initial_state`` is (C [B, H, K, V], n [B, H, K], m [B, H]), zeros when absent; (C, n) for "sigmoid". C and n are scaled by e^{-m}.
    normalize=False, for "sigmoid" only, leaves the numerator undivided. ``scale`` is K^-0.5 when absent. Gradients are the true ones,
    through the normaliser and through m where h depends on it. Other arguments as in :func:`gated_linear_attention`.
    Returns h [B, T, H, V], and with ``return_final_state`` also the states after the last step, a tuple as ``initial_state``.
    """
    if gating not in STATES:
        raise ValueError(f"gating={gating!r}; expected one of {sorted(STATES)}")
    if gating == "exp" and not normalize:
        raise ValueError("normalize=False needs gating='sigmoid': exponential gates are only defined up to the normaliser")
    options: dict[str, Any] = dict(cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, reverse=reverse, backend=backend)
    call = Recurrence("gated_linear", "gated_linear_attention", "q", q, **options)
    if q.dim() != 4 or v.dim() != 4:
        raise ValueError(f"q, v: expected [B, T, H, K] and [B, T, H, V], got {list(q.shape)} and {list(v.shape)}")
    batch, length, heads, key = q.shape
    value, kind = v.shape[-1], q.dtype
    sizes = {"q": (heads, key), "k": (heads, key), "v": (heads, value), "input_gate": (heads,), "forget_gate": (heads,)}
    given = {"q": q, "k": k, "v": v, "input_gate": input_gate, "forget_gate": forget_gate}
    q, k, v, input_gate, forget_gate = (call.checked(name, given[name], (batch, length, *size)) for name, size in sizes.items())
    shapes = {"C": (heads, key, value), "n": (heads, key), "m": (heads,)}
    states = _states(call, initial_state, {name: shapes[name] for name in STATES[gating]})
    log_forget = F.logsigmoid(forget_gate)
    values, memory = torch.cat([v, torch.ones_like(v[..., :1])], -1), torch.cat([states[0], states[1][..., None]], -1)
    if gating == "exp":
        m, before, last = running_maximum(input_gate, log_forget, states[2], options)
        k, log_decay, floor = k * (input_gate - m).exp()[..., None], log_forget + before - m, (-m).exp()
    else:
        k, log_decay, floor = k * input_gate.sigmoid()[..., None], log_forget, torch.ones_like(log_forget)
    out, memory = gated_linear_attention(q, k, values, log_decay, memory, scale=scale, return_final_state=True, **options)
    h, projected = out[..., :value], out[..., value]
    final = (memory[..., :value], memory[..., value])
    if gating == "exp":
        drift, last_drift = _drift(m, before, last, input_gate, log_forget, states[2], options)
        eps = eps * drift.exp()
        final = (final[0] * (-last_drift).exp()[..., None, None], final[1] * (-last_drift).exp()[..., None], last + last_drift)
    if normalize:
        h = h / (torch.maximum(projected.abs(), floor) + eps)[..., None]
    final = tuple(state.contiguous() for state in final)
    return (h.to(kind), final) if return_final_state else h.to(kind)


def _states(call: Recurrence, given: tuple[Tensor, ...] | None, shapes: dict[str, tuple[int, ...]]) -> list[Tensor]:
    """The initial states, checked; zeros when absent."""
    if given is None:
        return [call.like.new_zeros(call.sequences, *shape, dtype=call.dtype) for shape in shapes.values()]
    if not isinstance(given, (tuple, list)) or len(given) != len(shapes):
        raise ValueError(f"initial_state: expected a tuple ({', '.join(shapes)}), got {type(given).__name__}")
    return [
        call.checked(f"initial_state {name}", state, (call.sequences, *shape))
        for state, (name, shape) in zip(given, shapes.items(), strict=True)
    ]


def _drift(
    m: Tensor, before: Tensor, last: Tensor, x: Tensor, log_decay: Tensor, first: Tensor, options: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Zeros that have the gradient of m_t [B, T, H] and of the last m [B, H], which :func:`running_maximum` leaves out.

    h depends on m through eps only, and the final C, n, m are one of many equivalent triples: their true gradients need it.
    Where the decayed maximum wins, m_t = m_{t-1} + log_decay_t; elsewhere m_t = x_t: a linear recurrence once the winners are known.
    """
    if not (torch.is_grad_enabled() and (x.requires_grad or log_decay.requires_grad or first.requires_grad)):
        return torch.zeros_like(m), torch.zeros_like(last)
    kept = (log_decay + before >= x).detach()
    follow, end = diagonal_scan(
        torch.where(kept, log_decay, x), torch.where(kept, 0.0, -1000.0).to(m.dtype), first, return_final_state=True, **options
    )
    return follow - follow.detach(), end - end.detach()
