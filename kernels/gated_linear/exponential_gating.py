"""xLSTM's matrix memory, with exponential or sigmoid input gates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..activations import log_sigmoid
from ..diagonal import diagonal_scan
from ..ordered import Both, ordered
from ..recurrence import Recurrence
from .attention import gated_linear_attention
from .max_plus import running_maximum
from .native_mlstm import mlstm as native_mlstm

STATES = {"exp": ("C", "n", "m"), "sigmoid": ("C", "n")}


@ordered("gated_linear", "gated_linear_attention", timed=("q", "k", "v", "input_gate", "forget_gate"), rank=4)
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
    index: Tensor | None = None,
    direction: str | Both | None = None,
    merge: str = "sum",
    backend: str = "auto",
) -> Tensor | tuple[Tensor, tuple[Tensor, ...]]:
    """mLSTM (xLSTM, Beck et al. 2024); with gating="sigmoid" the form of Tiled Flash Linear Attention (Beck et al. 2025).

        m_t = max(log σ(f_t) + m_{t-1}, i_t)                                    ("exp" only; "sigmoid": e^{i - m} → σ(i), no m)
        C_t = e^{log σ(f_t) + m_{t-1} - m_t} C_{t-1} + e^{i_t - m_t} k_t v_tᵀ ,    n_t likewise with k_t in place of k_t v_tᵀ
        h_t = scale · C_tᵀ q_t / (max(|scale · n_tᵀ q_t|, e^{-m_t}) + eps)     ("sigmoid": 1 in place of e^{-m_t})

    q, k: [B, T, H, K]; v: [B, T, H, V]; input_gate i, forget_gate f: [B, T, H], before their activations. **States are key × value:**
    ``initial_state`` is (C [B, H, K, V], n [B, H, K], m [B, H]), zeros when absent; (C, n) for "sigmoid". C and n are scaled by e^{-m}.
    normalize=False, for "sigmoid" only, leaves the numerator undivided. ``scale`` is K^-0.5 when absent. Gradients are the true ones,
    through the normaliser and through m where h depends on it. Other arguments as in :func:`gated_linear_attention`; with
    inputs of their own, both directions have q, k, v [2, B, T, H, ...] and gates [2, B, T, H]. Returns h [B, T, H, V], and with
    ``return_final_state`` also the states after the last step, a tuple as ``initial_state``.
    """
    if gating not in STATES:
        raise ValueError(f"gating={gating!r}; expected one of {sorted(STATES)}")
    if gating == "exp" and not normalize:
        raise ValueError("normalize=False needs gating='sigmoid': exponential gates are only defined up to the normaliser")
    options: dict[str, Any] = dict(cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, reverse=reverse, backend=backend)
    order: dict[str, Any] = dict(index=index, direction=direction)
    call = Recurrence("gated_linear", "gated_linear_attention", "q", q, **options, **order, widths=(q.shape[-1], v.shape[-1]))
    if q.dim() != 4 or v.dim() != 4:
        raise ValueError(f"q, v: expected [B, T, H, K] and [B, T, H, V], got {list(q.shape)} and {list(v.shape)}")
    kind, (*steps, key), value = q.dtype, q.shape, v.shape[-1]
    if call.backend == "triton":
        fused = Recurrence("gated_linear", "mlstm", "q", q, **options | {"backend": "triton"}, **order)
        h, final = _fused(
            fused, {"q": q, "k": k, "v": v, "input_gate": input_gate, "forget_gate": forget_gate}, initial_state,
            scale=key**-0.5 if scale is None else scale, eps=eps, exponential=gating == "exp", divide=normalize, final=return_final_state,
        )  # fmt: skip
        return (h, final) if return_final_state else h
    q, k, v = (call.checked(name, given, (*steps, size)) for name, given, size in (("q", q, key), ("k", k, key), ("v", v, value)))
    gate, forget = (call.checked(name, given, tuple(steps)) for name, given in (("input_gate", input_gate), ("forget_gate", forget_gate)))
    if call.backend == "native":
        given = None if initial_state is None else tuple(_states(call, initial_state, _shapes(steps[-1], key, value), STATES[gating]))
        h, final = native_mlstm(
            q.contiguous(), k.contiguous(), v.contiguous(), torch.cat([gate, forget], -1), given,
            scale=key**-0.5 if scale is None else scale, eps=eps, exponential=gating == "exp", divide=normalize, final=return_final_state,
            cu_seqlens=call.boundaries(), reverse=reverse,
        )  # fmt: skip
        return (h.to(kind), final) if return_final_state else h.to(kind)
    log_forget = log_sigmoid(forget)
    states = _states(call, initial_state, _shapes(steps[-1], key, value), STATES[gating])
    if gating == "exp":
        h, final = _exponential(q, k, v, gate, log_forget, states, eps, scale, options)
    else:
        h, projected, final = _attend(q, k * gate.sigmoid()[..., None], v, log_forget, states[0], states[1], scale, options)
        h = h / (projected.abs().clamp(min=1) + eps)[..., None] if normalize else h
    return (h.to(kind), final) if return_final_state else h.to(kind)


def _fused(
    call: Recurrence, given: dict[str, Tensor], initial_state: tuple[Tensor, ...] | None, *, exponential: bool, **options: Any
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """h and the final states by the kernels that do all of it."""
    (heads, key), value, names = given["q"].shape[2:], given["v"].shape[-1], STATES["exp" if exponential else "sigmoid"]
    for name, tensor in given.items():
        call.timed(name, tensor, {"v": (heads, value), "q": (heads, key), "k": (heads, key)}.get(name, (heads,)))
    options |= dict.fromkeys("Cnm")
    if initial_state is not None:
        states = _states(call, initial_state, _shapes(heads, key, value), names)
        options |= {name: state.contiguous() for name, state in zip(names, states, strict=True)}
    h, *final = call.run(exponential=exponential, **options)
    return h, tuple(final[: len(names)])


def _attend(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, C: Tensor, n: Tensor, scale: float | None, options: dict[str, Any]
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """scale · Cᵀ q [B, T, H, V], scale · nᵀ q [B, T, H], and the final C, n: n is one more column of C, whose values are ones."""
    values, memory = torch.cat([v, torch.ones_like(v[..., :1])], -1), torch.cat([C, n[..., None]], -1)
    out, memory = gated_linear_attention(q, k, values, log_decay, memory, scale=scale, return_final_state=True, **options)
    (numerator, projected), (C, n) = (value.split([v.shape[-1], 1], -1) for value in (out, memory))
    return numerator, projected.squeeze(-1), (C.contiguous(), n.squeeze(-1).contiguous())


def _exponential(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    log_forget: Tensor,
    states: list[Tensor],
    eps: float,
    scale: float | None,
    options: dict[str, Any],
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """h and the final (C, n, m). m is taken for a constant except where it really matters: beside eps, and as a final state."""
    m, before, last = running_maximum(gate, log_forget, states[2], options)
    log_decay = log_forget + before - m
    h, projected, (C, n) = _attend(q, k * (gate - m).exp()[..., None], v, log_decay, states[0], states[1], scale, options)
    floor = torch.maximum(projected.abs(), (-m).exp())
    if torch.is_grad_enabled() and (gate.requires_grad or log_forget.requires_grad or states[2].requires_grad):
        drift, last_drift = _drift(before, gate, log_forget, states[2], options)
        bounds = options["cu_seqlens"]
        rescaled = last_drift * (q.shape[1] > 0 if bounds is None else (bounds.diff() > 0)[:, None])  # empty sequences hand states on
        C, n = C * (-rescaled).exp()[..., None, None], n * (-rescaled).exp()[..., None]
        return h / (floor + eps * drift.exp())[..., None], (C, n, last + last_drift)
    return h / (floor + eps)[..., None], (C, n, last)


def _drift(before: Tensor, gate: Tensor, log_decay: Tensor, first: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Zeros that have the gradient of m_t [B, T, H] and of the last m [B, H], which :func:`running_maximum` leaves out.

    Where the decayed maximum wins, m_t = m_{t-1} + log_decay_t, elsewhere m_t = gate_t: a linear recurrence once the winners are known.
    """
    kept = (log_decay + before >= gate).detach()
    reset = torch.where(kept, 0.0, -1000.0).to(gate.dtype)  # as a log decay
    m, last = diagonal_scan(torch.where(kept, log_decay, gate), reset, first, return_final_state=True, **options)
    return m - m.detach(), last - last.detach()


def _shapes(heads: int, key: int, value: int) -> dict[str, tuple[int, ...]]:
    return {"C": (heads, key, value), "n": (heads, key), "m": (heads,)}


def _states(call: Recurrence, given: tuple[Tensor, ...] | None, shapes: dict[str, tuple[int, ...]], names: tuple[str, ...]) -> list[Tensor]:
    """The initial states ``names``, checked; zeros when absent."""
    if given is None:
        return [call.like.new_zeros(call.sequences, *shapes[name], dtype=call.dtype) for name in names]
    if not isinstance(given, (tuple, list)) or len(given) != len(names):
        raise ValueError(f"initial_state: expected a tuple ({', '.join(names)}), got {type(given).__name__}")
    return [call.checked(f"initial_state {name}", state, (call.sequences, *shapes[name])) for name, state in zip(names, given, strict=True)]
