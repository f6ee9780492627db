"""Recurrences that are a diagonal scan of computed inputs and decays: minGRU, minLSTM, Longhorn, LRU, S4D.

All take the options of :func:`visionrnn.kernels.diagonal_scan`: ``return_final_state``, ``reverse``, ``cu_seqlens``, ``max_seqlen``,
``backend``, and ``index``, ``direction``, ``merge``, where each of two directions of inputs [2, B, ...] has its own of all else too; they
run one after the other. HGRN's real form needs nothing around it: it is ``diagonal_scan(x, log_decay)``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ordered import ordered
from . import diagonal_scan


@ordered("diagonal", "diagonal_scan", timed=("hidden", "gate"), rank=3, fused=False)
def min_gru(
    hidden: Tensor,
    gate: Tensor,
    initial_state: Tensor | None = None,
    *,
    positive: bool = True,
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    index: Tensor | None = None,
    direction: str | None = None,
    merge: str = "sum",
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """minGRU (Feng et al. 2024): z = σ(gate); h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ g(hidden_t), g as in :func:`positive_values`.

    hidden, gate: [B, T, D], before any activation; initial_state: [B, D], used as it is. ``positive=False``: g is the identity.
    Returns h [B, T, D], and with ``return_final_state`` also the state [B, D].
    """
    _same_shape("gate", gate, hidden)
    hidden, gate = _wide(hidden), _wide(gate)
    x = gate.sigmoid() * (positive_values(hidden) if positive else hidden)
    return diagonal_scan(
        x, F.logsigmoid(-gate), initial_state, return_final_state=return_final_state,
        reverse=reverse, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=backend,
    )  # fmt: skip


@ordered("diagonal", "diagonal_scan", timed=("hidden", "forget_gate", "input_gate"), rank=3, fused=False)
def min_lstm(
    hidden: Tensor,
    forget_gate: Tensor,
    input_gate: Tensor,
    initial_state: Tensor | None = None,
    *,
    positive: bool = True,
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    index: Tensor | None = None,
    direction: str | None = None,
    merge: str = "sum",
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """minLSTM (Feng et al. 2024): h_t = f' ⊙ h_{t-1} + i' ⊙ g(hidden_t) with f' = f / (f + i), i' = i / (f + i).

    f = σ(forget_gate), i = σ(input_gate). hidden, forget_gate, input_gate: [B, T, D], before any activation; initial_state: [B, D],
    used as it is. ``positive=False``: g is the identity. Returns h [B, T, D], and with ``return_final_state`` also the state [B, D].
    """
    _same_shape("forget_gate", forget_gate, hidden)
    _same_shape("input_gate", input_gate, hidden)
    hidden, forget_gate, input_gate = _wide(hidden), _wide(forget_gate), _wide(input_gate)
    odds = F.logsigmoid(forget_gate) - F.logsigmoid(input_gate)  # log f / i
    x = (-odds).sigmoid() * (positive_values(hidden) if positive else hidden)
    return diagonal_scan(
        x, F.logsigmoid(odds), initial_state, return_final_state=return_final_state,
        reverse=reverse, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=backend,
    )  # fmt: skip


def positive_values(x: Tensor) -> Tensor:
    """g(x) = x + ½ where x ≥ 0, σ(x) elsewhere: positive, continuous, with a continuous slope of at most 1 on either side."""
    return torch.where(x >= 0, x + 0.5, x.sigmoid())


@ordered("diagonal", "diagonal_scan", timed=("x", "beta", "k", "q", "z"), rank=3, constants=("D",), fused=False)
def longhorn(
    x: Tensor,
    beta: Tensor,
    k: Tensor,
    q: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    index: Tensor | None = None,
    direction: str | None = None,
    merge: str = "sum",
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Longhorn (Liu et al. 2024), the closed-form online associative memory with a diagonal transition.

        Δ_t = β_t / (1 + β_t k_tᵀk_t) ,   S_t = (1 - Δ_t (k_t²)ᵀ) ⊙ S_{t-1} + (Δ_t ⊙ x_t) k_tᵀ
        o_t = (S_t q_t + D ⊙ x_t) ⊙ SiLU(z_t)

    x, beta, z: [B, T, D], beta in (0, 1) (a sigmoid's output); k, q: [B, T, N]; D: [D]; initial_state: [B, D, N], value × key.
    Returns o [B, T, D], and with ``return_final_state`` also the state [B, D, N]. All states are formed: T · D · N numbers.
    """
    _same_shape("beta", beta, x)
    _same_shape("q", q, k)
    dtype = x.dtype
    x, beta, k, q = _wide(x), _wide(beta), _wide(k), _wide(q)
    square = k * k
    norm = square.sum(-1, keepdim=True)
    whole = 1 + beta * norm  # [B, T, D]
    # 1 - Δ k_n² without a difference of near numbers: never 0, so that its logarithm has a gradient
    decay = (1 + beta[..., None] * (norm - square).clamp(min=0)[..., None, :]) / whole[..., None]  # [B, T, D, N]
    states, final = diagonal_scan(
        (beta / whole * x)[..., None] * k[..., None, :], decay.log(), initial_state, return_final_state=True,
        reverse=reverse, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=backend,
    )  # fmt: skip
    out = (states @ q[..., None]).squeeze(-1)
    out = out if D is None else out + D * x
    out = (out if z is None else out * F.silu(_wide(z))).to(dtype)
    return (out, final) if return_final_state else out


@ordered("diagonal", "diagonal_scan", timed=("u",), rank=3, constants=("log_decay", "B", "C", "D"), fused=False)
def lru(
    u: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    index: Tensor | None = None,
    direction: str | None = None,
    merge: str = "sum",
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Linear recurrent unit (Orvieto et al. 2023): h_t = exp(log_decay) ⊙ h_{t-1} + B u_t, y_t = Re(C h_t) + D ⊙ u_t.

    u: [B, T, D]; log_decay: [N] complex, -exp(ν) + i exp(θ) in the paper's parameters; B: [N, D] complex, with the normalisation γ
    multiplied in; C: [D, N] complex; D: [D] or None; initial_state: [B, N] complex. Returns y [B, T, D], and with
    ``return_final_state`` also the state [B, N], complex.
    """
    channels, states = u.shape[-1], log_decay.shape[-1]
    for name, value, shape in (("B", B, (states, channels)), ("C", C, (channels, states))):
        if tuple(value.shape) != shape:
            raise ValueError(f"{name}: expected shape {list(shape)}, got {list(value.shape)}")
    dtype, u = u.dtype, _wide(u)
    h, final = diagonal_scan(
        torch.complex(F.linear(u, B.real), F.linear(u, B.imag)), log_decay, initial_state, return_final_state=True,
        reverse=reverse, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=backend,
    )  # fmt: skip
    y = F.linear(h.real, C.real) - F.linear(h.imag, C.imag)
    y = (y if D is None else y + D * u).to(dtype)
    return (y, final) if return_final_state else y


@ordered("diagonal", "diagonal_scan", timed=("u",), rank=3, constants=("dt", "A", "C", "D"), fused=False)
def s4d(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    index: Tensor | None = None,
    direction: str | None = None,
    merge: str = "sum",
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """S4D (Gu et al. 2022), a diagonal state-space model held for a step of ``dt`` (zero-order hold), N complex states per channel.

        h_t = exp(dt A) ⊙ h_{t-1} + (exp(dt A) - 1) / A ⊙ u_t ,   y_t = 2 Re Σ_n C_n h_{t,n} + D ⊙ u_t

    u: [B, T, D]; dt: [D], positive; A, C: [D, N] complex, A with a negative real part; D: [D] or None; initial_state: [B, D, N] complex.
    Returns y [B, T, D], and with ``return_final_state`` also the state [B, D, N], complex. All states are formed: T · D · N numbers.
    """
    channels = u.shape[-1]
    if A.dim() != 2 or A.shape[0] != channels or C.shape != A.shape or dt.shape != (channels,):
        raise ValueError(
            f"dt, A, C: expected [{channels}], [{channels}, N], [{channels}, N], got {list(dt.shape)}, {list(A.shape)}, {list(C.shape)}"
        )
    dtype, u = u.dtype, _wide(u)
    log_decay = dt[:, None] * A
    h, final = diagonal_scan(
        u[..., None] * (torch.expm1(log_decay) / A), log_decay, initial_state, return_final_state=True,
        reverse=reverse, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, backend=backend,
    )  # fmt: skip
    y = 2 * ((h.real * C.real).sum(-1) - (h.imag * C.imag).sum(-1))
    y = (y if D is None else y + D * u).to(dtype)
    return (y, final) if return_final_state else y


def _wide(value: Tensor) -> Tensor:
    """Half types as float32."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _same_shape(name: str, value: Tensor, like: Tensor) -> None:
    if value.shape != like.shape:
        raise ValueError(f"{name}: expected shape {list(like.shape)}, got {list(value.shape)}")
